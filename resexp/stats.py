"""Means over seeds, with their spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and 95 % interval of the mean (Student's t) of ``count`` values.

    One value has neither deviation nor interval: both are NaN then.
    """

    count: int
    mean: float
    std: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.count == 1 else f"{self.mean:.2f} ± {self.std:.2f}"


def summarize(values: Sequence[float]) -> Summary:
    """Raises ValueError for no values."""
    count = len(values)
    if count == 0:
        raise ValueError("no values to summarize")
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    from scipy.stats import t  # half a second to import, and most runs have one seed

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(t.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return Summary(count, mean, std, mean - half, mean + half)
