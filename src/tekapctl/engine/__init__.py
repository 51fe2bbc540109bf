"""The training engine that every command drives."""
