"""Training with a few random blocks in each step, as an ensemble of short paths allows (Veit et al. 2016, Sec. 5)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from resexp.analysis.subject import Trained, blocks_of, error_of, replaced
from resexp.analysis.units import Dropped
from resexp.builder import build_state
from resexp.console import message
from resexp.studies.finding import Row
from resexp.training import train_step


@contextmanager
def only(model: Any, indices: Sequence[int] | np.ndarray) -> Iterator[None]:
    """The model with these blocks alone; its others pass x on."""
    places = [(stage, index) for stage in model.stages for index in range(len(stage))]
    others = [place for number, place in enumerate(places) if number not in set(map(int, indices))]
    with replaced(others, [Dropped(stage[index]) for stage, index in others]):
        yield


def train_both(net: Trained, steps: int, chosen: int, seed: int) -> list[Row]:
    """Training with ``chosen`` blocks per step against all, and why the whole net differs from those trained.

    With all blocks the sum at the end is larger than any that batch norm saw. If that is the cause, the error falls
    when F is scaled by the share of blocks, as stochastic depth does, or when batch norm's statistics are recomputed.
    """
    count = len(blocks_of(net))
    short, full = (train_some(net, steps, number, seed) for number in (chosen, count))
    images = net.images("test")
    expected, source = "no difference after a full training; not tested by so short a one", "Veit et al. 2016, Sec. 5"
    what = f"test error after {steps} steps of {chosen} of {count} blocks, drawn for each batch; "
    whole, reference = error_of(short, *images), error_of(full, *images)
    blocks = [block for stage in short.stages for block in stage]
    for block in blocks:
        block.survival = chosen / count
    scaled = error_of(short, *images)
    for block in blocks:
        block.survival = 1.0
    refresh_statistics(short, net)
    renewed = error_of(short, *images)
    message(f"paths: trained {steps} steps with {chosen} of {count} blocks, and with all")
    return [
        Row(
            id="short-training",
            what=what + how,
            measured=f"{error:.2f} % against {reference:.2f} % of all",
            expected=expected,
            source=source,
        )
        for how, error in (
            ("the whole net", whole),
            (f"F scaled by {chosen}/{count}", scaled),
            ("batch norm's statistics recomputed", renewed),
        )
    ]


def train_some(net: Trained, steps: int, chosen: int, seed: int) -> Any:
    """A new net after ``steps`` steps of the protocol, ``chosen`` random blocks in each; in evaluation mode.

    The learning rate falls at a half and at three quarters.
    """
    cfg, p = net.cfg, net.cfg.protocol
    state = build_state(cfg, net.data, next(net.net.parameters()).device)
    random = np.random.default_rng(seed)
    count = len(blocks_of(net))
    for step in range(steps):
        state.optimizer.lr = p.lr * 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4))
        drawn = next(state.batches)
        with only(state.net, random.choice(count, chosen, replace=False)):
            train_step(state, *drawn)
    state.batches.close()
    return state.net.eval()


@torch.no_grad()
def refresh_statistics(model: Any, net: Trained) -> None:
    """Batch norm's running statistics as those of the training images, with all blocks of the model."""
    model.train()
    inputs, _ = net.images("train")
    for _ in range(3):
        for part in inputs.split(net.cfg.protocol.batch_size):
            model(part)
    model.eval()
