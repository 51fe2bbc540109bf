"""A self-contained HTML page about finished runs."""
