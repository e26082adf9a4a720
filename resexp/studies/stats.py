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


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean of the differences pair by pair, with Student's 95 % interval; without one for a single pair.

    For two sides of which each pair shares a source of chance: runs with one seed see their images in one order.
    """
    found = summarize([one - two for one, two in zip(first, second, strict=True)])
    return Difference(found.mean, found.low, found.high)


MOST_SHARE = 100.0  # an interval that goes further has no end


def share(worst: Sequence[float], middle: Sequence[float], best: Sequence[float]) -> Difference:
    """Which share of the way from the mean of ``worst`` to that of ``best`` lies behind the mean of ``middle``.

    The interval holds every share s that the three sides' spread allows: those for which the mean of ``middle`` does
    not differ from (1 - s) worst + s best by Welch's test at 5 % (Fieller 1954, with unequal spread). It is endless if
    the same test does not tell the two ends apart, and there is none if a side has one value.

    :raises ValueError: for an empty side, or if the two ends have one mean.
    """
    from scipy.optimize import brentq

    sides = [summarize(side) for side in (worst, middle, best)]
    gap = sides[0].mean - sides[2].mean
    if gap == 0:
        raise ValueError("there is no gap to share")
    mean = (sides[0].mean - sides[1].mean) / gap
    if min(side.count for side in sides) < 2:
        return Difference(mean)
    ends = welch(worst, best)
    if ends.low <= 0 <= ends.high:
        return Difference(mean, -math.inf, math.inf)

    def beyond(s: float) -> float:
        """How far the difference at s is beyond what Welch's test allows."""
        weights = (1 - s, -1.0, s)
        parts = [w**2 * side.std**2 / side.count for w, side in zip(weights, sides, strict=True)]
        off, total = abs((s - mean) * gap), math.fsum(parts)
        if total == 0:
            return off
        freedom = total**2 / math.fsum(part**2 / (side.count - 1) for part, side in zip(parts, sides, strict=True))
        return off - _quantile(freedom) * math.sqrt(total)

    if beyond(mean) >= 0:  # nothing spreads there
        return Difference(mean, mean, mean)

    def end(direction: int) -> float:
        step = 0.01
        while beyond(mean + direction * step) < 0:
            if step > MOST_SHARE:
                return direction * math.inf
            step *= 1.1
        return float(brentq(beyond, mean, mean + direction * step))

    return Difference(mean, end(-1), end(1))


POWER = 0.8  # the chance to decide a claim that is meant by "needed"
LEAST_SEEDS = 3  # two values say next to nothing about their spread


def seeds_needed(
    first: Sequence[float],
    second: Sequence[float],
    margins: Sequence[float],
    *,
    power: float = POWER,
    most: int = 1000,
) -> int | None:
    """So many seeds on each side give Welch's interval the chance ``power`` to stay clear of all bounds.

    :param margins: how far the true difference is from each bound.
    :return: None if ``most`` are too few, or if a side has fewer than ``LEAST_SEEDS`` values to judge the spread by.
    """
    if min(len(first), len(second)) < LEAST_SEEDS or not all(margin > 0 for margin in margins):
        return None
    variances = [summarize(side).std ** 2 for side in (first, second)]
    low, high = 2, most
    if _power(variances, high, margins) < power:
        return None
    while low < high:  # the power grows with the number of seeds
        middle = (low + high) // 2
        low, high = (low, middle) if _power(variances, middle, margins) >= power else (middle + 1, high)
    return low


def _power(variances: Sequence[float], count: int, margins: Sequence[float]) -> float:
    """The chance that the interval of ``count`` values a side reaches none of the bounds that are ``margins`` away.

    With two bounds this is a lower limit (Bonferroni), and close to the chance where that is large.
    """
    from scipy.special import nctdtr

    error, freedom = _welch_error(variances[0], count, variances[1], count)
    if error == 0:
        return 1.0
    return max(0.0, 1 - math.fsum(float(nctdtr(freedom, margin / error, _quantile(freedom))) for margin in margins))


def _half_width(variance: float, count: int, other_variance: float, other_count: int) -> float:
    error, freedom = _welch_error(variance, count, other_variance, other_count)
    return _quantile(freedom) * error if error else 0.0


def _welch_error(variance: float, count: int, other_variance: float, other_count: int) -> tuple[float, float]:
    """The standard error of a difference of means, and its degrees of freedom by Welch and Satterthwaite."""
    own, other = variance / count, other_variance / other_count
    if own + other == 0:
        return 0.0, math.inf
    freedom = (own + other) ** 2 / (own**2 / (count - 1) + other**2 / (other_count - 1))
    return math.sqrt(own + other), freedom


def _quantile(freedom: float) -> float:
    """Student's t, of which the middle 95 % lie between its negative and itself."""
    from scipy.special import stdtrit  # takes a while to import, and most runs have one seed

    return float(stdtrit(freedom, 0.975))
