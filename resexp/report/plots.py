"""What the page's script draws, as plain data: curves of groups of runs, and the panels of analyses."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resexp.studies.finding import Panel
from resexp.studies.groups import Group, rate_drops

POINTS = 100  # of a curve, at most: more than a screen shows
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8b6fd6",
    "#a6761d",
    "#7f7f7f",
    "#c2b800",
    "#1b9e77",
    "#e7298a",
    "#5d8a1a",
    "#9e3d22",
)


def colours(groups: Sequence[Group]) -> dict[str, str]:
    """Of each group, by its name."""
    return {group.name: COLOURS[index % len(COLOURS)] for index, group in enumerate(groups)}


def curves(groups: Sequence[Group]) -> dict[str, Any]:
    """Training and test error of each group over the steps, a list for each seed; the page calculates their mean.

    Most curves of a study have the same steps: these are written once, and ``x`` of a line is the place of its own.
    """
    lines: list[dict[str, Any]] = []
    known: dict[tuple[int, ...], int] = {}
    for group in groups:
        for split in ("train", "test"):
            steps, seeds = group.curves(split)
            if not seeds:
                continue
            kept = _kept(len(steps))
            place = known.setdefault(tuple(steps[i] for i in kept), len(known))
            values = [_short(errors[i] for i in kept) for errors in seeds.values()]
            lines.append({"name": group.name, "split": split, "seeds": list(seeds), "x": place, "ys": values})
    return {
        "kind": "curves",
        "colours": colours(groups),
        "steps": list(known),
        "lines": lines,
        "drops": rate_drops(groups),
    }


def panel(panel: Panel) -> dict[str, Any]:
    """A panel of an analysis: lines, points with their bands, or a surface."""
    axes = {"title": panel.title, "x": panel.x, "y": panel.y}
    if panel.grid:
        return {
            "kind": "surface",
            **axes,
            "side": _short(panel.side),
            "grid": [_short(row) for row in panel.grid],
            "image": panel.image,
        }
    series = []
    for one, hue in zip(panel.series, panel.hues, strict=True):
        kept = _kept(len(one.x))
        values = {"x": one.x, "y": one.y, "low": one.low, "high": one.high}
        short = {key: _short(column[i] for i in kept) for key, column in values.items() if len(column)}
        series.append({"label": one.label, "style": one.style, "colour": COLOURS[hue % len(COLOURS)], **short})
    scales = {"log_x": panel.log_x, "log_y": panel.log_y}
    return {"kind": "panel", **axes, **scales, "series": series}


def _kept(count: int) -> list[int]:
    """The indices of at most ``POINTS`` of ``count`` points, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, POINTS))}) if count else []


def _short(values: Any) -> list[float | None]:
    """With four digits, and None where there is no number."""
    return [float(f"{v:.4g}") if v is not None and math.isfinite(v) else None for v in values]
