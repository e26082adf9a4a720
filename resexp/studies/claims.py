"""Claims judged by measurements: the effect over seeds, its 95 % interval, and the verdict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from resexp.config import Claim
from resexp.run.reader import DONE
from resexp.studies.groups import Group, best_of, final_error, guessing_error, matches
from resexp.studies.stats import POWER, Difference, paired, seeds_needed, welch


class Outcome(StrEnum):
    """What the runs say of a claim. One value on a side has no interval, and so no verdict but a direction."""

    HOLDS = "holds"
    FAILS = "does NOT hold"
    UNDECIDED = "undecided"
    OPEN = "open"
    NEITHER = "neither learns"
    AS_CLAIMED = "as claimed (one seed)"
    AGAINST = "against (one seed)"


WORST_FIRST = (Outcome.FAILS, Outcome.AGAINST, Outcome.OPEN, Outcome.UNDECIDED, Outcome.AS_CLAIMED, Outcome.HOLDS)
# What two runs of one seed must share to see the same images in the same order, cropped and mirrored alike.
SHARED_DRAWS = (
    "dataset",
    "protocol.batch_size",
    "protocol.val_size",
    "protocol.pad",
    "protocol.flip",
    "protocol.steps",
)
GUESSING = 0.95  # of the error of guessing: above it a net does no better, for all that its seeds tell


@dataclass(frozen=True)
class Comparison:
    """The two sides of a claim in one setting: the numbers of the runs, one per seed, and their difference in points.

    :param effect: with Welch's interval, which decides the verdict.
    :param pairs: with the interval over pairs of one seed, where both sides have the same seeds and see the same images
        in the same order; it stands beside the other and decides nothing.
    """

    setting: str
    seeds: tuple[int, ...]
    net: tuple[float, ...]
    minus: tuple[float, ...]
    effect: Difference
    pairs: Difference | None = None

    @property
    def spread_is_unknown(self) -> bool:
        """Of several values that are all the same, as few images make them: an interval of no width says too much."""
        return all(len(set(side)) == 1 < len(side) for side in (self.net, self.minus))


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured, and what follows from it.

    :param word: holds or does NOT hold if the interval lies inside the claim's bounds, or outside; undecided
        if it contains a bound; as claimed, or against, for one seed on a side; open while a side, or a net that the
        claim speaks of and that has begun to train, has no run that has ended; neither learns if no net of either
        side does better than guessing.
    :param needed: seeds on each side that decide an undecided claim in 80 of 100 cases, if effect and spread are those
        seen; None: more than 1,000, or too few seeds to say.
    :param even: seeds that decide it in half of the cases.
    :param groups: of both sides.
    """

    claim: Claim
    word: Outcome
    comparisons: tuple[Comparison, ...] = ()
    needed: int | None = None
    even: int | None = None
    groups: tuple[Group, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for one in self.comparisons for seed in one.seeds}))

    @property
    def effects(self) -> tuple[float, ...]:
        """The difference of the means, one per setting."""
        return tuple(one.effect.mean for one in self.comparisons)


def judge(claims: Sequence[Claim], groups: Sequence[Group]) -> list[Verdict]:
    """A verdict for each claim; where its words name several settings, the worst of them."""
    return [_judge(claim, groups) for claim in claims]


def _judge(claim: Claim, groups: Sequence[Group]) -> Verdict:
    sides = [[group for group in groups if matches(group, words)] for words in (claim.net, claim.minus)]
    if claim.best:
        return _judge_best(claim, sides)
    varied = {key for side in sides for key in _varied(side)}
    net, minus = (_by_setting(side, varied, claim.metric) for side in sides)
    found = []
    for setting in sorted(net.keys() & minus.keys()):
        one, two = (tuple(value for _, value in sorted(side[setting].items())) for side in (net, minus))
        seeds = tuple(sorted(net[setting].keys() | minus[setting].keys()))
        alike = len(seeds) > 1 and net[setting].keys() == minus[setting].keys() and _same_draws(sides)
        pairs = paired(one, two) if alike else None
        found.append(Comparison(setting, seeds, one, two, welch(one, two), pairs))
    words = [_word(claim, one) for one in found]
    undecided = [one for one, its in zip(found, words, strict=True) if its == Outcome.UNDECIDED]
    if not found or _waits(sides):
        words.append(Outcome.OPEN)
    word = next(word for word in WORST_FIRST if word in words)
    if word != Outcome.OPEN and _all_guess(sides, claim.metric):
        word = Outcome.NEITHER
    needed, even = (_most(_needed(claim, one, power) for one in undecided) for power in (POWER, 0.5))
    return Verdict(claim, word, tuple(found), needed, even, tuple(group for side in sides for group in side))


def _judge_best(claim: Claim, sides: Sequence[Sequence[Group]]) -> Verdict:
    """Each side at the setting with the lowest training error, by its own runs."""
    known = [[group for group in side if group.error("train_error") and group.error(claim.metric)] for side in sides]
    if not all(known) or _waits(sides):
        return Verdict(claim, Outcome.OPEN)
    chosen = [best_of(side, "train_error") for side in known]
    one, two = (group.values(claim.metric) for group in chosen)
    named = [
        " ".join([group.net, *sorted(_setting_words(group, side))]) for group, side in zip(chosen, sides, strict=True)
    ]
    seeds = tuple(sorted({seed for group in chosen for seed in group.seeds}))
    found = Comparison(" against ".join(named) + ":", seeds, tuple(one), tuple(two), welch(one, two))
    word = Outcome.NEITHER if _all_guess([chosen], claim.metric) else _word(claim, found)
    needed, even = (_needed(claim, found, power) if word == Outcome.UNDECIDED else None for power in (POWER, 0.5))
    return Verdict(claim, word, (found,), needed, even, tuple(chosen))


def _setting_words(group: Group, side: Sequence[Group]) -> list[str]:
    """The words of a group that others of its side do not share."""
    varied = _varied(side)
    return [word for word in group.words if word.partition("=")[0] in varied]


def _most(counts: Iterable[int | None]) -> int | None:
    """The largest; None if one is unknown, or if there are none."""
    known = list(counts)
    return None if None in known else max((n for n in known if n is not None), default=None)


def _same_draws(sides: Sequence[Sequence[Group]]) -> bool:
    """Whether all runs of one seed see the same images in the same order."""
    drawn = [
        frozenset(word for word in group.words if word.partition("=")[0].startswith(SHARED_DRAWS))
        for side in sides
        for group in side
    ]
    return len(set(drawn)) == 1


def _bounds(claim: Claim) -> tuple[float, float]:
    return (
        -math.inf if claim.at_least is None else claim.at_least,
        math.inf if claim.at_most is None else claim.at_most,
    )


def _waits(sides: Sequence[Sequence[Group]]) -> bool:
    """Whether a net of either side has begun to train, and no run of it is done."""
    return not all(any(run.status in DONE for run in group.runs) for side in sides for group in side)


def _all_guess(sides: Sequence[Sequence[Group]], metric: str) -> bool:
    """Whether no net of either side does better than guessing."""
    known = [group for side in sides for group in side if group.error(metric)]
    return bool(known) and all(group.mean(metric) > GUESSING * guessing_error(group.runs[0]) for group in known)


def _word(claim: Claim, one: Comparison) -> Outcome:
    low, high = _bounds(claim)
    effect = one.effect
    if not effect.has_interval:
        return Outcome.AS_CLAIMED if low < effect.mean < high else Outcome.AGAINST
    if one.spread_is_unknown:
        return Outcome.UNDECIDED
    if low < effect.low and effect.high < high:
        return Outcome.HOLDS
    return Outcome.FAILS if effect.high < low or effect.low > high else Outcome.UNDECIDED


def _needed(claim: Claim, one: Comparison, power: float) -> int | None:
    """Until the interval around the effect stays clear: between two bounds of both, outside them of the nearer one."""
    low, high = _bounds(claim)
    margins = sorted(abs(one.effect.mean - bound) for bound in (low, high) if math.isfinite(bound))
    return seeds_needed(one.net, one.minus, margins if low < one.effect.mean < high else margins[:1], power=power)


def _varied(groups: Sequence[Group]) -> set[str]:
    """The settings in which these groups differ."""
    shared = frozenset.intersection(*(group.words for group in groups)) if groups else frozenset()
    return {word.partition("=")[0] for group in groups for word in group.words - shared}


def _by_setting(groups: Sequence[Group], varied: set[str], metric: str) -> dict[str, dict[int, float]]:
    """For each setting that a claim leaves open, the finished runs' numbers by seed: like is compared with like."""
    found: dict[str, dict[int, float]] = {}
    for group in groups:
        setting = " ".join(sorted(word for word in group.words if word.partition("=")[0] in varied))
        for run in group.runs:
            if (value := final_error(run, metric)) is not None:
                found.setdefault(setting, {})[run.config["seed"]] = value
    return found
