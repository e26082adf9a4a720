"""Gates as a highway in time: an RNN and a GRU that must remember their first input (Cho et al. 2014).

An RNN applies one layer again and again, as a plain net of as many layers as there are steps; a GRU carries its state
past the layer by a gate, as a highway net does (Srivastava et al. 2015, Sec. 2). As there, the gate's bias decides: at
0 it lets half of the state through at each step, and nothing is left after fifty; started so that it carries (their
Sec. 2.2), it is a highway. The task: the sign of the first of T numbers, the others being noise. How much of the
gradient reaches the first step is measured in the fresh nets.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.console import message
from resexp.run.reader import LEARNED
from resexp.studies.finding import Finding, Panel, Row, Series

SOURCE = "Cho et al. 2014; Srivastava et al. 2015, Sec. 2"
BATCH = 64
CHANCE = 50.0
LEAST_DRAWN = 1e-60  # a gradient below it is drawn there
NOISE = 0.3  # deviation of the numbers that are not to be remembered
CARRIES = 4.0  # bias of the update gate: sigmoid(4) = 0.98 of the state is kept at each step
KINDS = {"RNN": 0.0, "GRU, bias 0": 0.0, f"GRU, bias {CARRIES:g}": CARRIES}


class Memory(nn.Module):
    """A recurrent layer and a linear classifier on its last state. (N, T, 1) -> (N, 2).

    :param bias: of a GRU's update gate, at the start.
    """

    def __init__(self, kind: str, width: int, bias: float = 0.0) -> None:
        super().__init__()
        self.layer: Any = {"RNN": nn.RNN, "GRU": nn.GRU}[kind](1, width, batch_first=True)
        self.head: Any = nn.Linear(width, 2)
        if isinstance(self.layer, nn.GRU):
            with torch.no_grad():
                biases = dict(self.layer.named_parameters())["bias_hh_l0"]
                biases[width : 2 * width] = bias  # torch's order: reset, update, new

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x)
        return self.head(states[:, -1])


def analyze(
    *,
    lengths: tuple[int, ...] = (50, 100, 200),
    width: int = 32,
    steps: int = 250,
    rate: float = 0.003,
    seeds: int = 3,
    seed: int = 0,
) -> Finding:
    """Both nets at each length: the gradient at the start, and the error after training.

    :param lengths: steps in time between the number to remember and the answer.
    :param width: of the state.
    :param steps: of the training, Adam at ``rate``, batches of 64 fresh sequences.
    :param seeds: trainings of each.
    """
    torch.set_num_threads(1)  # a step in time is too small for two
    trained, decays = measure(lengths, width, steps, rate, seeds, seed)
    curves = [_curve(kind, length, errors) for (kind, length), errors in trained.items()]
    reach = [
        Series(label=kind, x=range(max(lengths)), y=np.mean(decay, axis=0).clip(LEAST_DRAWN).tolist())
        for kind, decay in decays.items()
    ]
    fresh = [
        Row(
            id="reach",
            what=f"{kind}, fresh: gradient at the first of {max(lengths)} steps, of that at the last",
            measured=f"{np.mean([one[-1] for one in decay]):.1e}",
        )
        for kind, decay in decays.items()
    ]
    rows = [*fresh, *(_row(length, {kind: trained[kind, length] for kind in KINDS}) for length in lengths)]
    return Finding(
        analysis="recurrent",
        title="Gates as a highway in time: remembering the first input",
        about=f"Sign of the first of T numbers, the others normal of deviation {NOISE}; one recurrent layer of {width} "
        f"units, torch's initialisation, Adam at {rate}, {steps} steps of {BATCH} fresh sequences, "
        f"mean of {seeds} seeds from {seed}.",
        panels=[
            Panel(title="error in training", x="steps of training", y="error (%)", series=curves),
            Panel(
                title="gradient of the answer, fresh nets",
                x="steps before the end",
                y="norm, of that at the end",
                series=reach,
                log_y=True,
            ),
        ],
        rows=rows,
    )


def measure(
    lengths: Sequence[int], width: int, steps: int, rate: float, seeds: int, seed: int
) -> tuple[dict[tuple[str, int], list[list[float]]], dict[str, list[list[float]]]]:
    """By kind and length the errors in training, by kind the gradients by age of fresh nets; of each seed."""
    trained: dict[tuple[str, int], list[list[float]]] = {}
    decays: dict[str, list[list[float]]] = {}
    for kind in KINDS:
        for length in lengths:
            trained[kind, length] = [
                train_memory(kind, length, width, steps, rate, seed + number) for number in range(seeds)
            ]
            message(f"recurrent: {kind} over {length} steps: {seeds} trainings")
        decays[kind] = [gradient_by_age(kind, max(lengths), width, seed + number) for number in range(seeds)]
    return trained, decays


def _curve(kind: str, length: int, errors: list[list[float]]) -> Series:
    """The error in training, averaged over seeds and over about a fortieth of the steps."""
    seeds, steps = len(errors), len(errors[0])
    every = max(1, steps // 40)
    means = np.array(errors)[:, : steps // every * every].reshape(seeds, -1, every).mean(axis=2)
    return Series(
        label=f"{kind}, {length} steps",
        x=range(every, steps // every * every + 1, every),
        y=means.mean(axis=0).tolist(),
        style="line" if KINDS[kind] else "thin",
    )


def _row(length: int, trained: dict[str, list[list[float]]]) -> Row:
    """The errors over the last tenth of the steps, in each seed."""
    plain, half, carries = KINDS
    last = {
        kind: [float(np.mean(errors[-max(1, len(errors) // 10) :])) for errors in runs]
        for kind, runs in trained.items()
    }
    mean = {kind: f"{np.mean(values):.1f} %" for kind, values in last.items()}
    return Row(
        id=f"gate-remembers-{length}",
        what=f"error after training over {length} steps: {carries} below {plain} in each seed ({half})",
        measured=f"{mean[carries]} against {mean[plain]} ({mean[half]})",
        expected=f"below; chance is {CHANCE:.0f} %",
        source=SOURCE,
        # If no net of either kind remembers, which is the better says nothing.
        agrees=max(last[carries]) < min(last[plain]) if min(*last[carries], *last[plain]) <= LEARNED * CHANCE else None,
    )


def build_memory(kind: str, width: int) -> Memory:
    """One of ``KINDS``, with torch's initialisation but for the gate's bias."""
    return Memory(kind[:3], width, KINDS[kind])


def sequences(count: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers (count, length, 1), the first 1 or -1, the others noise; and whether the first is positive (count,)."""
    x = NOISE * torch.randn(count, length, 1, generator=random)
    labels = torch.randint(2, (count,), generator=random)
    x[:, 0, 0] = 2.0 * labels - 1
    return x, labels


def train_memory(kind: str, length: int, width: int, steps: int, rate: float, seed: int) -> list[float]:
    """The error (%) of each batch as the net trains."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_memory(kind, width)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    errors = []
    for _ in range(steps):
        inputs, labels = sequences(BATCH, length, random)
        logits = net(inputs)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        errors.append(100 * float((logits.argmax(dim=1) != labels).float().mean()))
    return errors


def gradient_by_age(kind: str, length: int, width: int, seed: int) -> list[float]:
    """The norm of the loss' gradient for each input of a fresh net, from the last to the first, of that of the last."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_memory(kind, width).double()
    inputs, labels = sequences(BATCH, length, random)
    inputs = inputs.double().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(net(inputs), labels), inputs)[0]
    norms: Sequence[float] = gradient.square().sum(dim=(0, 2)).sqrt().flip(0).tolist()
    return [norm / norms[0] for norm in norms]
