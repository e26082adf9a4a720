"""What is analysed: a net with its weights and its images, read from a run or from a file of weights."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError, config
from resexp.catalog import label_of
from resexp.config import Config, ProtocolConfig
from resexp.data.dataset import Dataset
from resexp.data.normalize import Normalization, normalization_of
from resexp.models.blocks import Block
from resexp.models.build import count_macs, use_kernels
from resexp.models.connections import Add
from resexp.models.resnet import Stage
from resexp.models.vgg import Layer
from resexp.run.reader import CONFIG, LEARNED, Run
from resexp.runtime import choose_threads
from resexp.studies.alike import are_comparable
from resexp.trained import load_trained, load_with_weights

BATCH = 500  # images evaluated at once
JUDGED_ON = 1000  # training images that decide whether a net has learned
BESIDE = {"steps", "eval_every", "log_every", "save_seconds"}  # of a protocol: said elsewhere, or of no effect


@dataclass(frozen=True)
class Trained:
    """A net in evaluation mode, on its device.

    :param label: the net's name, with the settings that are not its paper's.
    :param weights: the file that they come from; empty: a run.
    """

    label: str
    cfg: Config
    net: Any
    data: Dataset
    normalization: Normalization
    weights: str = ""

    @property
    def chance(self) -> float:
        """The error of guessing, in percent."""
        return 100 * (1 - 1 / len(self.data.classes))

    @functools.cached_property
    def train_error(self) -> float:
        """On the first training images, in evaluation mode, in percent."""
        return error_of(self.net, *self.images("train", JUDGED_ON))

    @property
    def has_learned(self) -> bool:
        """Whether its training error is at most half of that of guessing: the one rule for all verdicts on nets."""
        return self.train_error <= LEARNED * self.chance

    @property
    def full_label(self) -> str:
        """The net and its width, with all settings that are not its paper's or its protocol's."""
        model = self.cfg.model
        width = [f"width={model.width}"] if model.width else []
        return " ".join([label_of(dataclasses.asdict(model)), *width, *_changed(self.cfg.protocol)])

    @property
    def origin(self) -> str:
        """What it was trained on, and how."""
        d, p = self.cfg.dataset, self.cfg.protocol
        width = f"width {self.cfg.model.width}, " if self.cfg.model.width else ""
        changed = ", ".join(_changed(p))
        protocol = f"{p.name} with {changed}" if changed else p.name
        if self.weights:
            return f"weights {self.weights}, {width}data set {d.name}, normalisation {p.mean or p.normalize}"
        return f"{width}data set {d.name}, protocol {protocol}, {p.steps:,} steps, seed {self.cfg.seed}"

    def images(self, part: str, count: int | None = None) -> tuple[Tensor, Tensor]:
        """The first images of a part, ready for the net: float32 (N, C, H, W), and labels (N,)."""
        whole = getattr(self.data, part)
        views = list(whole.take(slice(0, count or len(whole))).views("centre", BATCH))
        images = torch.cat([crops[0] for crops, _ in views])
        return self.normalization(images), torch.cat([labels for _, labels in views])


def _changed(p: ProtocolConfig) -> list[str]:
    """``key=value`` of the settings of a run that are not its protocol's, and decide what is learnt."""
    if p.name not in config.names("protocol"):
        return []  # a user's own
    usual, given = (config.flatten(one) for one in (config.load([f"protocol={p.name}"]).protocol, p))
    return [f"{key}={value}" for key, value in given.items() if value != usual[key] and key not in BESIDE]


def told_apart(nets: Sequence[Trained]) -> list[Trained]:
    """The nets with labels of their own: those of one name are told apart by width, seed, or place in the list."""
    widths, seeds = [net.cfg.model.width for net in nets], [net.cfg.seed for net in nets]
    found = list(nets)
    for word, values in (("width", widths), ("seed", seeds), ("no.", range(1, len(nets) + 1))):
        of_label: dict[str, set[int | None]] = {}
        for net, value in zip(found, values, strict=True):
            of_label.setdefault(net.label, set()).add(value)
        found = [
            dataclasses.replace(net, label=f"{net.label} {word} {value}") if len(of_label[net.label]) > 1 else net
            for net, value in zip(found, values, strict=True)
        ]
    return found


def read_subject(run: Run, device: str = "auto") -> Trained:
    """The net of a run's checkpoint. Raises UserError if there is none, or if it is of another net or other images."""
    cfg = dataclasses.replace(config.load_file(run.path / CONFIG), device=device)
    _, net, data = load_trained(run.path, cfg)
    return _trained(cfg, net, data)


def read_weights(cfg: Config, weights: Path) -> Trained:
    """The configured net with anybody's weights. Raises UserError."""
    return _trained(cfg, *load_with_weights(cfg, weights), weights.name)


def _trained(cfg: Config, net: nn.Module, data: Dataset, weights: str = "") -> Trained:
    torch.set_num_threads(choose_threads(count_macs(net, data.image_shape) * BATCH))  # not those of the training
    use_kernels(net, fast=False)  # hooks see every module then
    p = cfg.protocol
    normalization = normalization_of(data.train, p.normalize, p.mean, p.std)
    return Trained(label_of(dataclasses.asdict(cfg.model)), cfg, net.eval(), data, normalization, weights)


def about(nets: Sequence[Trained]) -> str:
    """The nets with what they were trained on, which is said once for all that share it, and those not judged."""
    origins = dict.fromkeys(net.origin for net in nets)
    text = "; ".join(f"{', '.join(n.label for n in nets if n.origin == origin)}: {origin}" for origin in origins)
    idle = [f"{net.label} ({net.train_error:.0f} % training error)" for net in nets if not net.has_learned]
    return f"{text}; no verdict on what has not learned: {', '.join(idle)}" if idle else text


def judged(agrees: bool, *nets: Trained) -> bool | None:
    """The verdict on nets that have all learned; None, no verdict, if one has not."""
    return agrees if all(net.has_learned for net in nets) else None


def of_one_depth(nets: Sequence[Trained]) -> list[tuple[Trained, Trained]]:
    """The (plain, residual) pairs among the nets that are alike in depth and width, data and protocol."""
    families = [[net for net in nets if net.cfg.model.family == family] for family in ("plain", "resnet")]
    return [
        (plain, residual)
        for plain in families[0]
        for residual in families[1]
        if is_comparable(plain, residual) and plain.cfg.model.depth == residual.cfg.model.depth
    ]


def families_alike(nets: Sequence[Trained], family: str) -> list[list[Trained]]:
    """The nets of a family in groups that can be compared, each from shallow to deep."""
    groups: list[list[Trained]] = []
    for net in sorted((net for net in nets if net.cfg.model.family == family), key=lambda net: net.cfg.model.depth):
        group = next((group for group in groups if is_comparable(net, group[0])), None)
        if group is None:
            groups.append([net])
        else:
            group.append(net)
    return groups


def is_comparable(one: Trained, other: Trained) -> bool:
    """Whether two nets have one width, and were trained on the same images by the same protocol."""
    return are_comparable(dataclasses.asdict(one.cfg), dataclasses.asdict(other.cfg))


def blocks_of(subject: Trained) -> list[tuple[Any, int]]:
    """Where each block, or layer of VGG, stands: its stage, and its place in it. Raises UserError if there are none."""
    stages = [stage for stage in getattr(subject.net, "stages", []) if isinstance(stage, Stage)]
    places = [(stage, index) for stage in stages for index, part in enumerate(stage) if isinstance(part, Block | Layer)]
    if not places:
        raise UserError(
            f"{subject.label}: has no blocks to take out; take a plain, residual, highway, dense or VGG "
            "net of convolutions"
        )
    return places


def is_sum(part: Any) -> bool:
    """Whether a block is shortcut(x) + F(x)."""
    return isinstance(part, Block) and isinstance(part.connection, Add)


@contextmanager
def replaced(places: Sequence[tuple[Any, int]], parts: Sequence[nn.Module]) -> Iterator[None]:
    """Other modules in these places, until the end of the ``with``; the net is then what it was, to the bit."""
    before = [stage[index] for stage, index in places]
    try:
        for (stage, index), part in zip(places, parts, strict=True):
            stage[index] = part
        yield
    finally:
        for (stage, index), part in zip(places, before, strict=True):
            stage[index] = part


@torch.inference_mode()
def log_probabilities(net: nn.Module, inputs: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, classes), in batches."""
    return torch.cat([net(part).float().log_softmax(dim=1) for part in inputs.split(BATCH)])


def error_of(net: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Percent of the images that are classified wrongly."""
    wrong = log_probabilities(net, inputs).argmax(dim=1) != labels
    return 100 * float(wrong.float().mean())


@torch.inference_mode()
def loss_of(net: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy."""
    return float(F.nll_loss(log_probabilities(net, inputs), labels))
