"""How a difference between two nets grows or shrinks over the steps, beside what was published after more of them."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resexp.config import Gap
from resexp.figures.style import STYLE, shades, write
from resexp.run.reader import Run
from resexp.studies.groups import Group, describe_runs, group_runs, matches
from resexp.studies.published import published_pair

POINTS = 8  # parts of the runs' length at which the gap is shown
SPLITS = {"train": "training error", "test": "test error"}


def draw_gaps(gaps: Sequence[Gap], groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """Each gap over the steps, for training and test error; published gaps as open marks at their own number of steps.

    :param path: without a suffix.
    :return: the files written; none while no gap has both of its nets.
    """
    curves = {split: {f"{gap.net} - {gap.minus}": gap_curve(gap, groups, split) for gap in gaps} for split in SPLITS}
    if not any(steps for found in curves.values() for steps, _ in found.values()):
        return []
    drawn = group_runs(list(dict.fromkeys(run for gap in gaps for pair in _pairs(gap, groups) for run in pair)))
    text = describe_runs(drawn, seeds_as="mean, and least to most")
    lines = textwrap.wrap(
        f"{text} Training error: mean of the steps between two points. Open marks: published, by their own number of "
        f"steps. {note}",
        140,
    )
    below = 0.16 + 0.13 * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.5 + below))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (split, found) in zip(panels, curves.items(), strict=True):
            _draw_panel(axes, found, gaps, split)
            axes.set_title(SPLITS[split])
        panels[0].set_ylabel("gap (points)")
        height = figure.get_figheight()
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.tight_layout(rect=(0, below / height, 1, 1))
        figure.text(0.012, 0.06 / height, "\n".join(lines), fontsize=7, color="0.25", va="bottom")
        return write(figure, path)


def _pairs(gap: Gap, groups: Sequence[Group]) -> list[tuple[Run, Run]]:
    """The runs of both nets with the same seed."""
    one, two = ({run.config["seed"]: run for run in _runs(words, groups)} for words in (gap.net, gap.minus))
    return [(one[seed], two[seed]) for seed in sorted(one.keys() & two.keys())]


def _runs(words: str, groups: Sequence[Group]) -> Sequence[Run]:
    return next((group.runs for group in groups if matches(group, words)), ())


def gap_curve(gap: Gap, groups: Sequence[Group], split: str) -> tuple[list[int], list[list[float]]]:
    """At each of ``POINTS`` steps that both nets have reached: the differences, one for each seed that both have."""
    pairs = _pairs(gap, groups)
    curves = [[dict(zip(*run.curve(split), strict=True)) for run in pair] for pair in pairs]
    length = max((run.config["protocol"]["steps"] for pair in pairs for run in pair), default=0)
    steps, values = [], []
    for end in (length * part // POINTS for part in range(1, POINTS + 1)):
        start = end - length // POINTS
        errors = [[_until(curve, start, end, split) for curve in pair] for pair in curves]
        found = [one - two for one, two in errors if one is not None and two is not None]
        if found:
            steps.append(end)
            values.append(found)
    return steps, values


def _until(curve: dict[int, float], start: int, end: int, split: str) -> float | None:
    """The mean training error of the steps from ``start`` to ``end``, or the test error at ``end``; None if missing."""
    if split == "test" or end not in curve:
        return curve.get(end)
    return float(np.mean([error for step, error in curve.items() if start < step <= end]))


def _draw_panel(
    axes: Axes, found: dict[str, tuple[list[int], list[list[float]]]], gaps: Sequence[Gap], split: str
) -> None:
    for (label, (steps, values)), gap, colour in zip(found.items(), gaps, shades(len(gaps)), strict=True):
        if steps:
            means = [float(np.mean(one)) for one in values]
            axes.plot(steps, means, color=colour, marker="o", markersize=4, label=label)
            if max(map(len, values)) > 1:
                axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.18)
        known = published_pair(gap.net.split()[0], gap.minus.split()[0], f"{split}_error")
        if known and known[2].steps:
            axes.plot(
                known[2].steps,
                known[0] - known[1],
                color=colour,
                marker="o",
                markersize=6,
                linestyle="",
                markerfacecolor="white",
                label=None if steps else f"{label}, published only",
            )
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False, fontsize=7.5)
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    if any(steps for steps, _ in found.values()):
        axes.legend(loc="best", fontsize=8)
