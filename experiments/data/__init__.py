"""Data sets: read, split, subsampled, relabelled, augmented and cut into batches."""
