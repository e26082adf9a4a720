"""Nets that have been trained: from the checkpoint of a run, or from a file of anybody's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resexp import UserError, checkpoint
from resexp.build import build_net, is_large, load_data, place_net
from resexp.config import Config
from resexp.console import message
from resexp.data.dataset import Dataset
from resexp.data.normalize import normalization_of
from resexp.evaluate import Evaluation, check_view, evaluate
from resexp.runs.reader import CHECKPOINT
from resexp.runtime import set_up_device
from resexp.weights import load_weights

Seen = Callable[[torch.Tensor, torch.Tensor], None]  # log probabilities (N, classes) and labels (N,) of a batch
LEARNED = 0.5  # of the error of guessing: a net above it has not learned, or does not compute what it was trained for


def load_trained(run_dir: Path, cfg: Config) -> tuple[dict[str, Any], nn.Module, Dataset]:
    """A run's checkpoint, its net with the weights, and its images, the two on the device. Raises UserError."""
    device = set_up_device(cfg)
    saved = checkpoint.load_matching(run_dir / CHECKPOINT, cfg, device)
    if saved is None:
        raise UserError(f"{run_dir}: no {CHECKPOINT}; resume the run to make one")
    torch.set_num_threads(saved["threads"])
    data = load_data(cfg)
    checkpoint.check_data(saved, data.digest(), cfg.dataset.name, run_dir)
    net = build_net(cfg, data)
    try:
        net.load_state_dict(saved["net"])
    except RuntimeError:
        raise UserError(f"{run_dir}: {checkpoint.EARLIER_VERSION}; remove it and train the run again") from None
    return saved, place_net(net, device), data.to(device)


def load_with_weights(cfg: Config, weights: Path) -> tuple[nn.Module, Dataset]:
    """The configured net with the weights of a file, and its images, both on the device. Raises UserError."""
    device = set_up_device(cfg)
    data = load_data(cfg)
    net = build_net(cfg, data)
    names = load_weights(net, weights)
    if cfg.model.stride_in == "1x1" and "layer1.0.conv3.weight" in names:
        message(
            f"weights={weights}: named as torchvision's, whose bottlenecks have their stride in the 3x3; "
            "if these are such, add model.stride_in=3x3"
        )
    return place_net(net, device), data.to(device)


def evaluate_run(
    run_dir: Path, cfg: Config, *, view: str = "centre", seen: Seen | None = None
) -> tuple[int, Evaluation, tuple[str, ...]]:
    """The step of a run's checkpoint, its test error, and the names of the classes. Raises UserError."""
    saved, net, data = load_trained(run_dir, cfg)
    return saved["step"], evaluate_net(cfg, net, data, view, seen), data.classes


def evaluate_weights(cfg: Config, weights: Path, *, view: str = "centre") -> Evaluation:
    """The test error of the configured net with the weights of a file. Raises UserError."""
    net, data = load_with_weights(cfg, weights)
    found = evaluate_net(cfg, net, data, view)
    if found.error > LEARNED * 100 * (1 - 1 / len(data.classes)):
        message(f"weights={weights}: near guessing; check {', '.join(_suspects(cfg))}")
    return found


def _suspects(cfg: Config) -> list[str]:
    """What most often differs between weights that fit and a net that computes what they were trained for."""
    model = cfg.model
    found = ["how images are normalised (protocol.normalize, or protocol.mean and protocol.std)"]
    if model.shortcut == "A":
        found.append("where option A puts its zeros (model.zero_padding=both)")
    if model.shortcut:
        found.append("the shortcut option (model.shortcut)")
    if model.stride_in:
        found.append("the stride of a bottleneck (model.stride_in)")
    return [*found, "the order of the classes"]


def evaluate_net(cfg: Config, net: nn.Module, data: Dataset, view: str, seen: Seen | None = None) -> Evaluation:
    """The test error of a net in one view. Raises UserError for a view that its images do not have."""
    p = cfg.protocol
    check_view(view, cfg.model.family, large=is_large(data))
    normalization = normalization_of(data.train, p.normalize, p.mean, p.std)
    return evaluate(net, data.test, normalization, precision=p.precision, view=view, scales=p.test_scales, seen=seen)
