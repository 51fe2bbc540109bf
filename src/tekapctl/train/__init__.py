"""Building a run, training, checkpoints and evaluation."""
