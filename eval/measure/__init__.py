"""What is computed: sets of images, metrics, comparisons, distances, sweeps and speed. Nothing here writes a page."""
