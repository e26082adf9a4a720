"""Test error: the single view, ten crops, or whole images at several scales; in one process or shared by many."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.data.augment import normalize
from resexp.data.crops import in_proportion
from resexp.parallel import World

EVAL_BATCH = 1000  # images of 32 pixels; fewer of larger ones
LEAST_BATCH = 16
ONE_SIZE = ("transformer", "mlp", "highway_mlp")  # families whose nets take images of one size


class Evaluation(NamedTuple):
    """Mean loss, and errors in percent."""

    loss: float
    error: float
    top5_error: float


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 where a layer gains by it; weights, optimiser and batch norm's statistics stay fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    part: Any,
    mean: Tensor | None,
    *,
    precision: str,
    view: str = "centre",
    scales: Sequence[int] = (),
    world: World | None = None,
) -> Evaluation:
    """Mean loss and errors over all images of ``part`` in evaluation mode, each image exactly once.

    :param view: ``centre`` (the single view), ``ten-crop`` or ``multi-scale``; of several, the mean of the softmax.
    :param scales: of ``multi-scale``: shorter sides for a net trained on crops of 224 pixels.
    :raises UserError: for a view that these images do not have.
    """
    world = world or World()
    mine = part.take(world.turn()) if world.size > 1 else part
    net.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=part.labels.device)
    scores = _whole_scores(net, mine, mean, scales, precision) if view == "multi-scale" else None
    for logs, labels in scores or _crop_scores(net, mine, mean, view, precision):
        best = logs.topk(min(5, logs.shape[1]), dim=1).indices == labels[:, None]
        first = (logs.argmax(dim=1) != labels).sum()
        counts = [
            F.nll_loss(logs, labels, reduction="sum"),
            first,
            (~best.any(dim=1)).sum(),
            torch.tensor(len(labels), device=labels.device),
        ]
        totals += torch.stack([count.double() for count in counts])
    net.train()
    loss, wrong, wrong5, seen = world.sum(totals).tolist()
    return Evaluation(loss / seen, 100 * wrong / seen, 100 * wrong5 / seen)


def _crop_scores(
    net: nn.Module, part: Any, mean: Tensor | None, view: str, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(log probabilities (N, classes), labels) of each batch, the mean over the crops of a view."""
    side = part.image_shape[1]
    batch = min(EVAL_BATCH, max(LEAST_BATCH, EVAL_BATCH * 32 * 32 // side**2))
    for crops, labels in part.views(view, batch):
        yield _mean_scores([_logits(net, normalize(crop, mean), precision) for crop in crops]), labels


def _whole_scores(
    net: nn.Module, part: Any, mean: Tensor | None, scales: Sequence[int], precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """As ``_crop_scores``, of whole images at each scale, and of their mirror images: the net applied everywhere.

    Global average pooling in front of a linear classifier averages the scores of all places (He et al. 2015, Sec. 3.4).
    The mean image fits one size only: here its mean over the pixels is subtracted.
    """
    if not hasattr(part, "wholes"):
        raise UserError("multi-scale: only images larger than their crop have more than one scale (dataset=imagenet)")
    sides = [in_proportion(scale, part.image_shape[1]) for scale in scales]
    if mean is not None:
        mean = mean.mean(dim=(-2, -1), keepdim=True)
    for first in range(0, len(part), LEAST_BATCH):
        indices = range(first, min(first + LEAST_BATCH, len(part)))
        by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for index, image in zip(indices, part.wholes(indices), strict=True):
            by_shape.setdefault(tuple(image.shape), []).append((index, image))
        for members in by_shape.values():
            images = torch.stack([image for _, image in members]).float()
            labels = part.labels[[index for index, _ in members]]
            logits = []
            for side in sides:
                resized = resize(images, side)
                for view in (resized, resized.flip(3)):
                    logits.append(_logits(net, normalize(view.clone(), mean), precision))
            yield _mean_scores(logits), labels


def resize(images: Tensor, side: int) -> Tensor:
    """Float images (N, C, H, W) with their shorter side resized to ``side``, antialiased bilinear."""
    high, wide = images.shape[2:]
    least = min(high, wide)
    size = [side * high // least, side * wide // least]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _logits(net: nn.Module, inputs: Tensor, precision: str) -> Tensor:
    with autocast(inputs.device, precision):
        return net(inputs).float()


def _mean_scores(logits: Sequence[Tensor]) -> Tensor:
    """The log of the mean of the softmax."""
    if len(logits) == 1:
        return logits[0].log_softmax(dim=1)
    return torch.stack([one.softmax(dim=1) for one in logits]).mean(dim=0).log()


def check_view(view: str, family: str, large: bool) -> None:
    """Raise UserError if a net cannot be applied to whole images of any size."""
    if view == "multi-scale" and (family in ONE_SIZE or (family == "vgg" and large)):
        raise UserError(f"multi-scale: {family} nets take images of one size; take ten-crop")
