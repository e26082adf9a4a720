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
        return _write(figure, path)


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


def draw_bench(result: dict[str, Any], path: Path) -> list[Path]:
    """Bars of one bench: images/s of each loop with its spread, a step's phases, and the shares of the limits.

    :param result: of ``bench.bench``.
    :param path: without a suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.4))
        loops, phases, shares = figure.subplots(1, 3, width_ratios=(1.2, 1.1, 0.8))
        names = list(result["rounds"])
        median = [float(np.median(result["rounds"][name])) for name in names]
        spread = [[m - min(r) for m, r in zip(median, result["rounds"].values(), strict=True)],
                  [max(r) - m for m, r in zip(median, result["rounds"].values(), strict=True)]]  # fmt: skip
        colours = ["#2b86b8" if name == "resexp" else "0.75" for name in names]
        loops.barh(names, median, xerr=spread, color=colours, capsize=3, error_kw={"linewidth": 0.8})
        loops.invert_yaxis()
        loops.set_xlabel("training images/s, median, least and most")
        ratio = f", {result['ratio']:.2f} times the best other" if "ratio" in result else ""
        loops.set_title(f"loops{ratio}")
        milliseconds = [1000 * seconds for seconds in result["split"].values()]
        bars = phases.bar(list(result["split"]), milliseconds, color="#2b86b8")
        phases.bar_label(bars, fmt="{:.3g}", fontsize=8)
        phases.tick_params(axis="x", labelsize=7.5)
        phases.set_ylabel("ms of a step")
        phases.set_title("a step, phase by phase")
        limits = {"arithmetic": result["share_of_matmul_rate"], "memory": result["share_of_copy_bandwidth"]}
        bars = shares.bar(list(limits), [100 * share for share in limits.values()], color=["#e69f00", "#a83268"])
        shares.bar_label(bars, fmt="{:.0f} %", fontsize=8)
        shares.axhline(100, color="0.4", linewidth=0.8)
        shares.set_ylim(0, max(105.0, *(115 * share for share in limits.values())))
        shares.set_ylabel("% of the measured limit")
        shares.set_title("shares of the machine")
        for axes in (loops, phases, shares):
            axes.spines[["top", "right"]].set_visible(False)
        title = f"{result['net']}, {result['dataset']}, batch {result['batch_size']}, {result['precision']}"
        return _save(figure, path, title, _machine(result))


def draw_growth(result: dict[str, Any], path: Path) -> list[Path]:
    """Images/s and peak memory against what grows, one column each, both axes logarithmic.

    :param result: of ``bench.growth``.
    :param path: without a suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 4.8))
        columns = figure.subplots(2, len(result["axes"]), sharey="row", squeeze=False).T
        for (axis, points), (rate, memory) in zip(result["axes"].items(), columns, strict=True):
            known = [point for point in points if "images_per_s" in point]
            values = [point["value"] for point in known]
            rates = [point["images_per_s"] for point in known]
            spread = [[r - p["least"] for r, p in zip(rates, known, strict=True)],
                      [p["most"] - r for r, p in zip(rates, known, strict=True)]]  # fmt: skip
            rate.errorbar(values, rates, yerr=spread, color="#2b86b8", marker="o", markersize=4, capsize=2)
            peaks = [point["peak_memory_bytes"] / 1e9 for point in known]
            memory.plot(values, peaks, color="#a83268", marker="s", markersize=4)
            spared = [(v, m) for v, m, p in zip(values, peaks, known, strict=True)
                      if "activation_checkpointing=true" in p["settings"]]  # fmt: skip
            for value, peak in spared:
                memory.annotate("activations\nrecomputed", (value, peak), (0, 8), textcoords="offset points",
                                fontsize=7, ha="right")  # fmt: skip
            for axes in (rate, memory):
                axes.set(xscale="log", yscale="log")
                axes.set_xticks(values, _apart(values), minor=False, fontsize=7.5)
                axes.minorticks_off()
                axes.grid(color="0.92", linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
            memory.set_yticks(ticks := [0.5, 1, 2, 4, 8, 16, 32, 64], [f"{tick:g}" for tick in ticks])
            memory.set_ylim(*_memory_range(result))
            memory.set_xlabel(axis)
        columns[0][0].set_ylabel("training images/s")
        columns[0][1].set_ylabel("peak memory, GB")
        note = "ResNet-20, width 16, 32x32 random images, batch 128, but for what grows; image side: batch 32. "
        return _save(figure, path, "How the cost of a training step grows", note + _machine(result))


def _apart(values: Sequence[float]) -> list[str]:
    """Tick labels of a logarithmic axis, without those that would run into the one before."""
    labels, last = [], -np.inf
    width = np.log(values[-1] / values[0]) / 8 if len(values) > 1 else 0.0
    for value in values:
        clear = np.log(value) - last >= width
        labels.append(f"{value:g}" if clear else "")
        last = np.log(value) if clear else last
    return labels


def _memory_range(result: dict[str, Any]) -> tuple[float, float]:
    """GB, with room for the annotation."""
    peaks = [p["peak_memory_bytes"] / 1e9 for points in result["axes"].values() for p in points if "images_per_s" in p]
    return min(peaks) / 1.3, max(peaks) * 1.3


def _machine(result: dict[str, Any]) -> str:
    hardware, versions = result["hardware"], result["versions"]
    device = "" if hardware["device"] == "cpu" else f"{hardware['device']}, "
    return (
        f"{device}{hardware['cores']} cores {hardware['cpu']}, {result['precision']}; torch {versions['torch']}, "
        f"Python {versions['python']}."
    )


def _save(figure: Figure, path: Path, title: str, caption: str) -> list[Path]:
    """Title above, caption below; PNG and SVG."""
    lines = textwrap.wrap(caption, 150)
    below = (0.12 + 0.13 * len(lines)) / figure.get_figheight()
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.tight_layout(rect=(0, below, 1, 1))
    figure.text(0.012, 0.06 / figure.get_figheight(), "\n".join(lines), fontsize=7, color="0.25", va="bottom")
    return _write(figure, path)


def _write(figure: Figure, path: Path) -> list[Path]:
    """As PNG and SVG; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
    figure.savefig(written[0], dpi=160)
    figure.savefig(written[1], metadata={"Date": None})
    return written
