"""How fast a net trains here: against the usual loop, against the machine's own limit, and as the net grows."""

import dataclasses
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from resexp import UserError, config, system
from resexp.bench.process import LoopProcess
from resexp.config import Config
from resexp.console import message
from resexp.run.env import versions
from resexp.runtime import set_up_device

__all__ = ["GROWTH_BASE", "bench", "growth", "measure_together"]

SPLIT_STEPS = 5
SLOW_SECONDS = 4.0  # of a step: two of them tell enough of how the cost grows
WORKERS = {"cpu": (0, 1, 2), "cuda": (0, 1, 2, 8, 16)}  # of the reference's DataLoader; the fastest counts
CORES = system.cores()
GROWTH_BASE = (
    "model=resnet20",
    "dataset=synthetic",
    "dataset.examples=2048",
    "dataset.image_size=32",
    "protocol=he2015-cifar",
    "protocol.val_size=0",
)
AXES: dict[str, list[tuple[int, list[str], int]]] = {  # of growth: value, settings, loops at once
    "depth": [
        *((depth, [f"model=resnet{depth}"], 1) for depth in (20, 32, 44, 56, 110)),
        (1202, ["model=resnet1202", "activation_checkpointing=true"], 1),
    ],
    "batch": [(batch, [f"protocol.batch_size={batch}"], 1) for batch in (32, 64, 128, 256, 512, 1024)],
    "image side": [
        (side, [f"dataset.image_size={side}", "protocol.batch_size=32"], 1) for side in (8, 16, 32, 64, 128, 224)
    ],
    "runs side by side": [(runs, [], runs) for runs in (1, 2, 4, 8, 16) if runs <= CORES],
}
FAST, PLAIN = "resexp", "resexp, fast=false"


def bench(cfgs: Sequence[Config], *, against: str | None, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure images/s in training, ``rounds`` times ``steps`` steps of each loop, in alternation.

    Each loop lives in a process of its own, as it would in use, and sleeps while another one is measured. The machine's
    limits are measured in every round too.

    :param cfgs: one net in one or several precisions.
    :param against: ``"reference"``, the usual loop; ``"plain"``, ours without its fast paths; or None.
    :return: for each of ``cfgs`` plain values: ``images_per_s`` (median), ``rounds`` of each loop, ``split``,
        ``limits``, shares of them, and with ``against`` the ``ratio``: the median over the rounds of ours against the
        best of the other loops; ``ratio_to_first``: against the best other loop of the first precision.
    :raises UserError: for bad data.
    """
    lanes = [_Lane(cfg, {FAST: (cfg, None), **_other_loops(cfg, against)}) for cfg in cfgs]
    with ExitStack() as stack:
        for lane in lanes:
            lane.start(stack)
        for index in range(rounds):
            for lane in lanes:
                lane.measure(steps)
            last = ", ".join(f"{name} {rate:,.0f}" for lane in lanes for name, rate in lane.last(len(lanes) > 1))
            message(f"round {index + 1} of {rounds}, images/s: {last}")
        return [lane.result(steps, lanes[0]) for lane in lanes]


class _Lane:
    """The loops of one precision, each in its process, and what was measured of them."""

    def __init__(self, cfg: Config, loops: dict[str, tuple[Config, int | None]]) -> None:
        self.cfg, self.settings = cfg, loops
        self.loops: dict[str, LoopProcess] = {}
        self.rates: dict[str, list[float]] = {name: [] for name in loops}
        self.limits: list[dict[str, float]] = []
        self.facts: dict[str, Any] = {}
        self.peak = 0

    def start(self, stack: ExitStack) -> None:
        """All are ready when this returns."""
        self.loops = {name: stack.enter_context(LoopProcess(*its)) for name, its in self.settings.items()}
        self.facts = {name: loop.receive() for name, loop in self.loops.items()}[FAST]

    def measure(self, steps: int) -> None:
        """One round."""
        for name, loop in self.loops.items():
            self.rates[name].append(steps * self.cfg.protocol.batch_size / loop.ask("steps", steps))
        if not self.limits:
            self.peak = self.loops[FAST].ask("peak")  # before the limits, which take memory of their own
        self.limits.append(self.loops[FAST].ask("limits"))

    def last(self, several: bool) -> list[tuple[str, float]]:
        """The rates of the last round; ``several``: named with their precision."""
        said = f" {self.cfg.protocol.precision}" if several else ""
        return [(name + said, values[-1]) for name, values in self.rates.items()]

    @property
    def best_other(self) -> str | None:
        """The fastest of the loops that are not ours."""
        others = [name for name in self.rates if name != FAST]
        return max(others, key=lambda name: statistics.median(self.rates[name])) if others else None

    def result(self, steps: int, first: "_Lane") -> dict[str, Any]:
        seconds = self.cfg.protocol.batch_size / statistics.median(self.rates[FAST])
        limit = {key: statistics.median(measured[key] for measured in self.limits) for key in self.limits[0]}
        found: dict[str, Any] = {
            **_circumstances(self.cfg),
            **self.facts,
            "steps": steps,
            "images_per_s": statistics.median(self.rates[FAST]),
            "rounds": self.rates,
            "seconds_per_step": seconds,
            "split": self.loops[FAST].ask("split", SPLIT_STEPS),
            "operations_per_step": {
                name: self.loops[name].ask("operations") for name in (FAST, PLAIN) if name in self.loops
            },
            "peak_memory_bytes": self.peak,
            "limits": limit,
            "share_of_matmul_rate": self.facts["flops_per_step"] / seconds / limit["matmul_flops_per_s"],
            "share_of_copy_bandwidth": self.facts["bytes_per_step"] / seconds / limit["copy_bytes_per_s"],
        }
        if self.best_other and first.best_other:
            found["reference"] = self.best_other
            found["ratio"] = self._ratio(self.rates[self.best_other])
            found["ratio_to_first"] = self._ratio(first.rates[first.best_other])
        return found

    def _ratio(self, others: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(self.rates[FAST], others, strict=True))


def _other_loops(cfg: Config, against: str | None) -> dict[str, tuple[Config, int | None]]:
    """By name: the settings of a loop, and the workers of the usual one's DataLoader."""
    if against == "plain":
        return {PLAIN: (dataclasses.replace(cfg, fast=False), None)}
    if against is None:
        return {}
    if cfg.protocol.optimizer != "sgd":
        rule = "the usual loop has SGD; drop one of the two"
        raise UserError(f"--against reference protocol.optimizer={cfg.protocol.optimizer}: {rule}")
    if cfg.dataset.source == "imagenet":
        raise UserError(
            f"--against reference dataset={cfg.dataset.name}: the usual loop takes decoded images; "
            "--images compares the ways to read these"
        )
    kind = "cuda" if set_up_device(cfg).type == "cuda" else "cpu"
    return {f"reference, {workers} workers": (cfg, workers) for workers in WORKERS[kind]}


def growth(overrides: Sequence[str], *, config_dir: Path | None = None, steps: int) -> dict[str, Any]:
    """Images/s and peak memory as one thing grows and the others stay: depth, batch, image side, runs side by side.

    On random images, so that the side can be any. A point that cannot be measured, for lack of memory, says why.

    :param overrides: settings for all points, but for what an axis varies.
    :return: plain values: ``axes``, a list of points for each axis.
    :raises UserError: for bad settings.
    """
    result: dict[str, Any] = {"axes": {}}
    for axis, points in AXES.items():
        measured = result["axes"][axis] = []
        for value, words, together in points:
            chosen = {word.partition("=")[0]: word for word in (*GROWTH_BASE, *overrides, *words)}
            cfg = config.load(list(chosen.values()), config_dir)
            point = measure_together(cfg, together, steps)
            result |= {"precision": cfg.protocol.precision, "versions": versions()}
            result["hardware"] = point.pop("hardware", result.get("hardware"))
            measured.append({"value": value, "settings": words, **point})
            message(f"{axis} {value}: {point.get('failed') or format(point['images_per_s'], ',.1f') + ' images/s'}")
    return result


def measure_together(cfg: Config, together: int, steps: int) -> dict[str, Any]:
    """``together`` loops at once, sharing the cores: images/s of all, and the peak memory of one."""
    if together > 1 and cfg.threads is None:
        cfg = dataclasses.replace(cfg, threads=max(1, CORES // together))
    with ExitStack() as stack:
        loops = [stack.enter_context(LoopProcess(cfg)) for _ in range(together)]
        try:
            facts, *_ = [loop.receive() for loop in loops]
            slow = loops[0].ask("steps", 1) > SLOW_SECONDS
            count, repeats = (1, 2) if slow else (steps, 3)
            rates = []
            for _ in range(repeats):
                for loop in loops:
                    loop.send("steps", count)
                rates.append(sum(count * cfg.protocol.batch_size / loop.receive() for loop in loops))
            return {
                "images_per_s": statistics.median(rates),
                "least": min(rates),
                "most": max(rates),
                "peak_memory_bytes": max(loop.ask("peak") for loop in loops),
                "threads": facts["threads"],
                "hardware": facts["hardware"],
            }
        except EOFError:
            return {"failed": "its process ended, out of memory or by the error above"}
        except UserError as error:
            return {"failed": str(error)}


def _circumstances(cfg: Config) -> dict[str, Any]:
    """What was measured, where and with what."""
    return {
        "net": cfg.model.name,
        "width": cfg.model.width,
        "dataset": cfg.dataset.name,
        "batch_size": cfg.protocol.batch_size,
        "precision": cfg.protocol.precision,
        "versions": versions(),
    }
