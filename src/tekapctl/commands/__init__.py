"""What the commands do; `cli` parses and prints."""
