"""Image augmentations, one file each."""
