"""What a run depends on: its settings, their files, their schema and their identity."""
