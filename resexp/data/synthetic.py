"""Noise around one random pattern per class: for tests and for measuring speed."""

import numpy as np

from resexp.data.dataset import Dataset, canonical
from resexp.data.images import Images

CLASSES = 10


def load_synthetic(*, image_size: int = 8, examples: int = 512) -> Dataset:
    """``examples`` training images and a quarter as many test images (N, 3, side, side), always the same."""
    random = np.random.default_rng(0)
    patterns = random.uniform(64, 192, (CLASSES, image_size, image_size, 3))

    def split(count: int) -> Images:
        labels = np.arange(count) % CLASSES
        noise = random.normal(0, 24, (count, image_size, image_size, 3))
        return canonical(np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels)

    train, test = split(examples), split(max(CLASSES, examples // 4))
    return Dataset(train=train, test=test, classes=tuple(str(label) for label in range(CLASSES)))
