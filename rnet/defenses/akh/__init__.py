"""AKH (QuRD, AAAI 2025): labels of the images that the victim gets wrong."""
