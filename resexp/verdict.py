"""Claims against measurements: the effect over seeds, its 95 % interval, and the verdict."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resexp import catalog
from resexp.config import Claim, Study
from resexp.published import published_pair, spread
from resexp.stats import Difference, seeds_needed, welch
from resexp.study import Group, final_error, matches

HOLDS, FAILS, UNDECIDED, OPEN = "holds", "does NOT hold", "undecided", "open"
AS_CLAIMED, AGAINST = "direction only", "direction only, AGAINST"  # one seed on a side has no interval


@dataclass(frozen=True)
class Comparison:
    """The two sides of a claim in one setting: the numbers of the runs, one a seed, and their difference in points."""

    setting: str
    seeds: tuple[int, ...]
    net: tuple[float, ...]
    minus: tuple[float, ...]
    effect: Difference


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured, and what follows from it.

    :param word: holds or does NOT hold if the interval lies inside the claim's bounds, or outside; undecided
        if it reaches to one; direction only for one seed on a side; open while a side has no run.
    :param needed: seeds on each side that would decide an undecided claim at the spread seen; None: more than 1,000.
    """

    claim: Claim
    word: str
    comparisons: tuple[Comparison, ...] = ()
    needed: int | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for one in self.comparisons for seed in one.seeds}))

    @property
    def effects(self) -> tuple[float, ...]:
        """The difference of the means, one a setting."""
        return tuple(one.effect.mean for one in self.comparisons)


def judge(claims: Sequence[Claim], groups: Sequence[Group]) -> list[Verdict]:
    """A verdict for each claim; where its words name several settings, the worst of them."""
    return [_judge(claim, groups) for claim in claims]


def _judge(claim: Claim, groups: Sequence[Group]) -> Verdict:
    sides = [[group for group in groups if matches(group, words)] for words in (claim.net, claim.minus)]
    varied = {key for side in sides for key in _varied(side)}
    net, minus = (_by_setting(side, varied, claim.metric) for side in sides)
    found = []
    for setting in sorted(net.keys() & minus.keys()):
        one, two = (tuple(value for _, value in sorted(side[setting].items())) for side in (net, minus))
        seeds = tuple(sorted(net[setting].keys() | minus[setting].keys()))
        found.append(Comparison(setting, seeds, one, two, welch(one, two)))
    words = [_word(claim, one.effect) for one in found]
    word = next((word for word in (FAILS, AGAINST, UNDECIDED, AS_CLAIMED, HOLDS) if word in words), OPEN)
    needed = [_needed(claim, one) for one, its in zip(found, words, strict=True) if its == UNDECIDED]
    most = None if None in needed else max((n for n in needed if n is not None), default=None)
    return Verdict(claim, word, tuple(found), most)


def _bounds(claim: Claim) -> tuple[float, float]:
    return (
        -math.inf if claim.at_least is None else claim.at_least,
        math.inf if claim.at_most is None else claim.at_most,
    )


def _word(claim: Claim, effect: Difference) -> str:
    low, high = _bounds(claim)
    if not effect.has_interval:
        return AS_CLAIMED if low < effect.mean < high else AGAINST
    if low < effect.low and effect.high < high:
        return HOLDS
    return FAILS if effect.high < low or effect.low > high else UNDECIDED


def _needed(claim: Claim, one: Comparison) -> int | None:
    """Until the interval around the effect no longer reaches the nearest bound."""
    margin = min(abs(one.effect.mean - bound) for bound in _bounds(claim))
    return seeds_needed(one.net, one.minus, margin)


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


@dataclass(frozen=True)
class PublishedDifference:
    """What a paper has for a claim's difference, in points, and where; ``metric`` may be another than the claim's."""

    points: float
    metric: str
    source: str


def published_difference(claim: Claim, study: Study) -> PublishedDifference | None:
    """The study's own numbers, which are test errors, or those of one source that has both nets; None if none has."""
    own = [_own_number(words, study) for words in (claim.net, claim.minus)]
    if own[0] is not None and own[1] is not None:
        return PublishedDifference(own[0] - own[1], "test_error", study.source)
    metric = "train_error" if claim.metric == "train_error" else "test_error"
    known = published_pair(claim.net, claim.minus, metric)
    return PublishedDifference(known[0] - known[1], metric, known[2]) if known else None


def _own_number(words: str, study: Study) -> float | None:
    """The study's published number for exactly these settings, or for some of them."""
    net, *settings = words.split()
    keys = [key for key in study.published if key.split()[0] == net and set(key.split()[1:]) <= set(settings)]
    try:
        return float(study.published[max(keys, key=len)]) if keys else None
    except ValueError:  # "> 20"
        return None


VERDICT_COLUMNS = ("verdict", "claim", "difference (95 % interval)", "asked", "published", "seeds")


def verdict_rows(verdicts: Sequence[Verdict], study: Study) -> list[list[str]]:
    """The verdicts as words, for ``VERDICT_COLUMNS``; differences in points, and sources other than the study's."""
    rows = []
    for verdict in verdicts:
        claim, known = verdict.claim, published_difference(verdict.claim, study)
        source = f"\n{known.source}" if known and known.source != study.source else ""
        seeds = ",".join(map(str, verdict.seeds)) or "-"
        if verdict.word == UNDECIDED:
            seeds += f"; {verdict.needed or 'over 1,000'} needed"
        rows.append(
            [
                verdict.word,
                f"{claim.text}\n{claim.metric.replace('_', ' ')}: {claim.net} - {claim.minus}",
                "\n".join(_effect_words(one) for one in verdict.comparisons) or "-",
                _asked_words(claim),
                _published_words(known, claim) + source,
                seeds,
            ]
        )
    return rows


def _effect_words(one: Comparison) -> str:
    effect = one.effect
    interval = f" ({effect.low:.2f} to {effect.high:.2f})" if effect.has_interval else ""
    return f"{one.setting} {effect.mean:+.2f}{interval}".strip()


def _asked_words(claim: Claim) -> str:
    if claim.at_least is None:
        return f"at most {claim.at_most:g}"
    return f"at least {claim.at_least:g}" if claim.at_most is None else f"{claim.at_least:g} to {claim.at_most:g}"


def _published_words(known: PublishedDifference | None, claim: Claim) -> str:
    if known is None:
        return "-"
    other = known.metric == "test_error" and claim.metric in ("train_error", "val_error")
    return f"{known.points:+.2f}" + (" (test error)" if other else "")


def verdict_data(study: Study, verdicts: Sequence[Verdict], *, reference: bool) -> list[dict[str, Any]]:
    """The same for machines; ``reference`` says whose runs they are."""
    found = []
    for verdict in verdicts:
        claim, known = verdict.claim, published_difference(verdict.claim, study)
        comparisons = [
            {
                "setting": one.setting,
                "seeds": one.seeds,
                "net": one.net,
                "minus": one.minus,
                "effect": one.effect.mean,
                "interval": [one.effect.low, one.effect.high] if one.effect.has_interval else None,
            }
            for one in verdict.comparisons
        ]
        found.append(
            {
                "study": study.name,
                "reference": reference,
                "claim": claim.text,
                "metric": claim.metric,
                "net": claim.net,
                "minus": claim.minus,
                "at_least": claim.at_least,
                "at_most": claim.at_most,
                "verdict": verdict.word,
                "seeds_needed": verdict.needed,
                "comparisons": comparisons,
                "published": dataclasses.asdict(known) if known else None,
            }
        )
    return found


DISTANCE_COLUMNS = ("net", "measured", "published mean", "distance", "source")


def distance_rows(groups: Sequence[Group]) -> list[list[str]]:
    """How far test errors are from published means, in published standard deviations.

    Only of the papers' nets on their data set, trained for as long, where a deviation is published.
    """
    rows = []
    for group in groups:
        config = group.runs[0].config
        known = spread(group.net)
        error = group.error("test_error")
        if known is None or error is None or not catalog.is_papers(config["model"]):
            continue
        dataset, protocol = config["dataset"], config["protocol"]
        if dataset["name"] != known.dataset or dataset.get("image_size") or protocol["steps"] < known.steps:
            continue
        if not protocol["name"].startswith(known.protocol):
            continue
        distance = (error.mean - known.mean) / known.std
        rows.append([group.name, str(error), f"{known.mean} ± {known.std}", f"{distance:+.1f}", known.source])
    return rows
