"""Steps to a given training loss at equal depth, from the logs alone (He et al. 2015, Sec. 4.1: faster convergence)."""

import math
import statistics
from collections.abc import Sequence

from resexp import UserError, catalog
from resexp.run.reader import LEARNED, Run
from resexp.studies.alike import are_comparable
from resexp.studies.finding import Finding, Panel, Row, Series
from resexp.studies.groups import final_error, group_runs


def analyze(runs: Sequence[Run], *, losses: tuple[float, ...] = (1.0, 0.5, 0.1)) -> Finding:
    """How soon each net's training loss stays below each of ``losses``, and who is first at each depth.

    Of several seeds the median, and around it the least and the most.
    """
    if any(not run.curve("train")[0] for run in runs):
        raise UserError("convergence: a run has no training log; take finished ones")
    nets = {group.name: list(group.runs) for group in group_runs(runs)}
    config, seeds = runs[0].config, sorted({run.config["seed"] for run in runs})
    idle = [label for label, its in nets.items() if not _have_learned(its)]
    return Finding(
        analysis="convergence",
        title="Training loss against steps",
        about=f"Data set {config['dataset']['name']}; protocol {config['protocol']['name']}; mean loss between lines; "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        + (f"; no verdict on what has not learned: {', '.join(idle)}." if idle else "."),
        panels=[
            Panel(
                title=catalog.FAMILIES[family].title,
                x="steps",
                y="training loss",
                series=[_series(label, its) for label, its in nets.items() if _kind(its[0])[0] == family],
                log_y=True,
            )
            for family in dict.fromkeys(_kind(its[0])[0] for its in nets.values())
        ],
        rows=[*_step_rows(nets, losses), *_compare(nets, losses)],
    )


def _series(label: str, runs: Sequence[Run]) -> Series:
    """The median over the seeds at the steps that all have, and a band from the least to the most."""
    curves = [dict(zip(*run.curve("train", "loss"), strict=True)) for run in runs]
    steps = sorted(set.intersection(*map(set, curves)))
    values = [[curve[step] for curve in curves] for step in steps]
    several = len(runs) > 1
    return Series(
        label=label,
        x=steps,
        y=[statistics.median(one) for one in values],
        low=[min(one) for one in values] if several else (),
        high=[max(one) for one in values] if several else (),
    )


def _step_rows(nets: dict[str, list[Run]], losses: Sequence[float]) -> list[Row]:
    return [
        Row(id="steps", what=f"{label}: steps to a training loss of {loss}", measured=_spread(_steps(its, loss)))
        for label, its in nets.items()
        for loss in losses
    ]


def _compare(nets: dict[str, list[Run]], losses: Sequence[float]) -> list[Row]:
    """Residual nets against plain ones of their depth and settings, where any of them gets there."""
    rows = []
    for label, residual in nets.items():
        family, depth = _kind(residual[0])
        plain = nets.get(label.replace("resnet", "plain", 1))
        if family != "resnet" or not plain or not are_comparable(plain[0].config, residual[0].config):
            continue
        learned = _have_learned(plain) and _have_learned(residual)
        for loss in losses:
            ours, theirs = (statistics.median_high(_steps(its, loss)) for its in (residual, plain))
            if math.isinf(ours) and math.isinf(theirs):
                continue
            several = ", medians" if max(len(plain), len(residual)) > 1 else ""
            rows.append(
                Row(
                    id=f"residual-first-{depth}",
                    what=f"{depth} layers, loss {loss}: residual before plain{several}",
                    expected="before",
                    measured=f"{_words(ours)} against {_words(theirs)}",
                    agrees=ours < theirs if learned and ours != theirs else None,  # equal: no finer than the log
                    source="He et al. 2015, Sec. 4.1",
                )
            )
    return rows


def _kind(run: Run) -> tuple[str, int]:
    return run.config["model"]["family"], run.config["model"]["depth"]


def _have_learned(runs: Sequence[Run]) -> bool:
    """The rule for all verdicts on nets, by the logged training errors: at most half of that of guessing."""
    errors = [final_error(run, "train_error") for run in runs]
    limits = [LEARNED * 100 * (1 - 1 / run.summary.get("classes", 10)) for run in runs]
    return all(error is not None and error <= limit for error, limit in zip(errors, limits, strict=True))


def _steps(runs: Sequence[Run], loss: float) -> list[float]:
    return [steps_to(loss, *run.curve("train", "loss")) for run in runs]


def steps_to(loss: float, steps: Sequence[int], values: Sequence[float]) -> float:
    """The first step from which on all logged losses are at most ``loss``; infinite if there is none."""
    first = math.inf
    for step, value in zip(reversed(steps), reversed(values), strict=True):
        if value > loss:
            break
        first = step
    return first


def _words(steps: float) -> str:
    return "never" if math.isinf(steps) else f"{steps:,.0f}"


def _spread(steps: Sequence[float]) -> str:
    middle = _words(statistics.median_high(steps))
    return middle if len(steps) < 2 else f"{middle} ({_words(min(steps))} to {_words(max(steps))})"
