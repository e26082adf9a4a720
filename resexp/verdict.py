"""Claims against measurements: the effect over seeds, its 95 % interval, and the verdict."""

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from resexp import catalog, config
from resexp.config import Claim, Study
from resexp.published import Spread, published_pair, spread
from resexp.stats import LEAST_SEEDS, POWER, Difference, paired, seeds_needed, welch
from resexp.study import Group, final_error, matches, on_its_images


class Outcome(StrEnum):
    """What the runs say of a claim. One value on a side has no interval, and so no verdict but a direction."""

    HOLDS = "holds"
    FAILS = "does NOT hold"
    UNDECIDED = "undecided"
    OPEN = "open"
    AS_CLAIMED = "as claimed (one seed)"
    AGAINST = "against (one seed)"


WORST_FIRST = (Outcome.FAILS, Outcome.AGAINST, Outcome.UNDECIDED, Outcome.AS_CLAIMED, Outcome.HOLDS)
# What two runs of one seed must share to see the same images in the same order, cropped and mirrored alike.
SHARED_DRAWS = (
    "dataset",
    "protocol.batch_size",
    "protocol.val_size",
    "protocol.pad",
    "protocol.flip",
    "protocol.steps",
)
NO_EFFECT = ("name", "eval_every", "log_every")  # of a protocol: on what its nets learn


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


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured, and what follows from it.

    :param word: holds or does NOT hold if the interval lies inside the claim's bounds, or outside; undecided
        if it reaches to one; as claimed, or against, for one seed on a side; open while a side has no run.
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
    words = [_word(claim, one.effect) for one in found]
    word = next(
        (
            word
            for word in (Outcome.FAILS, Outcome.AGAINST, Outcome.UNDECIDED, Outcome.AS_CLAIMED, Outcome.HOLDS)
            if word in words
        ),
        Outcome.OPEN,
    )
    undecided = [one for one, its in zip(found, words, strict=True) if its == Outcome.UNDECIDED]
    needed, even = (_most(_needed(claim, one, power) for one in undecided) for power in (POWER, 0.5))
    return Verdict(claim, word, tuple(found), needed, even, tuple(group for side in sides for group in side))


def _judge_best(claim: Claim, sides: Sequence[Sequence[Group]]) -> Verdict:
    """Each side at the setting with the lowest mean training error, by its own runs."""
    known = [[group for group in side if group.error("train_error") and group.error(claim.metric)] for side in sides]
    if not all(known):
        return Verdict(claim, Outcome.OPEN)
    chosen = [min(side, key=lambda group: _mean(group, "train_error")) for side in known]
    one, two = (
        [value for run in group.runs if (value := final_error(run, claim.metric)) is not None] for group in chosen
    )
    named = [
        " ".join([group.net, *sorted(_setting_words(group, side))]) for group, side in zip(chosen, sides, strict=True)
    ]
    seeds = tuple(sorted({seed for group in chosen for seed in group.seeds}))
    found = Comparison(" against ".join(named) + ":", seeds, tuple(one), tuple(two), welch(one, two))
    word = _word(claim, found.effect)
    needed, even = (_needed(claim, found, power) if word == Outcome.UNDECIDED else None for power in (POWER, 0.5))
    return Verdict(claim, word, (found,), needed, even, tuple(chosen))


def _mean(group: Group, metric: str) -> float:
    known = group.error(metric)
    return known.mean if known else math.inf


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


def _word(claim: Claim, effect: Difference) -> Outcome:
    low, high = _bounds(claim)
    if not effect.has_interval:
        return Outcome.AS_CLAIMED if low < effect.mean < high else Outcome.AGAINST
    if low < effect.low and effect.high < high:
        return Outcome.HOLDS
    return Outcome.FAILS if effect.high < low or effect.low > high else Outcome.UNDECIDED


def _needed(claim: Claim, one: Comparison, power: float) -> int | None:
    """Until the interval around the effect stays clear of the nearest bound."""
    margin = min(abs(one.effect.mean - bound) for bound in _bounds(claim))
    return seeds_needed(one.net, one.minus, margin, power=power)


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
    """What a paper has for a claim's difference, in points, and where.

    :param metric: maybe another than the claim's.
    :param elsewhere: what the paper's nets were trained on, if that is not what the runs were trained on: other
        images, or more steps. Then only the directions can be compared.
    """

    points: float
    metric: str
    source: str
    elsewhere: str = ""


def published_difference(claim: Claim, study: Study, groups: Sequence[Group] = ()) -> PublishedDifference | None:
    """The study's own numbers, which are test errors, or those of one source that has both nets; None if none has.

    :param groups: those of the claim's two sides.
    """
    own = [_own_number(words, study) for words in (claim.net, claim.minus)]
    configs = [group.runs[0].config for group in groups]
    if own[0] is not None and own[1] is not None:
        same_images = all(on_its_images(study, run) for run in configs)
        elsewhere = study.published_on or ("" if same_images else " and ".join(sorted(study.datasets)))
        return PublishedDifference(own[0] - own[1], "test_error", study.source, elsewhere)
    metric = "train_error" if claim.metric == "train_error" else "test_error"
    known = published_pair(claim.net, claim.minus, metric)
    if known is None:
        return None
    where = known[2]
    length = f", {where.steps:,} steps" if where.steps else ""
    elsewhere = study.published_on or ("" if all(map(where.is_of, configs)) else where.dataset + length)
    return PublishedDifference(known[0] - known[1], metric, f"{where.source}, {where.dataset}", elsewhere)


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
        claim, known = verdict.claim, published_difference(verdict.claim, study, verdict.groups)
        source = f"\n{known.source}" if known and known.source != study.source else ""
        seeds = ",".join(map(str, verdict.seeds)) or "-"
        if verdict.word == Outcome.UNDECIDED:
            seeds += f"\n{_needed_words(verdict)}"
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


def _needed_words(verdict: Verdict) -> str:
    if len(verdict.seeds) < LEAST_SEEDS:
        return "too few to say how many are needed"
    if verdict.needed is None:
        return "over 1,000 needed"
    return f"{verdict.needed} needed; even odds at {verdict.even}"


def _effect_words(one: Comparison) -> str:
    effect = one.effect
    interval = f" ({effect.low:.2f} to {effect.high:.2f})" if effect.has_interval else ""
    pairs = f"\npaired: {one.pairs.low:.2f} to {one.pairs.high:.2f}" if one.pairs else ""
    return f"{one.setting} {effect.mean:+.2f}{interval}{pairs}".strip()


def _asked_words(claim: Claim) -> str:
    if claim.at_least is None:
        return f"at most {claim.at_most:g}"
    return f"at least {claim.at_least:g}" if claim.at_most is None else f"{claim.at_least:g} to {claim.at_most:g}"


def _published_words(known: PublishedDifference | None, claim: Claim) -> str:
    if known is None:
        return "-"
    other = known.metric == "test_error" and claim.metric in ("train_error", "val_error")
    notes = ", ".join(["test error"] * other + [known.elsewhere] * bool(known.elsewhere))
    if known.elsewhere:  # a number of another experiment would be read as what this one should give
        what = "above" if known.points > 0 else "below" if known.points < 0 else "equal"
    else:
        what = f"{known.points:+.2f}"
    return f"{what} ({notes})" if notes else what


def verdict_data(study: Study, verdicts: Sequence[Verdict], *, reference: bool) -> list[dict[str, Any]]:
    """The same for machines; ``reference`` says whose runs they are."""
    found = []
    for verdict in verdicts:
        claim, known = verdict.claim, published_difference(verdict.claim, study, verdict.groups)
        comparisons = [
            {
                "setting": one.setting,
                "seeds": one.seeds,
                "net": one.net,
                "minus": one.minus,
                "effect": one.effect.mean,
                "interval": [one.effect.low, one.effect.high] if one.effect.has_interval else None,
                "paired_interval": [one.pairs.low, one.pairs.high] if one.pairs else None,
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
                "seeds_for_even_odds": verdict.even,
                "comparisons": comparisons,
                "published": dataclasses.asdict(known) if known else None,
            }
        )
    return found


def in_words(study: Study, groups: Sequence[Group], verdicts: Sequence[Verdict]) -> str:
    """What was seen, in a few sentences: training errors by depth, how the claims came out, and the study's caution."""
    sentences = []
    for family in dict.fromkeys(group.family for group in groups):
        known = [group for group in groups if group.family == family and group.error("train_error")]
        ends = sorted(known, key=lambda group: group.depth)
        alike = len({group.name.removeprefix(group.net) for group in known}) == 1
        if alike and len({group.depth for group in ends}) > 1:
            low, high = ends[0], ends[-1]
            errors = " to ".join(f"{_mean(group, 'train_error'):.1f}" for group in (low, high))
            sentences.append(
                f"From {low.depth} to {high.depth} layers the training error of {catalog.FAMILIES[family].title} "
                f"went from {errors} %."
            )
    words = [verdict.word for verdict in verdicts]
    if words:
        plural = {
            Outcome.HOLDS: "hold",
            Outcome.FAILS: "do NOT hold",
            Outcome.UNDECIDED: "are undecided",
            Outcome.OPEN: "have no runs yet",
            Outcome.AS_CLAIMED: "came out as claimed (one seed)",
            Outcome.AGAINST: "came out against it (one seed)",
        }
        counts = ", ".join(f"{words.count(word)} {plural.get(word, word)}" for word in dict.fromkeys(words))
        sentences.append(f"Of {len(words)} claims, {counts}.")
    if any(word in (Outcome.AS_CLAIMED, Outcome.AGAINST) for word in words):
        sentences.append("One seed has no spread: more seeds, seed=0,1,2, give intervals and verdicts.")
    return textwrap.fill(" ".join([*sentences, study.note]).strip(), 118)


DISTANCE_COLUMNS = ("net", "measured", "published mean", "distance", "source")


def distance_rows(groups: Sequence[Group]) -> list[list[str]]:
    """How far test errors are from published means, in published standard deviations.

    Only of the papers' nets at their width, on their data set, by their protocol to the last setting that decides a
    number, and where a deviation is published.
    """
    rows = []
    for group in groups:
        known = spread(group.net)
        error = group.error("test_error")
        if known is None or error is None or not _is_the_papers_run(group.runs[0].config, known):
            continue
        distance = (error.mean - known.mean) / known.std
        rows.append([group.name, str(error), f"{known.mean} ± {known.std}", f"{distance:+.1f}", known.source])
    return rows


def _is_the_papers_run(run: dict[str, Any], known: Spread) -> bool:
    """Whether a run is of the net, the images and the protocol, whole, of a published mean."""
    if not catalog.is_papers(run["model"], with_width=True) or run["dataset"]["name"] != known.dataset:
        return False
    papers = config.load([f"dataset={known.dataset}", f"protocol={known.protocol}"])
    same_data = all(run["dataset"].get(key) == value for key, value in config.deciding(papers.dataset).items())
    protocol = {key: value for key, value in config.deciding(papers.protocol).items() if key not in NO_EFFECT}
    return same_data and all(run["protocol"].get(key, value) == value for key, value in protocol.items())
