"""Everything on disk: the home folder, downloads, pretrained teachers, runs."""
