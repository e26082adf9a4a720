"""Final errors of many runs: against depth, against parameters, or as a table that can be seen.

A diverged run is drawn at the error of guessing.
"""

import textwrap
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator

from resexp import catalog
from resexp.figures.style import DASHED, STYLE, error_floor, shades, short_label, write
from resexp.studies.groups import Group, describe_runs

MARKERS = "osD^vPX*<>"
METRICS = ("train_error", "test_error")


def draw_depth(groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """Final error against depth, one line per set of nets that differ in nothing else; bars from least to most."""

    def draw(axes: Axes) -> None:
        depth_panel(axes, groups)
        lowest, highest = axes.get_ylim()
        axes.set_ylim(error_floor(lowest, highest), min(100, 1.08 * highest))

    return _summary(groups, draw, path, title=title, note=note, height=3.6)


def depth_panel(axes: Axes, groups: Sequence[Group]) -> None:
    """Final training error (dashed, open marks) and test error against depth; a line joins nets alike but for it."""
    series: dict[str, list[Group]] = {}
    for group in _finished(groups):
        series.setdefault(_series(group, groups), []).append(group)
    styles = list(zip(series, shades(len(series)), cycle(MARKERS), strict=False))
    for name, colour, marker in styles:
        members = sorted(series[name], key=lambda group: group.depth)
        depths = [group.depth for group in members]
        for metric in METRICS:
            means, bars = _means(members, metric)
            thin = metric == "train_error"
            axes.errorbar(
                depths,
                means,
                yerr=bars,
                color=colour,
                marker=marker,
                capsize=2,
                linewidth=0.9 if thin else 2,
                linestyle=DASHED if thin else "solid",
                elinewidth=0.8,
                markerfacecolor="white" if thin else colour,
                markersize=4.5,
            )
    axes.set_xscale("log")
    ticks = sorted({group.depth for group in groups})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("layers")
    axes.set_ylabel("error at the end (%)")
    axes.legend(
        handles=[
            Line2D([], [], color=colour, marker=marker, linewidth=2, markersize=4.5, label=name)
            for name, colour, marker in styles
        ],
        loc="best",
    )


def draw_parameters(groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """Test error against the number of parameters, one line per family; bars from least to most."""
    series: dict[str, list[Group]] = {}
    for group in _finished(groups):
        series.setdefault(group.family, []).append(group)

    def draw(axes: Axes) -> None:
        for members, colour, marker in zip(series.values(), shades(len(series)), cycle(MARKERS), strict=False):
            members = sorted(members, key=lambda group: group.parameters or 0)
            means, bars = _means(members, "test_error")
            sizes = [group.parameters or 0 for group in members]
            axes.errorbar(sizes, means, yerr=bars, color=colour, marker=marker, capsize=2, linewidth=1.2)
            for group, size, mean in zip(members, sizes, means, strict=True):
                axes.annotate(
                    short_label(group), (size, mean), (5, 5), textcoords="offset points", fontsize=7.5, color=colour
                )
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(EngFormatter(sep=""))
        axes.set_xlabel("parameters")
        axes.set_ylabel("test error at the end (%)")
        axes.margins(x=0.2, y=0.15)

    return _summary(groups, draw, path, title=title, note=note, height=3.8, keys=False)


def draw_table(groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """Training and test error of each group, a row each, in the order of the test error; lines from least to most."""
    known = sorted(_finished(groups), key=lambda group: _mean(group, "test_error"))
    one_net = len({group.net for group in known}) == 1
    labels = [
        (short_label(group).removeprefix(group.net).strip() if one_net else "") or short_label(group) for group in known
    ]

    def draw(axes: Axes) -> None:
        colours = {"train_error": "#2b86b8", "test_error": "#111111"}
        for row, group in enumerate(known):
            for metric in METRICS:
                values = group.values(metric)
                thin = metric == "train_error"
                axes.plot([min(values), max(values)], [row, row], color=colours[metric], linewidth=0.9 if thin else 2)
                axes.plot(
                    _mean(group, metric),
                    row,
                    marker="o",
                    markersize=6,
                    color=colours[metric],
                    linestyle="",
                    markerfacecolor="white" if thin else colours[metric],
                )
            numbers = " / ".join(f"{_mean(group, metric):.1f}" for metric in METRICS)
            axes.text(1.01, row, f"{numbers} %", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_yticks(range(len(known)), labels)
        axes.invert_yaxis()
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.margins(x=0.06)
        axes.set_xlim(left=0 if axes.get_xlim()[0] < axes.get_xlim()[1] / 2 else None)
        axes.set_xlabel("error at the end (%); right: training / test")
        axes.grid(axis="y", visible=False)

    height, width = 0.9 + 0.27 * max(1, len(known)), 5.2 + 0.055 * max(map(len, labels), default=0)
    return _summary(groups, draw, path, title=title, note=note, height=height, width=width)


def _summary(
    groups: Sequence[Group],
    draw: Callable[[Axes], None],
    path: Path,
    *,
    title: str,
    note: str,
    height: float,
    width: float = 6.6,
    keys: bool = True,
) -> list[Path]:
    """One panel with title, key and caption; sizes in inches."""
    text = describe_runs(groups, seeds_as="mean, and least to most") + (f" {note}" if note else "")
    lines = textwrap.wrap(text, round(17.5 * width))
    below = 0.16 + 0.24 * keys + 0.13 * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height + below + 0.3))
        axes = figure.subplots()
        draw(axes)
        axes.grid(linewidth=0.4, alpha=0.5, axis="x" if axes.yaxis_inverted() else "both")
        axes.spines[["top", "right"]].set_visible(False)
        inches = figure.get_figheight()
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.tight_layout(rect=(0, below / inches, 1, 1))
        if keys:
            styles = [
                Line2D(
                    [],
                    [],
                    color="0.2",
                    linewidth=0.9,
                    linestyle=DASHED,
                    marker="o",
                    markersize=4.5,
                    markerfacecolor="white",
                    label="training error",
                ),
                Line2D([], [], color="0.2", linewidth=2, marker="o", markersize=4.5, label="test error"),
            ]
            anchor = (0.005, (below - 0.28) / inches)
            figure.legend(handles=styles, loc="lower left", ncols=2, bbox_to_anchor=anchor, borderaxespad=0.2)
        figure.text(0.012, 0.06 / inches, "\n".join(lines), fontsize=7, color="0.25", va="bottom")
        return write(figure, path)


def _series(group: Group, groups: Sequence[Group]) -> str:
    """Kind, and the settings in which nets of that family differ in this figure: what the nets of one line share."""
    alike = [other.words for other in groups if other.family == group.family]
    named = {f"{key}={value}" for key, value in catalog.parse_name(group.net).items()}
    varied = group.words - frozenset.intersection(*alike) - named
    unusual = {word for word in varied if word not in group.usual}
    return " ".join([group.kind, *sorted(unusual if len(varied) > 1 else varied)])


def _finished(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if all(group.values(metric) for metric in METRICS)]


def _mean(group: Group, metric: str) -> float:
    values = group.values(metric)
    return sum(values) / len(values)


def _means(groups: Sequence[Group], metric: str) -> tuple[list[float], list[list[float]]]:
    """Means, and how far the least and the most lie from them."""
    means = [_mean(group, metric) for group in groups]
    below = [mean - min(group.values(metric)) for group, mean in zip(groups, means, strict=True)]
    above = [max(group.values(metric)) - mean for group, mean in zip(groups, means, strict=True)]
    return means, [below, above]
