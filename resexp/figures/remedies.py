"""What remedies leave of the degradation: training error over depth, and of the deepest nets one by one."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resexp.figures.style import STYLE, shades, write
from resexp.studies.groups import Group, describe_runs
from resexp.studies.remedies import METRIC, Remedy, find_remedies, shares

BOUND = "#111111"  # of plain and residual nets without a remedy
LEAST_HEIGHT = 3.0  # inches that the curves over depth, and the name of their axis, need


def draw_remedies(groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """The deepest nets at their best rate, as dots; beside them, of remedies with several depths, the error over depth.

    :param path: without a suffix.
    """
    remedies = find_remedies(groups, {})
    colours = _colours(remedies)
    deep = [remedy for remedy in remedies if len(remedy.nets) > 1]
    over_depth = any(remedy.words for remedy in deep)
    text = describe_runs(groups, seeds_as="mean, and least to most")
    key = "At the left the rows' colours, residual nets dashed. " if over_depth else ""
    rates = "Small marks: the other rates. " if any(remedy.others for remedy in remedies) else ""
    lines = textwrap.wrap(f"{text} {rates}{key}{note}", 150 if over_depth else 125)
    tallest = max((name.count("\n") + 1 for name in _row_names(remedies)), default=1)
    height = 0.9 + max(0.23, 0.13 * tallest) * max(6, len(remedies))
    height, below = max(height, LEAST_HEIGHT if over_depth else 0.0), 0.16 + 0.13 * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5 if over_depth else 9.0, height + below))
        panels = figure.subplots(1, 2, width_ratios=(1, 1.1)) if over_depth else [figure.subplots()]
        if over_depth:
            _draw_depths(panels[0], deep, colours)
        _draw_deepest(panels[-1], remedies, colours)
        inches = figure.get_figheight()
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.tight_layout(rect=(0, below / inches, 1, 1))
        figure.text(0.012, 0.06 / inches, "\n".join(lines), fontsize=7, color="0.25", va="bottom")
        return write(figure, path)


def _colours(remedies: Sequence[Remedy]) -> dict[str, str]:
    """By name: the bounds black, the rest from what helps most to what helps least."""
    named = [remedy.name for remedy in remedies if remedy.words]
    lighter = shades(len(named) + 1)[:-1]  # the last is black, or nearly
    return {remedy.name: BOUND for remedy in remedies} | dict(zip(named, lighter[::-1], strict=True))


def _draw_depths(axes: Axes, remedies: Sequence[Remedy], colours: dict[str, str]) -> None:
    for remedy in remedies:
        depths = sorted(remedy.nets)
        means = [remedy.nets[depth].mean(METRIC) for depth in depths]
        bound = not remedy.words
        style = "solid" if remedy.family == "plain" else (0, (4, 2))
        axes.plot(
            depths, means, color=colours[remedy.name], linewidth=2.4 if bound else 1.2, linestyle=style, marker="o"
        )
    axes.set_xticks(sorted({depth for remedy in remedies for depth in remedy.nets}))
    axes.set_xlabel("layers")
    axes.set_ylabel("training error at the end (%)")
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_deepest(axes: Axes, remedies: Sequence[Remedy], colours: dict[str, str]) -> None:
    """A row each; at the right the error with its rate, and the share of the gap that is closed."""
    closed = shares(remedies)
    depth = _greatest_depth(remedies)
    for row, remedy in enumerate(remedies):
        values = remedy.deepest.values(METRIC)
        if not remedy.words:
            axes.axvline(remedy.deepest.mean(METRIC), color=BOUND, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        axes.plot([min(values), max(values)], [row, row], color=colours[remedy.name], linewidth=2)
        axes.plot(remedy.deepest.mean(METRIC), row, marker="o", markersize=7, color=colours[remedy.name])
        for group in remedy.others:
            axes.plot(group.mean(METRIC), row, marker="o", markersize=3.5, color=colours[remedy.name], alpha=0.55)
        share = closed.get(remedy.name)
        text = f"{remedy.deepest.mean(METRIC):.1f} % at {remedy.rate}" + (
            f", closes {100 * share.mean:.0f} %" if share and share.mean > 0 else ""
        )
        axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)
    axes.set_yticks(range(len(remedies)), _row_names(remedies), fontsize=7)
    axes.set_ylim(len(remedies) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"training error of {depth} layers at the end (%)" if depth else "no run has ended yet")
    axes.grid(linewidth=0.4, alpha=0.5, axis="x")
    axes.spines[["top", "right"]].set_visible(False)


def _row_names(remedies: Sequence[Remedy]) -> list[str]:
    """With the layers of those that are not as deep as the deepest, on as many lines as they need."""
    depths = [remedy.deepest.depth for remedy in remedies]
    layers = ["" if depth == _greatest_depth(remedies) else f" ({depth} layers)" for depth in depths]
    return [textwrap.fill(remedy.name + its, 27) for remedy, its in zip(remedies, layers, strict=True)]


def _greatest_depth(remedies: Sequence[Remedy]) -> int | None:
    return max((remedy.deepest.depth for remedy in remedies), default=None)
