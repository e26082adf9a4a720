"""What articles say about residual networks, each claim with an answer and what was measured for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resexp import config, finding
from resexp.finding import Row
from resexp.golden import COUNTS
from resexp.published import published
from resexp.study import REFERENCE, StudyRuns, find_study
from resexp.verdict import Verdict, judge

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
    claims = load_popular()
    for name in {popular.study for popular in claims if popular.study} - found.keys():
        if one := find_study(name, output_dir):
            found[name] = one
    judged = {name: judge(one.study.claims, one.groups) for name, one in found.items()}
    return [_answer(popular, output_dir, judged.get(popular.study, [])) for popular in claims]


def _answer(popular: Popular, output_dir: Path, verdicts: list[Verdict]) -> Answer:
    if popular.study:
        words = [
            f"{verdict.claim.text}: {verdict.word} ({', '.join(f'{effect:+.1f}' for effect in verdict.effects) or '-'})"
            for verdict in verdicts
            if any(part in verdict.claim.text for part in popular.rows)
        ]
        missing = f"not measured: resexp study {popular.study}"
        return Answer(popular, f"study {popular.study}", "\n".join(words) or missing, bool(words))
    if popular.analysis:
        words = [
            f"{row.what}: {row.measured}"
            for row in _finding_rows(popular.analysis, output_dir)
            if any(part in row.what for part in popular.rows)
        ]
        missing = f"not measured: resexp analyze {popular.analysis}"
        return Answer(popular, f"analysis {popular.analysis}", "\n".join(words) or missing, bool(words))
    if popular.arithmetic:
        true = calculate(popular.arithmetic)
        return Answer(popular, "arithmetic", f"{popular.arithmetic}: {'true' if true else 'FALSE'}", true)
    return Answer(popular, "cannot be tested", f"because {popular.cannot}", True)


def _finding_rows(analysis: str, output_dir: Path) -> Sequence[Row]:
    for folder in (output_dir / ANALYSIS, output_dir / REFERENCE / ANALYSIS):
        if (path := folder / f"{analysis}.json").is_file():
            return finding.read(path).rows
    return ()


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
