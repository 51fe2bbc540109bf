"""Trained networks as files for other programs, one format a file."""
