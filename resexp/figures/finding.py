"""What ``resexp analyze`` found, drawn: a row of panels with curves, points or level curves."""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resexp.figures.style import DASHED, STYLE, shades, write
from resexp.studies.finding import Finding, Panel, Series

COLUMNS = 3  # panels side by side
BESIDE = 4  # with more curves than these the key stands beside the axes


def draw_finding(finding: Finding, path: Path) -> list[Path]:
    """All panels of a finding, as PNG and SVG.

    :param path: without a suffix.
    :return: the files written.
    """
    count = len(finding.panels)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    lines = textwrap.wrap(finding.about, 76 * columns)
    below = 0.2 + 0.13 * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * columns, 3.3 * rows + below + 0.3))
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, finding.panels, strict=False):
            _draw_panel(axes, panel)
        for axes in grid[count:]:
            axes.set_visible(False)
        inches = figure.get_figheight()
        figure.suptitle(finding.title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.tight_layout(rect=(0, below / inches, 1, 1 - 0.22 / inches))
        figure.text(0.012, 0.06 / inches, "\n".join(lines), fontsize=7, color="0.25", va="bottom")
        return write(figure, path)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    if panel.grid:
        values = np.array(panel.grid, dtype=float)
        if panel.image:
            ends = (panel.side[0], panel.side[-1])
            axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r", origin="lower", extent=(*ends, *ends))
            return
        levels = np.geomspace(max(values[np.isfinite(values)].min(), 1e-4), np.nanmax(values) * 1.001, 14)
        lines = axes.contour(panel.side, panel.side, values, levels=levels, cmap="viridis", linewidths=0.9)
        axes.clabel(lines, fontsize=6, fmt="%.2g")
        axes.set_aspect("equal")
        return
    whole = all(isinstance(x, int) for series in panel.series for x in series.x)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=whole))
    colours = shades(len(set(panel.hues)))
    for series, hue in zip(panel.series, panel.hues, strict=True):
        _draw_series(axes, series, colours[hue])
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    labelled = sum(bool(series.label) for series in panel.series)
    if labelled > BESIDE:  # so many hide a curve wherever they are put
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7, handlelength=1.6)
    elif labelled:
        axes.legend(loc="best", fontsize=7, handlelength=1.6)


def _draw_series(axes: Axes, series: Series, colour: str) -> None:
    y = np.array(series.y, dtype=float)  # JSON's null becomes nan: a gap
    if series.style == "dots":
        axes.plot(series.x, y, linestyle="", marker="o", markersize=2.5, color=colour, label=series.label)
    else:
        thin = series.style == "thin"
        axes.plot(
            series.x,
            y,
            color=colour,
            linewidth=0.9 if thin else 1.6,
            linestyle=DASHED if thin else "solid",
            marker="o" if len(y) <= 12 else None,
            markersize=3,
            label=series.label,
        )
    if series.low:
        axes.fill_between(
            series.x,
            np.array(series.low, dtype=float),
            np.array(series.high, dtype=float),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
