"""Figures from logs alone, without training."""

import re
from collections.abc import Sequence
from pathlib import Path

from resexp.figures.curves import draw_curves, draw_curves_depth
from resexp.figures.gap import draw_gaps
from resexp.figures.remedies import draw_remedies
from resexp.figures.summary import draw_depth, draw_parameters, draw_table
from resexp.studies.groups import Group

__all__ = ["draw_curves", "draw_gaps", "draw_study", "slug"]

KINDS = {
    "curves": draw_curves,
    "curves-depth": draw_curves_depth,
    "depth": draw_depth,
    "parameters": draw_parameters,
    "remedies": draw_remedies,
    "table": draw_table,
}


def draw_study(groups: Sequence[Group], path: Path, *, kind: str, title: str, note: str = "") -> list[Path]:
    """The kind of figure that a study asks for, as PNG and SVG: ``path`` is without a suffix. The files written."""
    return KINDS[kind](groups, path, title=title, note=note)


def slug(text: str) -> str:
    """A file name: ``slug("plain18 resnet18")`` -> ``"plain18-resnet18"``."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
