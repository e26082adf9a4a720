"""Verdicts in words: as a table beside the published differences, as data, and in a few sentences."""

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from resexp import catalog
from resexp.config import Claim, Study
from resexp.studies.alike import is_its_own
from resexp.studies.claims import Comparison, Outcome, Verdict
from resexp.studies.groups import Group
from resexp.studies.published import published_pair
from resexp.studies.stats import LEAST_SEEDS


@dataclass(frozen=True)
class PublishedDifference:
    """What a paper has for a claim's difference, in points, and where.

    :param metric: maybe another than the claim's.
    :param elsewhere: what the paper's nets were trained on, if that is not what the runs were trained on: other
        images, or more steps. Then only the directions can be compared.
    :param bound: whether the paper only says that one of the nets has more than so many percent.
    """

    points: float
    metric: str
    source: str
    elsewhere: str = ""
    bound: bool = False


def published_difference(claim: Claim, study: Study, groups: Sequence[Group] = ()) -> PublishedDifference | None:
    """The study's own numbers, which are test errors, or those of one source that has both nets; None if none has.

    :param groups: those of the claim's two sides.
    """
    net, minus = (_own_number(words, study) for words in (claim.net, claim.minus))
    runs = [group.runs[0] for group in groups]
    if net is not None and minus is not None:
        points = net.value - minus.value
        if (net.or_more and minus.or_more) or (net.or_more and points < 0) or (minus.or_more and points > 0):
            return None  # the direction is open
        own_runs = all(is_its_own(study, run.config) for run in runs)
        elsewhere = study.published_on or ("" if own_runs else f"{' and '.join(sorted(study.datasets))} by the study")
        return PublishedDifference(points, "test_error", study.source, elsewhere, net.or_more or minus.or_more)
    metric = "train_error" if claim.metric == "train_error" else "test_error"
    known = published_pair(claim.net, claim.minus, metric)
    if known is None:
        return None
    one, two, origin = known
    same = bool(runs) and all(origin.is_of(run.config, run.summary.get("classes")) for run in runs)
    source = f"{origin.source}, {origin.dataset}"
    return PublishedDifference(one - two, metric, source, "" if same else origin.training)


NUMBER = re.compile(
    r"(\d+(?:\.\d+)?)(?: \(.+\))?|(?:fails \()?> (\d+(?:\.\d+)?)\)?"
)  # 23.9, 23.9 (1x64d), > 60, fails (> 20)


class _Number(NamedTuple):
    """An error in percent, or the least that it is."""

    value: float
    or_more: bool


def _own_number(words: str, study: Study) -> _Number | None:
    """The study's published number for exactly these settings, or for some of them."""
    net, *settings = words.split()
    keys = [key for key in study.published if key.split()[0] == net and set(key.split()[1:]) <= set(settings)]
    found = NUMBER.fullmatch(study.published[max(keys, key=len)]) if keys else None
    return _Number(float(found[1] or found[2]), found[1] is None) if found else None


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
        what = _direction(known.points, claim)
    elif known.bound:
        what = f"{'more' if known.points > 0 else 'less'} than {known.points:+.2f}"
    else:
        what = f"{known.points:+.2f}"
    return f"{what} ({notes})" if notes else what


def _direction(points: float, claim: Claim) -> str:
    """Where a difference lies, without its size."""
    if claim.at_least is not None and claim.at_most is not None:
        return "within that" if claim.at_least <= points <= claim.at_most else "outside that"
    return "above 0" if points > 0 else "below 0" if points < 0 else "0"


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
        alike = len({(group.kind, group.name.removeprefix(group.net)) for group in known}) == 1
        if alike and len({group.depth for group in ends}) > 1:
            low, high = ends[0], ends[-1]
            errors = " to ".join(f"{group.mean('train_error'):.1f}" for group in (low, high))
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
            Outcome.OPEN: "wait for runs",
            Outcome.NEITHER: "say nothing, as neither net learned",
            Outcome.AS_CLAIMED: "came out as claimed (one seed)",
            Outcome.AGAINST: "came out against it (one seed)",
        }
        counts = ", ".join(f"{words.count(word)} {plural.get(word, word)}" for word in dict.fromkeys(words))
        sentences.append(f"Of {len(words)} claims, {counts}.")
    if any(word in (Outcome.AS_CLAIMED, Outcome.AGAINST) for word in words):
        sentences.append("One seed has no spread: more seeds, seed=0,1,2, give intervals and verdicts.")
    return textwrap.fill(" ".join([*sentences, study.note]).strip(), 118)
