"""Figures from run folders alone, in the papers' manner: thin dashed training error, bold test error, one scale."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resexp.runlog import Run
from resexp.study import Group

STYLE: dict[Any, Any] = {"svg.hashsalt": "resexp", "font.size": 9, "axes.titlesize": 10, "legend.frameon": False}
TITLES = {"plain": "plain nets", "resnet": "residual nets"}
# From shallow to deep: hues apart for the screen, lightness falling for print in grey.
COLOURS = ("#e69f00", "#2b86b8", "#a83268", "#4f2f8f", "#111111")


def draw_curves(groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """Training and test error against steps, plain nets left and residual nets right, as PNG and SVG.

    :param groups: of ``study.group_runs``; with several seeds a curve is their mean, with a band from least to most.
    :param path: without a suffix.
    :param note: a sentence more for the caption.
    :return: the files written.
    """
    families = [family for family in TITLES if any(group.family == family for group in groups)]
    caption = _caption([run for group in groups for run in group.runs]) + (f" {note}" if note else "")
    lines = textwrap.wrap(caption, 82 * len(families))
    below = 0.50 + 0.13 * len(lines)  # inches for the key and the caption
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(families), 3.5 + below))
        panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        highest = 0.0
        for axes, family in zip(panels, families, strict=True):
            members = [group for group in groups if group.family == family]
            highest = max(highest, _draw_panel(axes, members, _colours(groups)))
            axes.set_title(TITLES[family])
        panels[0].set_ylim(0, min(100.0, highest * 1.08 + 1) if highest else 100.0)
        panels[0].set_ylabel("error (%)")
        for axes in panels[1:]:
            axes.tick_params(labelleft=True)
        height = figure.get_figheight()
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.tight_layout(rect=(0, below / height, 1, 1))
        styles = [
            Line2D([], [], color="0.2", linewidth=0.9, linestyle=(0, (4, 2)), label="training error"),
            Line2D([], [], color="0.2", linewidth=2, label="test error"),
            Line2D([], [], color="0.8", linewidth=0.8, label="learning rate ÷ 10"),
        ]
        anchor = (0.005, (below - 0.34) / height)
        figure.legend(handles=styles, loc="lower left", ncols=3, bbox_to_anchor=anchor, borderaxespad=0.2)
        figure.text(0.012, 0.08 / height, "\n".join(lines), fontsize=7, color="0.25", va="bottom")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
        figure.savefig(written[0], dpi=160)
        figure.savefig(written[1], metadata={"Date": None})
    return written


def _draw_panel(axes: Axes, groups: Sequence[Group], colours: dict[str, str]) -> float:
    """The curves of one family. Returns the error below which nine tenths of every curve's points lie."""
    highest = 0.0
    for group in groups:
        for split in ("train", "test"):
            mean = _draw_split(axes, group, split, colours[group.label])
            highest = max(highest, float(np.percentile(mean, 90)) if len(mean) else 0.0)
    for drop in _drops(groups):
        axes.axvline(drop, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlabel("steps")
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, max((run.config["protocol"]["steps"] for group in groups for run in group.runs), default=1))
    handles = [Line2D([], [], color=colours[group.label], linewidth=2, label=_layers(group)) for group in groups]
    title = "at the end: train / test error" if any(group.error("test_error") for group in groups) else None
    axes.legend(handles=handles, loc="best", handlelength=1.4, borderaxespad=0.1, title=title, title_fontsize=8)
    return highest


def _draw_split(axes: Axes, group: Group, split: str, colour: str) -> np.ndarray:
    """The mean curve of one group, with a band where there are several seeds. Returns the mean errors."""
    finished = [
        run for run in group.runs if run.status == "finished"
    ]  # one seed that has just begun would cut the rest
    curves = [(steps, values) for run in finished or group.runs for steps, values in [run.curve(split)] if steps]
    if not curves:
        return np.array([])
    steps = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    table = np.array([[dict(zip(s, v, strict=True))[step] for step in steps] for s, v in curves])
    mean = table.mean(axis=0)
    width, dash = (0.9, (0, (4, 2))) if split == "train" else (2.0, "solid")
    axes.plot(steps, mean, color=colour, linewidth=width, linestyle=dash)
    if len(curves) > 1 and split == "test":
        axes.fill_between(steps, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    return mean


def _colours(groups: Sequence[Group]) -> dict[str, str]:
    """A colour for each label; the plain and the residual net of one depth share theirs, deeper is darker."""
    keys = sorted({(group.depth, group.label.removeprefix(group.net)) for group in groups})
    if len(keys) == 1:
        shades = [COLOURS[-1]]
    elif len(keys) <= len(COLOURS):
        shades = [COLOURS[round(index * (len(COLOURS) - 1) / (len(keys) - 1))] for index in range(len(keys))]
    else:
        cmap = matplotlib.colormaps["viridis_r"]
        shades = [to_hex(cmap(0.1 + 0.9 * index / (len(keys) - 1))) for index in range(len(keys))]
    shade = dict(zip(keys, shades, strict=True))
    return {group.label: shade[group.depth, group.label.removeprefix(group.net)] for group in groups}


def _layers(group: Group) -> str:
    name = f"{group.depth} layers{group.label.removeprefix(group.net)}"
    train, test = group.error("train_error"), group.error("test_error")
    return f"{name}: {train.mean:.1f} / {test.mean:.1f}%" if train and test else name


def _drops(groups: Sequence[Group]) -> list[int]:
    protocols = [run.config["protocol"] for group in groups for run in group.runs]
    return sorted({drop for protocol in protocols for drop in protocol["lr_drops"] if drop < protocol["steps"]})


def _caption(runs: Sequence[Run]) -> str:
    """Data set, protocol, seeds and steps, as the runs' own configurations say."""
    configs = [run.config for run in runs]

    def listed(values: Sequence[object]) -> str:
        return ", ".join(map(str, sorted(set(values), key=lambda value: (str(type(value)), value))))

    seeds = sorted({config["seed"] for config in configs})
    steps = listed([config["protocol"]["steps"] for config in configs])
    text = (
        f"Data set {listed([c['dataset']['name'] for c in configs])}; "
        f"protocol {listed([c['protocol']['name'] for c in configs])}, {steps} steps of "
        f"{listed([c['protocol']['batch_size'] for c in configs])} images, "
        f"{listed([c['protocol']['precision'] for c in configs])}; "
        f"first-stage width {listed([c['model']['width'] for c in configs])}; "
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}"
    )
    if len(seeds) > 1:
        text += " (mean; band: least to most test error)"
    unfinished = sum(run.status != "finished" for run in runs)
    return text + (f"; {unfinished} of {len(runs)} runs unfinished." if unfinished else ".")


def slug(text: str) -> str:
    """A file name: ``slug("plain18 resnet18")`` -> ``"plain18-resnet18"``."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
