"""Comparing methods over seeds: groups, intervals, tests, tables."""
