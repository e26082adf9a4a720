"""Whether a remedy works by the reason given: each mechanism, measured in nets with and without remedies.

For every net as it starts: how much larger the first layers' gradient is than the last ones' (Yang et al. 2019), how
long the first update of the first layer is, how much the gradients at different images resemble each other (Balduzzi et
al. 2017), how many channels no image activates, how much of what the net makes of an image is the image's own (by batch
norm the rest comes from the images beside it), how far its last features move when its first layer changes a little,
and in how many dimensions the images' last features differ (Daneshmand et al. 2020: deep layers may bring all images
onto one line). If an explanation is right, nets that train better are those in which its mechanism is milder, whatever
the remedy was meant for.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from resexp.analysis.gradients import ENDS, growth, layer_gradients
from resexp.analysis.sparsity import count_zeros
from resexp.analysis.subject import Trained
from resexp.builder import build_net, build_optimizer, build_schedule, place_net
from resexp.config import Config
from resexp.console import message
from resexp.models.build import use_kernels
from resexp.models.norm_relu import BatchNorm, set_statistics
from resexp.studies.finding import Finding, Panel, Row, Series

STRONG = 0.6  # of a rank correlation, at least, to be called one
BOOTSTRAPS = 1000
BATCHES = 32  # from which the images beside an image are drawn
LEAST_NETS = 5  # with fewer there is no correlation worth the name


class Start(NamedTuple):
    """A net before its first step."""

    growth: float  # of the gradient's norm, first layers over last; NaN where F starts at zero and has none
    update: float  # of layer 1, in the length of its weights
    likeness: float  # mean cosine of the gradients at two images, in size
    dead: float  # share of channels
    own: float  # share of the features' variance
    moved: float  # of the last features, by a change of the first layer, in their own size
    spread: float  # dimensions of the images' last features


MECHANISMS = {
    "growth": f"gradient of the first {ENDS} layers over that of the last {ENDS}",
    "update": "first update of layer 1, over its weights",
    "likeness": "cosine of the gradients at two images, in size",
    "dead": "share of channels that no image activates",
    "own": "share of the features that is the image's own",
    "moved": "features moved by a 1 % change of layer 1",
    "spread": "dimensions in which the images' features differ",
}
EXPECTED = {  # the sign of the rank correlation with the training error, and who says so
    "growth": (1, "above {}: the more it grows, the worse", "Yang et al. 2019"),
    "update": (1, "above {}: the longer it is, the worse", "Yang et al. 2019"),
    "likeness": (-1, "below -{}: the more alike, the better", "Balduzzi et al. 2017"),
    "dead": (1, "above {}: the more, the worse", "popular articles on ReLU and shortcuts"),
    "own": (-1, "below -{}: the more, the better", "batch norm's noise, as it adds up over layers"),
    "moved": (1, "above {}: the farther, the worse", "a net that is chaotic cannot be trained (Xiao et al. 2018)"),
    "spread": (-1, "below -{}: the more, the better", "Daneshmand et al. 2020"),
}


def analyze(nets: Sequence[Trained], *, images: int = 256) -> Finding:
    """The mechanisms of each net at its start, beside its training error at the end.

    :param images: training images of a gradient; 64 of them are compared with each other.
    """
    starts, errors = [], []
    for net in nets:
        starts.append(measure_start(net, images))
        errors.append(net.train_error)
        message(f"remedies: {net.full_label}")
    rows = [
        Row(
            id=f"start-{net.full_label}",
            what=f"{net.full_label}: gradient's growth; first update; likeness; dead channels; own share; move of 1 %; "
            "dimensions",
            measured=f"{start.growth:.3g}; {start.update:.3g}; {start.likeness:.2f}; {100 * start.dead:.1f} %; "
            f"{start.own:.2f}; {start.moved:.2f}; {start.spread:.1f}, and {error:.1f} % training error",
        )
        for net, start, error in sorted(zip(nets, starts, errors, strict=True), key=lambda one: one[2])
    ]
    return Finding(
        analysis="remedies",
        title="What nets with and without remedies start with, and what becomes of them",
        about=f"{len(nets)} nets, a dot each, seeds {', '.join(sorted({str(net.cfg.seed) for net in nets}))}; as they "
        f"start, training mode, {images} training images; training error in evaluation mode, without augmentation.",
        panels=[
            Panel(
                title=MECHANISMS[key],
                x="",
                y="training error (%)",
                series=[Series(label="", x=[getattr(start, key) for start in starts], y=errors, style="dots")],
                log_x=key in ("growth", "update"),
            )
            for key in MECHANISMS
        ],
        rows=[*(correlation_row(key, starts, errors) for key in MECHANISMS), *_with_norm(nets, starts, errors), *rows],
    )


def correlation_row(key: str, starts: Sequence[Start], errors: Sequence[float]) -> Row:
    """Over the nets: does the mechanism go with the training error?"""
    sign, expected, source = EXPECTED[key]
    rank, low, high = rank_interval([getattr(start, key) for start in starts], errors)
    least, most = sorted((sign * low, sign * high))
    return Row(
        id=f"goes-with-{key}",
        what=f"rank correlation with the training error (95 %: {BOOTSTRAPS:,} bootstraps): {MECHANISMS[key]}",
        measured=_rank_words(rank, low, high),
        expected=expected.format(STRONG),
        source=source,
        # Undecided if the bound lies between; and a few nets in perfect order stay so in every draw.
        agrees=None if math.isclose(least, most) else True if least > STRONG else False if most < STRONG else None,
    )


def _rank_words(rank: float, low: float, high: float) -> str:
    return "-" if math.isnan(rank) else f"{rank:.2f} ({low:.2f} to {high:.2f})"


def _with_norm(nets: Sequence[Trained], starts: Sequence[Start], errors: Sequence[float]) -> list[Row]:
    """The same for the nets with batch norm, without a verdict: nets without it fail by another way, or do not fail."""
    kept = [i for i, one in enumerate(nets) if any(isinstance(module, BatchNorm) for module in one.net.modules())]
    if len(kept) == len(nets):
        return []
    ranks = {
        key: rank_interval([getattr(starts[i], key) for i in kept], [errors[i] for i in kept]) for key in MECHANISMS
    }
    return [
        Row(
            id=f"with-norm-{key}",
            what=f"the same over the {len(kept)} nets with batch norm: {MECHANISMS[key]}",
            measured=_rank_words(*found),
        )
        for key, found in ranks.items()
    ]


def rank_interval(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's correlation, and its 95 % interval by bootstraps over the nets; NaN as below.

    Draws in which all nets have the same value, or the same error, count as 0: nothing can go with it.
    """
    rank = rank_correlation(values, errors)
    if math.isnan(rank):
        return rank, rank, rank
    random = np.random.default_rng(0)
    pairs = np.array([(value, error) for value, error in zip(values, errors, strict=True) if not math.isnan(value)])
    draws = (pairs[random.integers(len(pairs), size=len(pairs))].T for _ in range(BOOTSTRAPS))
    found = [float(spearmanr(*one).statistic) if all(len(set(side)) > 1 for side in one) else 0.0 for one in draws]
    low, high = np.percentile(found, (2.5, 97.5)).tolist()
    return rank, low, high


def rank_correlation(values: Sequence[float], errors: Sequence[float]) -> float:
    """Spearman's, of the pairs that have a value; NaN for too few, or if one side is all alike."""
    pairs = [(value, error) for value, error in zip(values, errors, strict=True) if not math.isnan(value)]
    if len(pairs) < LEAST_NETS or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return math.nan
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def measure_start(net: Trained, count: int) -> Start:
    """The mechanisms of a net with fresh weights of its run's seed, and its first update by its run's protocol.

    All its blocks and units take part: what dropout and stochastic depth leave out is no mechanism of the start.
    """
    p, model = net.cfg.protocol, net.cfg.model
    all_of_it: dict[str, Any] = {"survival": 1.0, "dropout": 0.0}
    whole = {key: value for key, value in all_of_it.items() if getattr(model, key) is not None}
    cfg = dataclasses.replace(net.cfg, model=dataclasses.replace(model, **whole))
    images, labels = net.images("train", max(count, BATCHES * p.batch_size))
    inputs, labels = images[:count], labels[:count]
    fresh = place_net(build_net(cfg, net.data), inputs.device)
    use_kernels(fresh, fast=False)
    set_statistics(fresh, group=p.norm_group, synced=False)
    _, norms = layer_gradients(fresh, inputs, labels, net.label)
    return Start(
        growth=growth(norms),
        likeness=likeness(fresh, inputs[:64]),
        dead=_dead(fresh, inputs),
        own=own_share(fresh, images, p.batch_size),
        moved=move(fresh, inputs),
        spread=dimensions(fresh, inputs),
        update=first_update(fresh, net.cfg, inputs, labels),  # last: it changes the net
    )


def first_update(net: nn.Module, cfg: Config, inputs: Tensor, labels: Tensor) -> float:
    """How far the first step on these images moves the first convolution, in the length of its weights."""
    optimizer = build_optimizer(cfg, net)
    optimizer.lr = build_schedule(cfg).lr(0)
    F.cross_entropy(net.train()(inputs), labels).backward()
    weight = next(module.weight for module in net.modules() if isinstance(module, nn.Conv2d))
    before = weight.detach().clone()
    optimizer.step()
    return float((weight.detach() - before).norm() / before.norm())


@torch.no_grad()
def dimensions(net: nn.Module, inputs: Tensor) -> float:
    """In how many dimensions the inputs' last features differ: (sum of v)^2 / sum of v^2, v their variances.

    1 where they lie on a line, and the number of features where these vary alike and have nothing in common.
    """
    features = _features(net, inputs)
    variances = torch.linalg.svdvals(features - features.mean(dim=0)).square()
    return float(variances.sum().square() / variances.square().sum())


def likeness(net: nn.Module, inputs: Tensor) -> float:
    """The mean cosine, in size, between the gradients of a random sum of the logits at each two of the inputs.

    1 in a linear net; about 1 / sqrt(numbers of an input) where the gradients have nothing in common.
    """
    x = inputs.detach().clone().requires_grad_()
    logits = net.train()(x)
    weights = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0)).to(logits)
    (gradients,) = torch.autograd.grad((logits @ weights).sum(), x)
    unit = F.normalize(gradients.flatten(1), dim=1)
    cosines = (unit @ unit.T).abs()
    count = len(inputs)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


@torch.no_grad()
def own_share(net: nn.Module, inputs: Tensor, batch: int, *, draws: int = 16) -> float:
    """How much of the variance of an image's last features stays when it is seen among other images.

    A quarter of a batch stays, the rest of it is drawn ``draws`` times. In training mode: 1 without batch norm.
    """
    generator = torch.Generator().manual_seed(0)
    kept, rest = torch.randperm(len(inputs), generator=generator).tensor_split([max(1, batch // 4)])
    seen = []
    for _ in range(draws):
        others = rest[torch.randperm(len(rest), generator=generator)[: batch - len(kept)]]
        order = torch.randperm(len(kept) + len(others), generator=generator)  # so that groups of a batch change, too
        seen.append(_features(net, inputs[torch.cat((kept, others))[order]])[order.argsort()[: len(kept)]])
    features = torch.stack(seen)  # (draws, kept, features)
    within = features.var(dim=0).sum(dim=1).mean()
    return float(1 - within / features.flatten(0, 1).var(dim=0).sum())


@torch.no_grad()
def move(net: nn.Module, inputs: Tensor, change: float = 0.01, *, draws: int = 4) -> float:
    """How far the last features move when the first convolution changes, both in their own size, in training mode.

    :param change: of the first convolution, in random directions.
    """
    generator = torch.Generator().manual_seed(0)
    weight = next(module.weight for module in net.modules() if isinstance(module, nn.Conv2d))
    before, kept = _features(net, inputs), weight.clone()
    size = (before - before.mean(dim=0)).norm()
    moves = []
    for _ in range(draws):
        direction = torch.randn(weight.shape, generator=generator).to(weight)
        weight.copy_(kept + change * kept.norm() / direction.norm() * direction)
        moves.append(float((_features(net, inputs) - before).norm() / size))
    weight.copy_(kept)
    return sum(moves) / draws


def _features(net: nn.Module, inputs: Tensor) -> Tensor:
    """What the classifier reads, in training mode. (N, C, H, W) -> (N, features), float64."""
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    with last.register_forward_hook(lambda module, given, made: seen.append(given[0].double())):
        net.train()(inputs)
    return seen[0]


def _dead(net: nn.Module, inputs: Tensor) -> float:
    shares = [dead for _, dead in count_zeros(net, inputs)]
    return sum(shares) / len(shares)
