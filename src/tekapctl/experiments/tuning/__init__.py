"""Hyperparameter search: successive halving over runs of a sweep, and a confirmation on fresh seeds."""
