"""Image files: listing, decoding, streaming."""
