"""Sweeps: many runs from one file, each carried out once, whatever happens on the way."""
