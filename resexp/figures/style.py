"""What all figures share: fonts, colours that stay apart in grey, captions that say what was run, PNG and SVG."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from resexp.studies.groups import Group

STYLE: dict[Any, Any] = {"svg.hashsalt": "resexp", "font.size": 9, "axes.titlesize": 10, "legend.frameon": False}
# From shallow to deep: hues apart for the screen, lightness falling for print in grey.
COLOURS = ("#e69f00", "#2b86b8", "#a83268", "#4f2f8f", "#111111")
DASHED = (0, (4, 2))


def error_floor(lowest: float, highest: float) -> float:
    """Where the axis of errors begins: at 0, or higher where all of them lie in its upper half."""
    return 0.0 if lowest < highest / 2 else 10.0 * (lowest // 10)


def shades(count: int) -> list[str]:
    """So many colours, the lightest first."""
    if count == 1:
        return [COLOURS[-1]]
    if count <= len(COLOURS):
        return [COLOURS[round(index * (len(COLOURS) - 1) / (count - 1))] for index in range(count)]
    cmap = matplotlib.colormaps["viridis_r"]
    return [to_hex(cmap(0.1 + 0.9 * index / (count - 1))) for index in range(count)]


def short_label(group: Group, *, net: bool = True) -> str:
    """``56 layers`` where the family's title stands beside it, else the net's name; and the settings that differ."""
    bare = group.net == f"{group.family}{group.depth}"
    name = f"{group.depth} layers" if bare and not net else group.net
    return name + group.name.removeprefix(group.net)


def write(figure: Figure, path: Path) -> list[Path]:
    """As PNG and SVG; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
    figure.savefig(written[0], dpi=160)
    figure.savefig(written[1], metadata={"Date": None})
    return written
