"""The command line: parse, build a spec, call, show."""
