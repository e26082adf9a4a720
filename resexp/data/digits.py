"""The embedded data set: scikit-learn's 8x8 handwritten digits."""

import numpy as np
import torch

from resexp.data.dataset import Dataset, Images, canonical

TEST_SHARE = 0.2


def load_digits() -> Dataset:
    """1,438 training and 359 test images (N, 1, 8, 8) of 10 classes: of each class the first fifth is for testing."""
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # 0..16 -> 0..255, (N, 8, 8, 1)
    everything = canonical(pixels, bunch.target)
    is_test = torch.zeros(len(everything), dtype=torch.bool)
    for label in range(10):
        members = torch.nonzero(everything.labels == label).flatten()
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    parts = [Images(everything.images[mask], everything.labels[mask]) for mask in (~is_test, is_test)]
    return Dataset(train=parts[0], test=parts[1], classes=tuple(str(name) for name in bunch.target_names))
