"""Data: simulated lenses, files on disk, the prepared cache and the order of samples."""
