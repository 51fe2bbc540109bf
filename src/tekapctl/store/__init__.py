"""Everything on disk: the home folder, runs, weights, downloads."""
