"""Export formats for trained networks, one file each."""
