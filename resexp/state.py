"""All that changes while a net trains; a checkpoint holds it, with facts about the run. Each part owns its state."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resexp.data.batches import Batches
from resexp.meter import Counts, Stopwatch
from resexp.optim import Optimizer
from resexp.parallel import World
from resexp.schedule import Schedule

FORMAT = 2  # of a checkpoint; training does not go on from one of another format


class Noise:
    """What dropout and stochastic depth draw from: torch's own generators, which take no other.

    Nothing is seeded before ``start``.

    :param rank: processes of one rank draw the same.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self.device, self.rank = device, rank
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index or 0])
        elif device.type == "mps":
            self.generators.append(torch.mps._get_default_mps_generator())
        number = stream_seed(seed, stream=3 + rank)
        self.states = [torch.Generator(g.device).manual_seed(number).get_state() for g in self.generators]

    def start(self) -> None:
        """Set torch's generators to the state of this run."""
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state.cpu())

    def state_dict(self) -> list[Tensor]:
        """Of a run that has started."""
        return [generator.get_state() for generator in self.generators]

    def load_state_dict(self, states: list[Tensor]) -> None:
        """Before ``start``."""
        self.states = states


@dataclass
class State:
    """A net and all that trains it.

    :param parallel_net: the net, with gradients averaged over all processes.
    :param scaler: of the loss in fp16; in other precisions it does nothing.
    :param strengths: of the shortcuts that fade: buffers of the net.
    :param results: the last evaluation, and the best by validation images.
    """

    net: nn.Module
    parallel_net: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    batches: Batches
    noise: Noise
    counts: Counts
    watch: Stopwatch
    precision: str
    seed: int
    world: World
    strengths: Sequence[Tensor] = ()
    step: int = 0
    results: dict[str, float] = field(default_factory=dict)

    def follow_schedule(self) -> None:
        """Give the next update its learning rate, and shortcuts that fade their strength."""
        self.optimizer.lr = self.schedule.lr(self.step)
        for strength in self.strengths:
            strength.fill_(self.schedule.shortcut(self.step))

    def state_dict(self) -> dict[str, Any]:
        """The state of the whole run, on rank 0; every rank takes part in collecting it."""
        return {
            "format": FORMAT,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}),
            "schedule": self.schedule.state_dict(),
            "batches": self.batches.state_dict(),
            "noise": self.world.gather(self.noise.state_dict()),
            "counts": self.counts.state_dict(),
            "watch": self.watch.state_dict(),
            "step": self.step,
            "results": self.results,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The state of a run that had any number of processes. Raises KeyError or RuntimeError if it does not fit."""
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scaler.is_enabled() and "scaler" in saved:  # a run in fp32 that goes on in fp16 has none yet
            self.scaler.load_state_dict(saved["scaler"])
        self.schedule.load_state_dict(saved["schedule"])
        self.batches.load_state_dict(saved["batches"])
        self.counts.load_state_dict(saved["counts"])
        self.watch.load_state_dict(saved["watch"])
        self.step, self.results = saved["step"], dict(saved["results"])
        rank = self.noise.rank
        if rank < len(saved["noise"]):
            self.noise.load_state_dict(saved["noise"][rank])
        else:  # a process that was not there before: noise of its own, never that of another
            self.noise = Noise(self.seed + self.step, self.noise.device, rank)


def seeded_generator(seed: int, *, stream: int, device: torch.device) -> torch.Generator:
    """The generator of one of a seed's independent streams: 1 for the order, 2 for the augmentation."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream=stream))


def stream_seed(seed: int, *, stream: int) -> int:
    """Seeds far apart for the random streams of one seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # the CPU's generator keeps only 32 bits
