"""What a net predicts: which classes it takes for which, and the images that it gets most surely wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from resexp.console import printable
from resexp.figures.style import STYLE

COLUMNS = 6  # images side by side
NUMBERED = 20  # with more classes the cells are too small for numbers
NAMED = 50  # and with still more the sides for names


class Miss(NamedTuple):
    """An image, uint8 (C, H, W), its class, the class it was taken for, and with which probability."""

    image: np.ndarray
    label: str
    prediction: str
    probability: float


def draw_predictions(
    confusion: np.ndarray, classes: Sequence[str], worst: Sequence[Miss], path: Path, *, title: str
) -> None:
    """One picture. Raises OSError if it cannot be written, ValueError for a suffix that is no picture's.

    :param confusion: (classes, classes): how many images of each class, a row, were taken for each, a column.
    """
    names = [printable(name).replace("$", r"\$") for name in classes]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 5.4))
        halves = GridSpec(1, 2, width_ratios=(1, 1.25), left=0.09, right=0.98, bottom=0.2, top=0.86, wspace=0.08)
        axes = figure.add_subplot(halves[0])
        off = confusion.astype(float)
        np.fill_diagonal(off, np.nan)  # the right ones would drown the others
        axes.imshow(off, cmap="Oranges", vmin=0)
        if len(names) <= NUMBERED:
            dark = 0.6 * np.nanmax(off)
            for row, col in np.ndindex(*confusion.shape):
                if confusion[row, col]:
                    colour = "white" if off[row, col] > dark else "black"
                    axes.text(col, row, f"{confusion[row, col]:,}", ha="center", va="center", fontsize=7, color=colour)
        ticks = range(len(names)) if len(names) <= NAMED else []
        axes.set_xticks(ticks, names[: len(ticks)], rotation=90, fontsize=7)
        axes.set_yticks(ticks, names[: len(ticks)], fontsize=7)
        axes.set_xlabel("taken for")
        axes.set_ylabel("class")
        axes.set_title("right on the diagonal, wrong beside it")
        columns = min(COLUMNS, max(len(worst), 1))
        grid = halves[1].subgridspec(-(-max(len(worst), 1) // columns), columns, hspace=0.45, wspace=0.1)
        for number, miss in enumerate(worst):
            small = figure.add_subplot(grid[divmod(number, columns)])
            image = miss.image.transpose(1, 2, 0)
            small.imshow(image if image.shape[2] == 3 else image[:, :, 0], cmap="gray")
            small.set_axis_off()
            shown = [printable(name)[:14].replace("$", r"\$") for name in (miss.label, miss.prediction)]
            small.set_title(f"{shown[0]}\nas {shown[1]}, {miss.probability:.2f}", fontsize=6.5)
        which = {0: "none wrong", 1: "the wrong one"}.get(len(worst), "the most surely wrong ones")
        figure.suptitle(f"{title}; {which}", fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.savefig(path, dpi=140)
