"""How a trained network bears images that are not as those it learned from."""
