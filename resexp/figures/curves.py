"""Error against steps, as in the papers' figures: thin dashed training error, bold test error, one scale."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resexp import catalog
from resexp.figures.style import DASHED, STYLE, error_floor, shades, short_label, write
from resexp.figures.summary import depth_panel
from resexp.studies.groups import Group, describe_runs, rate_drops

SHORT = 26  # letters of a net and its errors, of which two fit side by side below a panel


def draw_curves_depth(groups: Sequence[Group], path: Path, *, title: str, note: str = "") -> list[Path]:
    """As ``draw_curves``, with a panel more at the right: the errors at the end against depth."""
    return draw_curves(groups, path, title=title, note=note, with_depth=True)


def draw_curves(
    groups: Sequence[Group], path: Path, *, title: str, note: str = "", with_depth: bool = False
) -> list[Path]:
    """Training and test error against steps, a panel a family, plain nets left, as PNG and SVG.

    :param groups: of ``study.group_runs``; with several seeds a curve is their mean, with a band from least to most.
    :param path: without a suffix.
    :param note: a sentence more for the caption.
    :return: the files written.
    """
    families = dict.fromkeys(group.family for group in groups)
    text = describe_runs(groups, seeds_as="mean, and least to most") + (f" {note}" if note else "")
    panel_groups = [[group for group in groups if group.family == family] for family in families]
    count, colours = len(panel_groups) + with_depth, _colours(groups)
    depths = [sorted(group.depth for group in own) for own in panel_groups]
    shared_key = with_depth and all(own == depths[0] for own in depths)
    lines = textwrap.wrap(text, 82 * count)
    keys = 0.0 if shared_key else 0.12 + 0.185 * max(1 + math.ceil(len(own) / _columns(own)) for own in panel_groups)
    text_below = 0.50 + 0.13 * len(lines)  # inches for the caption and the key of lines, below those of the nets
    below = keys + text_below
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * count - 0.8 * with_depth, 3.5 + below))
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        lowest, highest = 100.0, 0.0
        for axes, members in zip(panels, panel_groups, strict=False):
            least, most = _draw_panel(axes, members, colours)
            lowest, highest = min(lowest, least), max(highest, most)
            axes.set_title(catalog.FAMILIES[members[0].family].title)
            if not shared_key:
                _draw_key(axes, members, colours, with_errors=True)
        if shared_key:  # the panel by depth shows the errors
            _draw_key(panels[len(panel_groups) - 1], panel_groups[-1], colours, with_errors=False)
        panels[0].set_ylim(error_floor(lowest, highest), min(100.0, highest * 1.08 + 1) if highest else 100.0)
        if with_depth:
            depth_panel(panels[-1], groups)
            panels[-1].set_title("at the end, by depth")
            panels[-1].grid(linewidth=0.4, alpha=0.5)
            panels[-1].spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("error (%)")
        for axes in panels[1:]:
            axes.tick_params(labelleft=True)
        height = figure.get_figheight()
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.tight_layout(rect=(0, below / height, 1, 1))
        anchor = (0.005, (text_below - 0.34) / height)
        figure.legend(handles=_styles(groups), loc="lower left", ncols=3, bbox_to_anchor=anchor, borderaxespad=0.2)
        figure.text(0.012, 0.08 / height, "\n".join(lines), fontsize=7, color="0.25", va="bottom")
        return write(figure, path)


def _styles(groups: Sequence[Group]) -> list[Line2D]:
    """The key of what the kinds of lines are."""
    factors = {run.config["protocol"].get("lr_drop_factor", 0.1) for group in groups for run in group.runs}
    drop = f"÷ {1 / factors.pop():g}" if len(factors) == 1 and min(factors) > 0 else "drops"
    return [
        Line2D([], [], color="0.2", linewidth=0.9, linestyle=DASHED, label="training error"),
        Line2D([], [], color="0.2", linewidth=2, label="test error"),
        Line2D([], [], color="0.8", linewidth=0.8, label=f"learning rate {drop}"),
    ]


def _draw_panel(axes: Axes, groups: Sequence[Group], colours: dict[str, str]) -> tuple[float, float]:
    """The curves of one family. Returns the least error, and that which nine tenths of each stay below."""
    lowest, highest = 100.0, 0.0
    for group in groups:
        for split in ("train", "test"):
            mean = _draw_split(axes, group, split, colours[group.label])
            if len(mean):
                lowest, highest = min(lowest, float(mean.min())), max(highest, float(np.percentile(mean, 90)))
    for drop in rate_drops(groups):
        axes.axvline(drop, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlabel("steps")
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, max((run.config["protocol"]["steps"] for group in groups for run in group.runs), default=1))
    return lowest, highest


def _draw_key(axes: Axes, groups: Sequence[Group], colours: dict[str, str], *, with_errors: bool) -> None:
    """Which colour is which net: below the panel, with the errors at the end, or where it hides the least of it."""
    labels = [_net_and_errors(group) if with_errors else short_label(group, net=False) for group in groups]
    handles = [
        Line2D([], [], color=colours[group.label], linewidth=2, label=label)
        for group, label in zip(groups, labels, strict=True)
    ]
    known = with_errors and any(group.error("test_error") for group in groups)
    legend = axes.legend(
        handles=handles,
        loc="upper left" if with_errors else "best",
        bbox_to_anchor=(-0.02, -0.17) if with_errors else None,
        ncols=_columns(groups) if with_errors else 1,
        handlelength=1.4,
        borderaxespad=0.1,
        title="at the end: train / test error" if known else None,
        title_fontsize=8,
        alignment="left",
        frameon=not with_errors,
        framealpha=0.8,
        edgecolor="none",
    )
    legend.set_in_layout(not with_errors)  # the figure has room for it, and a long name shall not narrow the panel


def _columns(groups: Sequence[Group]) -> int:
    """Of the key below a panel."""
    return 2 if all(len(_net_and_errors(group)) <= SHORT for group in groups) else 1


def _draw_split(axes: Axes, group: Group, split: str, colour: str) -> np.ndarray:
    """The mean curve of one group, with a band where there are several seeds. Returns the mean errors."""
    steps, curves = group.curves(split)
    if not curves:
        return np.array([])
    table = np.array(list(curves.values()))
    mean = table.mean(axis=0)
    width, dash = (0.9, DASHED) if split == "train" else (2.0, "solid")
    axes.plot(steps, mean, color=colour, linewidth=width, linestyle=dash)
    if len(curves) > 1 and split == "test":
        axes.fill_between(steps, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    return mean


def _colours(groups: Sequence[Group]) -> dict[str, str]:
    """A colour for each label; nets alike but for their family, in different panels, share theirs; deeper is darker."""

    def key(group: Group) -> tuple[int, str, str]:
        return group.depth, group.kind.replace(group.family, "", 1), group.label.removeprefix(group.net)

    keys = sorted({key(group) for group in groups})
    shade = dict(zip(keys, shades(len(keys)), strict=True))
    return {group.label: shade[key(group)] for group in groups}


def _net_and_errors(group: Group) -> str:
    name = short_label(group, net=False)
    train, test = group.error("train_error"), group.error("test_error")
    return f"{name}: {train.mean:.1f} / {test.mean:.1f}%" if train and test else name
