"""Steps to a given training loss at equal depth, from the logs alone (He et al. 2015, Sec. 4.1: faster convergence)."""

import math
import statistics
from collections.abc import Sequence

from resexp import UserError
from resexp.analysis.labels import label_of
from resexp.runs.reader import Run
from resexp.studies.finding import Finding, Panel, Row, Series


def analyze(runs: Sequence[Run], *, losses: tuple[float, ...] = (1.0, 0.5, 0.1)) -> Finding:
    """How soon each run's training loss stays below each of ``losses``, and who is first at each depth."""
    if any(not run.curve("train")[0] for run in runs):
        raise UserError("convergence: a run has no training log; take finished ones")
    labels = [f"{label_of(run.config['model'])} seed {run.config['seed']}" for run in runs]
    curves = [run.curve("train", "loss") for run in runs]
    reached = {label: [steps_to(loss, *curve) for loss in losses] for label, curve in zip(labels, curves, strict=True)}
    rows = [
        Row(id="steps", what=f"{label}: steps to a training loss of {loss}", measured=_words(steps))
        for label, found in reached.items()
        for loss, steps in zip(losses, found, strict=True)
    ]
    for depth in sorted({run.config["model"]["depth"] for run in runs}):
        for index, loss in enumerate(losses):
            of = {
                family: [
                    reached[label][index]
                    for run, label in zip(runs, labels, strict=True)
                    if (run.config["model"]["family"], run.config["model"]["depth"]) == (family, depth)
                ]
                for family in ("plain", "resnet")
            }
            if all(of.values()) and not all(math.isinf(min(found)) for found in of.values()):
                plain, residual = (statistics.median_high(found) for found in of.values())
                several = ", medians" if max(map(len, of.values())) > 1 else ""
                rows.append(
                    Row(
                        id=f"residual-first-{depth}",
                        what=f"{depth} layers, loss {loss}: residual before plain{several}",
                        expected="before",
                        measured=f"{_words(residual)} against {_words(plain)}",
                        agrees=residual < plain,
                        source="He et al. 2015, Sec. 4.1",
                    )
                )
    series = [Series(label=label, x=steps, y=values) for label, (steps, values) in zip(labels, curves, strict=True)]
    config = runs[0].config
    return Finding(
        analysis="convergence",
        title="Training loss against steps",
        about=f"Data set {config['dataset']['name']}; protocol {config['protocol']['name']}; mean loss between lines.",
        panels=[Panel(title="", x="steps", y="training loss", series=series, log_y=True)],
        rows=rows,
    )


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
