"""What articles say about residual networks, each claim with an answer and what was measured for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resexp import config, finding
from resexp.golden import COUNTS
from resexp.published import published
from resexp.study import REFERENCE, StudyRuns, find_study
from resexp.verdict import OPEN, judge

ANALYSIS = "analysis"  # the folder of findings, one's own and those committed with the project


@dataclass(frozen=True, kw_only=True)
class Popular:
    """One claim, the answer, and one of the four grounds for it.

    :param rows: how claims of the study, or rows of the analysis, begin, or a part of them.
    :param arithmetic: an expression that must be true.
    """

    claim: str
    answer: str
    because: str
    study: str = ""
    analysis: str = ""
    rows: list[str] = field(default_factory=list)
    arithmetic: str = ""
    cannot: str = ""


@dataclass(frozen=True)
class Answer:
    """A claim with what it rests on here: verdicts of a study, rows of a finding, a calculation, or why none.

    :param sound: whether the ground is there and, for a calculation, true.
    """

    popular: Popular
    ground: str
    measured: str
    sound: bool


def load_popular() -> list[Popular]:
    return [Popular(**entry) for entry in config.read_yaml("popular")]


def answer_all(output_dir: Path, studies: Sequence[StudyRuns] = ()) -> list[Answer]:
    """The grounds looked up in one's own results, or in the reference results where there are none.

    :param studies: those whose runs have been found already.
    """
    found = {one.study.name: one for one in studies}
    return [_answer(popular, output_dir, found) for popular in load_popular()]


def _answer(popular: Popular, output_dir: Path, found: dict[str, StudyRuns]) -> Answer:
    if popular.study:
        words = _study_words(popular, output_dir, found)
        missing = f"not measured: resexp study {popular.study}"
        return Answer(popular, f"study {popular.study}", "\n".join(words) or missing, bool(words))
    if popular.analysis:
        words = _analysis_words(popular, output_dir)
        missing = f"not measured: resexp analyze {popular.analysis}"
        return Answer(popular, f"analysis {popular.analysis}", "\n".join(words) or missing, bool(words))
    if popular.arithmetic:
        true = calculate(popular.arithmetic)
        return Answer(popular, "arithmetic", f"{popular.arithmetic}: {'true' if true else 'FALSE'}", true)
    return Answer(popular, "cannot be tested", f"because {popular.cannot}", True)


def _study_words(popular: Popular, output_dir: Path, found: dict[str, StudyRuns]) -> list[str]:
    """The verdicts on the claims meant, by one's own runs, or else by the reference runs."""
    for only in (None, REFERENCE):
        key = f"{popular.study}, {only}" if only else popular.study
        if key not in found and (runs := find_study(popular.study, output_dir, only=only)):
            found[key] = runs
        verdicts = judge(found[key].study.claims, found[key].groups) if key in found else []
        words = [
            f"{verdict.claim.text}: {verdict.word} ({', '.join(f'{effect:+.1f}' for effect in verdict.effects)})"
            for verdict in verdicts
            if verdict.word != OPEN and any(part in verdict.claim.text for part in popular.rows)
        ]
        if words:
            return words
    return []


def _analysis_words(popular: Popular, output_dir: Path) -> list[str]:
    """The rows meant, of one's own finding, or else of the reference one."""
    for folder in (output_dir / ANALYSIS, output_dir / REFERENCE / ANALYSIS):
        path = folder / f"{popular.analysis}.json"
        rows = finding.read(path).rows if path.is_file() else ()
        if words := [f"{row.what}: {row.measured}" for row in rows if any(part in row.what for part in popular.rows)]:
            return words
    return []


def calculate(expression: str) -> bool:
    """The truth of an expression of the table above over the project's own counts and the published numbers."""
    known: dict[str, Callable[..., Any]] = {
        "parameters": lambda net: COUNTS[net][0], "macs": lambda net: COUNTS[net][1], "published": _number,
        "abs": abs, "len": len,
    }  # fmt: skip
    return bool(eval(expression, {"__builtins__": {}}, known))


def _number(net: str, key: str) -> float:
    found = published(net, key)
    assert found is not None, f"nothing published for {net} {key}"
    return float(found.value)


COLUMNS = ("claim", "answer", "because", "by", "measured here")


def answer_rows(answers: list[Answer]) -> list[list[str]]:
    return [[a.popular.claim, a.popular.answer, a.popular.because, a.ground, a.measured] for a in answers]
