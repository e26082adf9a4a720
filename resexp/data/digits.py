"""The embedded data set: scikit-learn's 8x8 handwritten digits."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from resexp.data.dataset import Dataset, canonical
from resexp.data.images import Images

TEST_SHARE = 0.2


def load_digits() -> Dataset:
    """1,438 training and 359 test images (N, 1, 8, 8) of 10 classes: of each class the first fifth is for testing."""
    table = _read_table()
    pixels = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)  # 0..16 -> 0..255, (N, 8, 8, 1)
    everything = canonical(pixels, table[:, -1])
    is_test = torch.zeros(len(everything), dtype=torch.bool)
    for label in range(10):
        members = torch.nonzero(everything.labels == label).flatten()
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    train, test = (Images(everything.images[mask], everything.labels[mask]) for mask in (~is_test, is_test))
    return Dataset(train=train, test=test, classes=tuple("0123456789"))


def _read_table() -> np.ndarray:
    """int64 (1797, 65): 64 pixels and the label. Read from scikit-learn's file: importing it takes most of a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return np.loadtxt(file, delimiter=",", dtype=np.int64)
