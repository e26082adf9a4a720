"""The charts of ``resexp bench``: loops, phases, shares of the machine's limits, and how the cost grows."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from resexp.figures.style import STYLE, write

BLUES = ("#9ecae1", "#2b86b8", "#084a7a")  # of our loop, a precision each


def draw_bench(results: Sequence[dict[str, Any]], path: Path) -> list[Path]:
    """Bars of one bench: images/s of each loop with its spread, a step's phases, and the shares of the limits.

    :param results: of ``bench.bench``, one for each precision.
    :param path: without a suffix.
    """
    colours = BLUES[1:2] if len(results) == 1 else BLUES
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.6 + 0.8 * len(results)))
        loops, phases, shares = figure.subplots(1, 3, width_ratios=(1.2, 1.1, 0.8))
        for result, colour in zip(results, colours, strict=False):
            said = f" {result['precision']}" if len(results) > 1 else ""
            for name, rates in result["rounds"].items():
                middle = float(np.median(rates))
                spread = [[middle - min(rates)], [max(rates) - middle]]
                fill = colour if name == "resexp" else "0.75"
                loops.barh(name + said, middle, xerr=spread, color=fill, capsize=3, error_kw={"linewidth": 0.8})
        loops.invert_yaxis()
        loops.set_xlabel("training images/s, median, least and most")
        ratio = f", {results[0]['ratio']:.2f} times the best other" if "ratio" in results[0] else ""
        loops.set_title(f"loops{ratio if len(results) == 1 else ''}")
        width = 0.8 / len(results)
        for number, (result, colour) in enumerate(zip(results, colours, strict=False)):
            shift = (number - (len(results) - 1) / 2) * width
            milliseconds = [1000 * seconds for seconds in result["split"].values()]
            places = np.arange(len(milliseconds)) + shift
            bars = phases.bar(places, milliseconds, width, color=colour, label=result["precision"])
            phases.bar_label(bars, fmt="{:.2g}", fontsize=7)
            limits = [100 * result[key] for key in ("share_of_matmul_rate", "share_of_copy_bandwidth")]
            bars = shares.bar(np.arange(2) + shift, limits, width, color=colour)
            shares.bar_label(bars, fmt="{:.0f} %", fontsize=7)
        phases.set_xticks(range(len(results[0]["split"])), list(results[0]["split"]), fontsize=7.5)
        phases.set_ylabel("ms of a step")
        phases.set_title("a step, phase by phase")
        if len(results) > 1:
            phases.legend(loc="upper left", fontsize=7.5)
        shares.set_xticks(range(2), ["arithmetic", "memory"])
        shares.axhline(100, color="0.4", linewidth=0.8)
        shares.set_ylim(0, max(105, 1.15 * max(bar.get_height() for bar in shares.patches)))
        shares.set_ylabel("% of the measured limit")
        shares.set_title("shares of the machine")
        for axes in (loops, phases, shares):
            axes.spines[["top", "right"]].set_visible(False)
        first = results[0]
        title = f"{first['net']}, {first['dataset']}, batch {first['batch_size']}"
        machine = {**first, "precision": " and ".join(result["precision"] for result in results)}
        return _save(figure, path, title, _machine(machine))


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
            spread = [
                [r - p["least"] for r, p in zip(rates, known, strict=True)],
                [p["most"] - r for r, p in zip(rates, known, strict=True)],
            ]
            rate.errorbar(values, rates, yerr=spread, color="#2b86b8", marker="o", markersize=4, capsize=2)
            peaks = [point["peak_memory_bytes"] / 1e9 for point in known]
            memory.plot(values, peaks, color="#a83268", marker="s", markersize=4)
            spared = [
                (v, m)
                for v, m, p in zip(values, peaks, known, strict=True)
                if "activation_checkpointing=true" in p["settings"]
            ]
            for value, peak in spared:
                memory.annotate(
                    "activations\nrecomputed", (value, peak), (0, 8), textcoords="offset points", fontsize=7, ha="right"
                )
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
    return write(figure, path)
