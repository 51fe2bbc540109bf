"""Sweeps: every run of a file, once, on this machine or a cluster."""
