"""Data sets: how images are read, held, augmented and batched."""
