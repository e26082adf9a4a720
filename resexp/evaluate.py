"""Test error: the single view, ten crops, or whole images at several scales, shared by all processes of a run."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.config import ProtocolConfig
from resexp.data.crops import in_proportion
from resexp.data.dataset import Dataset
from resexp.data.normalize import Normalization
from resexp.data.source import Source
from resexp.models.families import FAMILIES
from resexp.parallel import World
from resexp.runtime import autocast, counter_type
from resexp.state import State

EVAL_BATCH = 1000  # images of 32 pixels; fewer of larger ones
LEAST_BATCH = 16


class Evaluation(NamedTuple):
    """Mean loss, and errors in percent."""

    loss: float
    error: float
    top5_error: float


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    source: Source,
    normalization: Normalization,
    *,
    precision: str,
    view: str = "centre",
    scales: Sequence[int] = (),
    world: World | None = None,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> Evaluation:
    """Mean loss and errors over all images in evaluation mode, each image exactly once; the net's mode is restored.

    :param view: ``centre`` (the single view), ``ten-crop`` or ``multi-scale``; of several, the mean of the softmax.
    :param scales: of ``multi-scale``: shorter sides for a net trained on crops of 224 pixels.
    :param seen: takes the log probabilities (N, classes) and labels (N,) of each batch, in the order of the images but
        for ``multi-scale``.
    :raises UserError: for a view that these images do not have.
    """
    world = world or World()
    mine = source.take(world.evaluated()) if world.size > 1 else source
    was_training, searched = net.training, torch.backends.cudnn.benchmark
    net.eval()
    torch.backends.cudnn.benchmark = searched and view != "multi-scale"  # a search for each photograph's shape is slow
    totals = torch.zeros(4, dtype=counter_type(source.labels.device), device=source.labels.device)
    if view == "multi-scale":
        scores = _whole_scores(net, mine, normalization, scales, precision)
    else:
        scores = _crop_scores(net, mine, normalization, view, precision)
    for logs, labels in scores:
        if seen:
            seen(logs, labels)
        best = logs.topk(min(5, logs.shape[1]), dim=1).indices == labels[:, None]
        first = (logs.argmax(dim=1) != labels).sum()
        counts = [
            F.nll_loss(logs, labels, reduction="sum"),
            first,
            (~best.any(dim=1)).sum(),
            torch.full((), len(labels), device=labels.device),
        ]
        totals += torch.stack([count.to(totals.dtype) for count in counts])
    net.train(was_training)
    torch.backends.cudnn.benchmark = searched
    loss, wrong, wrong5, images = world.sum(totals).tolist()
    return Evaluation(loss / images, 100 * wrong / images, 100 * wrong5 / images)


def _crop_scores(
    net: nn.Module, source: Source, normalization: Normalization, view: str, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(log probabilities (N, classes), labels) of each batch, the mean over the crops of a view."""
    side = source.image_shape[1]
    batch = min(EVAL_BATCH, max(LEAST_BATCH, EVAL_BATCH * 32 * 32 // side**2))
    for crops, labels in source.views(view, batch):
        yield _mean_scores([_logits(net, normalization(crop), precision) for crop in crops]), labels


def _whole_scores(
    net: nn.Module, source: Source, normalization: Normalization, scales: Sequence[int], precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """As ``_crop_scores``, of whole images at each scale, and of their mirror images: the net applied everywhere.

    Global average pooling in front of a linear classifier averages the scores of all places (He et al. 2015, Sec. 3.4).
    The mean image fits one size only: here its mean over the pixels is subtracted.
    """
    sides = [in_proportion(scale, source.image_shape[1]) for scale in scales]
    normalization = normalization.of_any_size()
    for first in range(0, len(source), LEAST_BATCH):
        indices = range(first, min(first + LEAST_BATCH, len(source)))
        by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for index, image in zip(indices, source.wholes(indices), strict=True):
            by_shape.setdefault(tuple(image.shape), []).append((index, image))
        for members in by_shape.values():
            images = torch.stack([image for _, image in members]).float()
            labels = source.labels[[index for index, _ in members]]
            logits = []
            for side in sides:
                resized = resize(images, side)
                for view in (resized, resized.flip(3)):
                    logits.append(_logits(net, normalization(view.clone()), precision))
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


def check_view(view: str, family: str, *, large: bool) -> None:
    """Raise UserError if a net cannot be applied to whole images of any size."""
    if view == "multi-scale" and (FAMILIES[family].one_size or (family == "vgg" and large)):
        raise UserError(f"multi-scale: {family} nets take images of one size; take ten-crop")


def evaluate_splits(state: State, data: Dataset, p: ProtocolConfig, log: Callable[..., None]) -> None:
    """Evaluate on the validation and test images, log both, and keep the step that the validation images prefer.

    After the last step the test images are also seen in the view that the paper's tables have.

    :param log: takes the state, the name of the split, loss, error in percent and images/s.
    """
    found, normalization = state.results, state.batches.normalization
    for split, source in (("val", data.val), ("test", data.test)):
        if source is None:
            continue
        began = time.monotonic()
        one = evaluate(state.net, source, normalization, precision=p.precision, world=state.world)
        log(state, split, one.loss, one.error, len(source) / (time.monotonic() - began))
        found[f"{split}_error"] = one.error
        if split == "test" and source.views_differ:
            found["test_top5_error"] = one.top5_error
    if data.val and found["val_error"] < found.get("best_val_error", math.inf):
        found |= {
            "best_val_step": state.step,
            "best_val_error": found["val_error"],
            "best_val_test_error": found["test_error"],
        }
    if state.step == p.steps and p.final_view != "centre":
        name = p.final_view.replace("-", "_")
        final = evaluate(
            state.net,
            data.test,
            normalization,
            precision=p.precision,
            view=p.final_view,
            scales=p.test_scales,
            world=state.world,
        )
        found |= {f"{name}_error": final.error, f"{name}_top5_error": final.top5_error}
