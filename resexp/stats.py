"""Means over seeds with their spread, and differences of two means with their interval."""

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
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = _quantile(count - 1) * std / math.sqrt(count)
    return Summary(count, mean, std, mean - half, mean + half)


@dataclass(frozen=True)
class Difference:
    """Mean of one side minus mean of the other, with Welch's 95 % interval; without one if a side has one value."""

    mean: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Two sides of unequal spread (Welch 1947). Raises ValueError for an empty side."""
    one, two = summarize(first), summarize(second)
    mean = one.mean - two.mean
    if min(one.count, two.count) < 2:
        return Difference(mean)
    half = _half_width(one.std**2, one.count, two.std**2, two.count)
    return Difference(mean, mean - half, mean + half)


def seeds_needed(first: Sequence[float], second: Sequence[float], margin: float, most: int = 1000) -> int | None:
    """So many seeds on each side make the interval's half width less than ``margin``, at the spread seen so far.

    None if ``most`` do not.
    """
    variances = [summarize(side).std ** 2 for side in (first, second)]
    fits = (
        count
        for count in range(min(len(first), len(second)) + 1, most + 1)
        if _half_width(variances[0], count, variances[1], count) < margin
    )
    return next(fits, None)


def _half_width(variance: float, count: int, other_variance: float, other_count: int) -> float:
    own, other = variance / count, other_variance / other_count
    if own + other == 0:
        return 0.0
    freedom = (own + other) ** 2 / (own**2 / (count - 1) + other**2 / (other_count - 1))
    return _quantile(freedom) * math.sqrt(own + other)


def _quantile(freedom: float) -> float:
    """Student's t, of which the middle 95 % lie between its negative and itself."""
    from scipy.special import stdtrit  # takes a while to import, and most runs have one seed

    return float(stdtrit(freedom, 0.975))
