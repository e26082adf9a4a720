"""The protocol he2015-cifar against a second reading of it: a plain loop, written from the protocol's text alone.

The first half of this file shares no code with resexp. It reads He et al. 2015, Sec. 4.2, with the choices that the
comments of ``conf/protocol/he2015-cifar.yaml`` make where the paper is silent, and takes its steps in float64.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from resexp import config
from resexp.builder import build_optimizer, build_schedule, build_state, load_data
from resexp.data.normalize import Normalization
from resexp.state import State
from resexp.training import train_step

# The second reading


def learning_rate(step: int) -> float:
    """Of the update from ``step`` to ``step + 1``: 0.1, divided by 10 at 32,000 and at 48,000."""
    return 0.1 if step < 32_000 else 0.01 if step < 48_000 else 0.001


def crop_and_flip(image: np.ndarray, top: int, left: int, flip: bool) -> np.ndarray:
    """Four black pixels on each side, a crop of 32x32, and its mirror image or not. (3, 32, 32)."""
    padded = np.zeros((3, 40, 40))
    padded[:, 4:36, 4:36] = image
    crop = padded[:, top : top + 32, left : left + 32]
    return crop[:, :, ::-1] if flip else crop


def convolve(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution with one zero around, as nine shifted products."""
    count, channels, height, width = x.shape
    padded = torch.zeros(count, channels, height + 2, width + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    total = torch.zeros((), dtype=x.dtype)
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i : i + height : stride, j : j + width : stride]
            total = total + torch.einsum("nchw,oc->nohw", shifted, kernel[:, :, i, j])
    return total


def normalise(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch norm over the 128 images of the batch."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


def resnet(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """ResNet of 6n + 2 layers with option A: 16, 32 and 64 channels, 2n layers each; mean over the image; linear."""
    rest = iter(weights[:-2])

    def layer(x: Tensor, stride: int) -> Tensor:
        kernel, scale, shift = next(rest), next(rest), next(rest)
        return normalise(convolve(x, kernel, stride), scale, shift)

    n = (len(weights) - 5) // 18
    x = layer(x, 1).clamp(min=0)
    for stage in range(3):
        for block in range(n):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = layer(layer(x, stride).clamp(min=0), 1)
            shortcut = x[:, :, ::stride, ::stride]
            if stride == 2:  # twice the channels: the new ones are zero
                shortcut = torch.cat([shortcut, torch.zeros_like(shortcut)], dim=1)
            x = (branch + shortcut).clamp(min=0)
    return x.mean(dim=(2, 3)) @ weights[-2].T + weights[-1]


@dataclass
class Reading:
    """The numbers of the protocol; a test changes them, to see that each would be noticed."""

    momentum: float = 0.9
    weight_decay: float = 0.0001
    offsets: int = 9  # 0 to 8
    mean_of_channels: bool = False
    lr_factor: float = 1.0

    def step(
        self,
        weights: list[Tensor],
        velocities: list[Tensor],
        images: np.ndarray,
        labels: np.ndarray,
        draws: list[tuple[int, int, bool]],
        mean: np.ndarray,
        step: int,
    ) -> list[Tensor]:
        """The weights after one update."""
        if self.mean_of_channels:
            mean = np.broadcast_to(mean.mean(axis=(1, 2), keepdims=True), mean.shape)
        inputs = [
            crop_and_flip(image, top % self.offsets, left, flip) / 255 - mean
            for image, (top, left, flip) in zip(images, draws, strict=True)
        ]
        weights = [weight.clone().requires_grad_() for weight in weights]
        logits = resnet(torch.from_numpy(np.stack(inputs)), weights)
        log_probabilities = logits - torch.log(torch.exp(logits).sum(dim=1, keepdim=True))
        loss = -sum(log_probabilities[i, label] for i, label in enumerate(labels.tolist())) / len(labels)
        gradients = torch.autograd.grad(loss, weights)
        after = []
        for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            new = self.momentum * velocity + gradient + self.weight_decay * weight.detach()
            after.append(weight.detach() - self.lr_factor * learning_rate(step) * new)
        return after


# Ours against it


def in_float64(cfg: config.Config, state: State) -> State:
    """A copy of the state whose net, momentum and normalisation are in float64."""
    twin = copy.copy(state)
    twin.net = twin.parallel_net = copy.deepcopy(state.net).double()
    twin.optimizer = build_optimizer(cfg, twin.net)
    twin.optimizer.load_state_dict(state.optimizer.state_dict())
    twin.optimizer.lr = state.optimizer.lr
    twin.batches, twin.counts = copy.copy(state.batches), copy.deepcopy(state.counts)
    usual = state.batches.normalization
    assert usual.mean is not None
    twin.batches.normalization = Normalization(usual.mean.double(), None if usual.std is None else usual.std.double())
    return twin


def disagreements(images: Path, steps: Sequence[int], readings: Sequence[Reading]) -> list[list[float]]:
    """Train as ``resexp train`` does; at these steps, how far each reading's update is from ours, both in float64.

    Ours is that of a copy of the net and its momentum in float64, by the same functions. Relative to the update.
    """
    cfg = config.load(["model=resnet20", "dataset=cifar10", f"dataset.root={images}", "device=cpu"])
    data = load_data(cfg)
    assert (len(data.train), len(data.val), len(data.test)) == (45_000, 5_000, 10_000)
    images_, labels_ = data.train.images, data.train.labels
    state = build_state(cfg, data, torch.device("cpu"))
    mean = state.batches.normalization.mean
    exact_mean = images_.numpy().mean(axis=0, dtype=np.float64) / 255
    assert mean is not None and np.abs(mean.numpy() - exact_mean).max() < 1e-7
    found = []
    for step in range(max(steps) + 1):
        state.optimizer.lr = state.schedule.lr(step)
        drawn = next(state.batches)
        if step in steps:
            twin = in_float64(cfg, state)
            before = [weight.detach().clone() for weight in twin.net.parameters()]
            velocities = [velocity.clone() for velocity in twin.optimizer.buffers()["velocities"]]
            train_step(twin, *drawn)
            ours = torch.cat([(a.detach() - b).flatten() for a, b in zip(twin.net.parameters(), before, strict=True)])

            _, indices, offsets, mirrored = drawn
            draws = [(top, left, flip) for (top, left), flip in zip(offsets.numpy(), mirrored.numpy(), strict=True)]
            raw, answers = images_[indices].numpy(), labels_[indices].numpy()
            differences = []
            for reading in readings:
                after = reading.step(before, velocities, raw, answers, draws, mean.double().numpy(), step)
                theirs = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)])
                differences.append(float((ours - theirs).norm() / theirs.norm()))
            found.append(differences)
        train_step(state, *drawn)
    return found


@pytest.mark.images
def test_every_tenth_of_200_updates_is_that_of_the_second_reading(images: Path) -> None:
    found = [difference for (difference,) in disagreements(images, range(0, 200, 10), [Reading()])]
    print("relative differences:", " ".join(f"{value:.1e}" for value in found))
    assert len(found) == 20 and max(found) < 1e-6


@pytest.mark.images
def test_a_misreading_is_noticed(images: Path) -> None:
    wrong = [
        Reading(momentum=0.89),
        Reading(weight_decay=0.0),
        Reading(offsets=8),
        Reading(mean_of_channels=True),
        Reading(lr_factor=1.01),
    ]
    (differences,) = disagreements(images, [10], wrong)
    assert min(differences) > 1e-4, differences


@pytest.mark.parametrize("depth", [20, 110])
def test_the_rates_of_all_64000_steps_are_those_of_the_second_reading(depth: int) -> None:
    """From 110 layers on with the warm-up before: 0.01 until the mean error of 100 batches is below 80 %."""
    cfg = config.load([f"model=resnet{depth}", "dataset=cifar10"])
    schedule = build_schedule(cfg)
    for step in range(64_000):
        warm = depth >= 110 and step < 400
        assert schedule.lr(step) == pytest.approx(0.01 if warm else learning_rate(step), rel=1e-12), step
        if schedule.warming_up:
            schedule.observe(step + 1, 80.0 if step < 399 else 70.0)
    assert cfg.protocol.steps == 64_000


# Of other papers: what is not he2015-cifar's, read a second time


@dataclass
class Other:
    """A protocol of another paper: its numbers, and the epochs after which the rate drops."""

    batch_size: int
    weight_decay: float
    images: int
    epochs: int
    drops: Sequence[float]
    norm_group: int | None = None
    drop_factor: float = 0.1


OTHERS = {
    "huang2017-cifar": Other(64, 0.0001, 50_000, 300, (150, 225)),
    "xie2017-cifar": Other(128, 0.0005, 50_000, 300, (149, 224), norm_group=16),
    "huang2016-cifar": Other(128, 0.0001, 45_000, 500, (250, 375)),
    "li2018-cifar": Other(128, 0.0005, 50_000, 300, (150, 225, 275)),
    "zagoruyko2016-cifar": Other(128, 0.0005, 50_000, 200, (59, 119, 159), drop_factor=0.2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_rates_of_other_papers_are_those_of_a_second_reading(name: str) -> None:
    """By epochs of the number of batches that a loader has, rounded up or down."""
    other, cfg = OTHERS[name], config.load(["dataset=cifar10", f"protocol={name}"])
    schedule, epoch = build_schedule(cfg), other.images / other.batch_size
    assert cfg.protocol.steps == pytest.approx(other.epochs * epoch, rel=0.002)
    for step in range(0, cfg.protocol.steps, 101):
        passed = [step / epoch / drop for drop in other.drops]
        if all(abs(one - 1) > 0.005 for one in passed):
            factor = other.drop_factor ** sum(one > 1 for one in passed)
            assert schedule.lr(step) == pytest.approx(0.1 * factor, rel=1e-9), step
    assert cfg.protocol.norm_group == other.norm_group and cfg.protocol.val_size == 50_000 - other.images


@pytest.mark.images
@pytest.mark.parametrize("name", OTHERS)
def test_two_updates_of_other_papers_are_those_of_a_second_reading(images: Path, name: str) -> None:
    """The channels' statistics, and Nesterov's momentum; forward and backward are those that the test above reads.

    With u = w - rate momentum v, the weights as the authors' framework keeps them: u' = u - rate (g + momentum v').
    """
    other = OTHERS[name]
    words = ["model=plain8", "dataset=cifar10", f"dataset.root={images}", f"protocol={name}", "device=cpu"]
    cfg = config.load([*words, "protocol.norm_group=null"])
    state = build_state(cfg, load_data(cfg), torch.device("cpu"))
    state = in_float64(cfg, state)
    pixels = load_data(cfg).train.images.numpy().astype(np.float64) / 255
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    found = state.batches.normalization
    assert found.mean is not None and found.std is not None
    np.testing.assert_allclose(found.mean[:, 0, 0].numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(found.std[:, 0, 0].numpy(), std, rtol=1e-4)
    weights = [weight.detach().clone() for weight in state.net.parameters()]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for _ in range(2):
        state.follow_schedule()
        drawn = next(state.batches)
        assert len(drawn[1]) == other.batch_size
        train_step(state, *drawn)
        gradients = [weight.grad for weight in state.net.parameters()]
        for index, gradient in enumerate(gradients):
            assert gradient is not None
            full = gradient + other.weight_decay * weights[index]
            velocities[index] = 0.9 * velocities[index] + full
            weights[index] = weights[index] - 0.1 * (full + 0.9 * velocities[index])
        state.step += 1
        for ours, theirs in zip(state.net.parameters(), weights, strict=True):
            torch.testing.assert_close(ours.detach(), theirs, rtol=1e-12, atol=1e-14)
