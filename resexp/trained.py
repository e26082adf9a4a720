"""Nets that have been trained: from the checkpoint of a run, or from a file of anybody's weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resexp import UserError, checkpoint
from resexp.builder import build_net, check_test, load_data, place_net
from resexp.config import Config
from resexp.console import message
from resexp.data.dataset import Dataset
from resexp.data.normalize import normalization_of
from resexp.evaluate import Evaluation, evaluate
from resexp.run.reader import CHECKPOINT, LEARNED
from resexp.runtime import set_up_device
from resexp.weights import load_weights


def load_trained(run_dir: Path, cfg: Config) -> tuple[dict[str, Any], nn.Module, Dataset]:
    """A run's checkpoint, its net with the weights, and its images, the two on the device. Raises UserError."""
    device = set_up_device(cfg)
    saved = checkpoint.load_matching(run_dir / CHECKPOINT, cfg)
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


@dataclass(frozen=True)
class Evaluated:
    """A net on the test images.

    :param logs: log probabilities (N, classes), and ``labels`` int64 (N,), in the order of the images, on the CPU;
        empty where they were not kept.
    """

    errors: Evaluation
    data: Dataset
    logs: Tensor
    labels: Tensor

    @property
    def predictions(self) -> Tensor:
        """The most probable class of each image, int64 (N,)."""
        return self.logs.argmax(dim=1)

    @property
    def probabilities(self) -> Tensor:
        """Their probabilities, float32 (N,)."""
        return self.logs.max(dim=1).values.exp()

    @property
    def confusion(self) -> Tensor:
        """How many images of each class, a row, were taken for each, a column. int64 (classes, classes)."""
        classes = self.logs.shape[1]
        places = self.labels * classes + self.predictions
        return torch.bincount(places, minlength=classes**2).view(classes, classes)

    def worst(self, count: int) -> list[int]:
        """The places of the images that are most surely wrong, the surest first."""
        wrong = (self.predictions != self.labels).nonzero().flatten()
        return wrong[self.probabilities[wrong].argsort(descending=True, stable=True)[:count]].tolist()


def evaluate_run(run_dir: Path, cfg: Config, *, view: str = "centre", keep: bool = False) -> tuple[int, Evaluated]:
    """The step of a run's checkpoint, and its net on the test images. Raises UserError.

    :param keep: every prediction.
    """
    saved, net, data = load_trained(run_dir, cfg)
    return saved["step"], evaluate_net(cfg, net, data, view=view, keep=keep)


def evaluate_weights(cfg: Config, weights: Path, *, view: str = "centre", keep: bool = False) -> Evaluated:
    """The configured net with the weights of a file on the test images. Raises UserError."""
    net, data = load_with_weights(cfg, weights)
    found = evaluate_net(cfg, net, data, view=view, keep=keep)
    if found.errors.error > LEARNED * 100 * (1 - 1 / len(data.classes)):
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


def evaluate_net(cfg: Config, net: nn.Module, data: Dataset, *, view: str, keep: bool) -> Evaluated:
    """A net on the test images in one view. Raises UserError for a view that these images do not have."""
    p = cfg.protocol
    check_test(cfg, data, view)
    batches: list[tuple[Tensor, Tensor]] = []
    errors = evaluate(
        net,
        data.test,
        normalization_of(data.train, p.normalize, p.mean, p.std),
        precision=p.precision,
        view=view,
        scales=p.test_scales,
        seen=(lambda logs, labels: batches.append((logs.cpu(), labels.cpu()))) if keep else None,
    )
    none = (torch.empty(0, len(data.classes)), torch.empty(0, dtype=torch.int64))
    logs, labels = (torch.cat(parts) for parts in zip(*(batches or [none]), strict=True))
    return Evaluated(errors, data, logs, labels)
