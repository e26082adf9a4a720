"""What all figures share: fonts, colours that stay apart in grey, captions that say what was run, PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from resexp.runlog import Run
from resexp.study import Group

STYLE: dict[Any, Any] = {"svg.hashsalt": "resexp", "font.size": 9, "axes.titlesize": 10, "legend.frameon": False}
# From shallow to deep: hues apart for the screen, lightness falling for print in grey.
COLOURS = ("#e69f00", "#2b86b8", "#a83268", "#4f2f8f", "#111111")
DASHED = (0, (4, 2))


def caption(runs: Sequence[Run]) -> str:
    """Data set, protocol, seeds and steps, as the runs' own configurations say."""
    configs = [run.config for run in runs]

    def listed(values: Sequence[object]) -> str:
        return ", ".join(map(str, sorted(set(values), key=lambda value: (str(type(value)), value))))

    seeds = sorted({config["seed"] for config in configs})
    steps = listed([config["protocol"]["steps"] for config in configs])
    text = (
        f"Data set {listed([_data_set(c['dataset']) for c in configs])}; "
        f"protocol {listed([c['protocol']['name'] for c in configs])}, {steps} steps of "
        f"{listed([c['protocol']['batch_size'] for c in configs])} images, "
        f"{listed([c['protocol']['precision'] for c in configs])}, "
        f"learning rate {listed([c['protocol']['lr'] for c in configs])}; "
        f"width {listed([c['model']['width'] or 'as built' for c in configs])}; "
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}"
    )
    if len(seeds) > 1:
        text += " (mean, and least to most)"
    unfinished = sum(run.status != "finished" for run in runs)
    return text + (f"; {unfinished} of {len(runs)} runs unfinished." if unfinished else ".")


def _data_set(settings: dict[str, Any]) -> str:
    """Its name, and what was taken of it; logs of older runs lack the later settings."""
    classes = len(settings.get("wnids") or []) or settings.get("classes")
    each = settings.get("images_per_class")
    text = settings["name"] + (f", {classes} classes" if classes else "") + (f", {each} images a class" if each else "")
    side = settings.get("image_size")
    return text + (f" at {side} pixels" if side and settings["source"] != "synthetic" else "")


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
