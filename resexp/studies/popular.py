"""What articles say about residual networks: each claim with an answer, its evidence, and whether the two agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from resexp import config, explain
from resexp.golden import COUNTS
from resexp.studies import finding
from resexp.studies.claims import Outcome, judge
from resexp.studies.find import REFERENCE, StudyRuns, find_study
from resexp.studies.published import published

ANALYSIS = "analysis"  # the folder of findings, own ones and those committed with the project


class Agreement(StrEnum):
    """Whether the evidence agrees with an answer."""

    AGREES = "yes"
    DISAGREES = "NO"
    OPEN_YET = "undecided"
    MISSING = "not measured"
    UNTESTABLE = ""  # no evidence could agree or disagree


IN_FAVOUR: Mapping[str, bool] = {Outcome.HOLDS: True, Outcome.FAILS: False}  # one seed, say, decides nothing


@dataclass(frozen=True, kw_only=True)
class Popular:
    """One claim, the answer, and one of the four grounds for it.

    :param needs: of claims of the study, or rows of the analysis, by id: whether they must be true for the answer to
        stand, or false; None: they are shown and decide nothing.
    :param analysis: the name of its finding.
    :param arithmetic: an expression that must be true.
    """

    claim: str
    answer: str
    because: str
    study: str = ""
    analysis: str = ""
    needs: dict[str, bool | None] = field(default_factory=dict)
    arithmetic: str = ""
    cannot: str = ""


@dataclass(frozen=True)
class Evidence:
    """One claim or row: what it says, and whether it came out true; None if it is undecided."""

    id: str
    text: str
    true: bool | None


@dataclass(frozen=True)
class Answer:
    """A claim with what it rests on here, and whether that agrees with the answer.

    :param agrees: yes, if all that decides does as the answer needs; NO, if any does the opposite; undecided; not
        measured, if evidence is missing; or empty for what cannot be tested.
    """

    popular: Popular
    ground: str
    measured: str
    agrees: Agreement

    @property
    def stands(self) -> bool:
        """Whether nothing that was measured speaks against the answer, and nothing is missing."""
        return self.agrees not in (Agreement.DISAGREES, Agreement.MISSING)


def load_popular() -> list[Popular]:
    known = {"yes": True, "no": False, True: True, False: False, "any": None}
    return [
        Popular(**{**entry, "needs": {key: known[value] for key, value in entry.get("needs", {}).items()}})
        for entry in config.read_yaml("popular")
    ]


def answer_all(output_dir: Path, studies: Sequence[StudyRuns] = (), *, own: bool = True) -> list[Answer]:
    """The evidence looked up in the user's own results, or in the reference results where there is none.

    :param studies: those whose runs have been found already.
    :param own: False: in the reference results alone.
    """
    found = {one.study.name: one for one in studies}
    return [_answer(popular, output_dir, found, own=own) for popular in load_popular()]


def _answer(popular: Popular, output_dir: Path, found: dict[str, StudyRuns], *, own: bool) -> Answer:
    if popular.cannot:
        return Answer(popular, "cannot be tested", f"because {popular.cannot}", Agreement.UNTESTABLE)
    if popular.arithmetic:
        true = calculate(popular.arithmetic)
        words = f"{popular.arithmetic}: {'true' if true else 'FALSE'}"
        return Answer(popular, "arithmetic", words, Agreement.AGREES if true else Agreement.DISAGREES)
    if popular.study:
        ground, evidence = f"study {popular.study}", _of_study(popular, output_dir, found, own=own)
    else:
        ground, evidence = f"analysis {popular.analysis}", _of_analysis(popular, output_dir, own=own)
    return Answer(
        popular, ground, "\n".join(one.text for one in evidence) or Agreement.MISSING, compare(popular.needs, evidence)
    )


def compare(needs: Mapping[str, bool | None], evidence: Sequence[Evidence]) -> Agreement:
    """Whether the evidence is what the answer needs; rows that share an id must all be."""
    if set(needs) - {one.id for one in evidence}:
        return Agreement.MISSING
    outcomes = [
        None if one.true is None else one.true == needs[one.id] for one in evidence if needs[one.id] is not None
    ]
    if False in outcomes:
        return Agreement.DISAGREES
    return Agreement.AGREES if outcomes and None not in outcomes else Agreement.OPEN_YET


def _of_study(popular: Popular, output_dir: Path, found: dict[str, StudyRuns], *, own: bool) -> list[Evidence]:
    """The verdicts on the claims meant, by the user's own runs, or else by the reference runs."""
    evidence: list[Evidence] = []
    for only in (None, REFERENCE) if own else (REFERENCE,):
        key = f"{popular.study}, {only}" if only else popular.study
        if key not in found and (runs := find_study(popular.study, output_dir, only=only)):
            found[key] = runs
        verdicts = judge(found[key].study.claims, found[key].groups) if key in found else []
        evidence = [
            Evidence(
                verdict.claim.id,
                f"{verdict.claim.text}: {verdict.word} ({', '.join(f'{effect:+.1f}' for effect in verdict.effects)})",
                IN_FAVOUR.get(verdict.word),
            )
            for verdict in verdicts
            if verdict.word != Outcome.OPEN and verdict.claim.id in popular.needs
        ]
        if set(popular.needs) == {one.id for one in evidence}:
            break
    return evidence


def _of_analysis(popular: Popular, output_dir: Path, *, own: bool) -> list[Evidence]:
    """The rows meant, of the user's own finding, or else of the reference one."""
    evidence: list[Evidence] = []
    for folder in [output_dir / ANALYSIS] * own + [output_dir / REFERENCE / ANALYSIS]:
        found = finding.find(folder, popular.analysis)
        rows = found.rows if found else ()
        evidence = [
            Evidence(row.id, f"{row.what}: {row.measured}", row.agrees) for row in rows if row.id in popular.needs
        ]
        if set(popular.needs) == {one.id for one in evidence}:
            break
    return evidence


def calculate(expression: str) -> bool:
    """The truth of an expression of the table over the project's own counts, formulas and the published numbers."""
    known: dict[str, Callable[..., Any]] = {
        "parameters": lambda net: COUNTS[net][0],
        "macs": lambda net: COUNTS[net][1],
        "published": _number,
        "conv_weights": explain.conv_weights,
        "basic_weights": explain.basic_weights,
        "bottleneck_weights": explain.bottleneck_weights,
        "receptive_field": explain.receptive_field,
        "abs": abs,
    }
    return bool(eval(expression, {"__builtins__": {}}, known))


def _number(net: str, key: str) -> float:
    found = published(net, key)
    assert found is not None, f"nothing published for {net} {key}"
    return float(found.value)


COLUMNS = ("claim", "answer", "because", "by", "measured here", "agrees")


def answer_rows(answers: Sequence[Answer]) -> list[list[str]]:
    return [
        [a.popular.claim, a.popular.answer, a.popular.because, a.ground, a.measured, a.agrees or "-"] for a in answers
    ]
