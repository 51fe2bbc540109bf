"""Accuracy under corruptions, attacks and occlusion, and transfer to other data sets."""
