"""Figures from logs alone, without training."""
