"""Anybody's weights in a net of ours: tensors that fit in order, kind and shape, and that are numbers."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resexp import UserError

SAFETENSORS = ".safetensors"
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "net")  # in which training programs put them
KINDS = ("weight", "bias", "running_mean", "running_var")  # the last part of a tensor's name
# Counters of batch norm, of the profiler thop, and of torch's averaged models: no part of what a net computes.
PASSED_OVER = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")

Named = list[tuple[str, Tensor]]


def load_weights(net: nn.Module, path: Path, *, key: str = "weights", new_classes: bool = False) -> list[str]:
    """Copy anybody's weights into ``net``: a state dict, alone or in a file's ``state_dict`` or the like.

    Its tensors must be those of ``net`` in order, shape and kind (weight, bias, running mean or variance); the rest of
    their names does not matter. A safetensors file keeps its tensors sorted by name, so that their order says nothing:
    there the names must be ours.

    :param key: the setting that named the file, for messages.
    :param new_classes: keep the classifier's own weights where the file's is for another number of classes.
    :return: the file's names of the tensors that were taken.
    :raises UserError: if the file is not one, or at the first tensor that does not fit.
    """
    ours, where = comparable(net.state_dict()), f"{key}={path}"
    theirs = _by_name(path, ours, where) if path.suffix == SAFETENSORS else comparable(_read(path, where))
    theirs = _as_linear(theirs, ours)
    taken = ours
    if new_classes and all(map(_classes_differ, theirs[-2:], ours[-2:])):
        taken = ours[:-2]  # every net ends in its classifier's weight and bias
    for number, ((there, tensor), (here, mine)) in enumerate(zip(theirs, taken, strict=False), start=1):
        kinds = [name.rpartition(".")[2] for name in (there, here)]
        if tensor.shape != mine.shape or (kinds[0] in KINDS and kinds[0] != kinds[1]):
            raise UserError(
                f"{where}: tensor {number}, {there} {tuple(tensor.shape)}, does not fit {here} {tuple(mine.shape)}; "
                "take the net, classes and images of these weights"
            )
        if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.is_meta:
            raise UserError(
                f"{where}: {there} has no plain numbers ({tensor.layout}, {tensor.dtype}); take another file"
            )
        if not tensor.isfinite().all():
            raise UserError(f"{where}: {there} has values that are not finite; take another file")
    if len(theirs) != len(ours):
        longer, missing = (theirs, "the net") if len(theirs) > len(ours) else (ours, "the file")
        first = longer[min(len(theirs), len(ours))][0]
        raise UserError(f"{where}: {len(theirs)} tensors for {len(ours)}; {first} is not in {missing}")
    with torch.no_grad():
        for (_, tensor), (_, mine) in zip(theirs, taken, strict=False):
            mine.copy_(tensor)
    return [there for there, _ in theirs[: len(taken)]]


def _as_linear(theirs: Named, ours: Named) -> Named:
    """A convolution as large as its image is a linear layer, in timm's VGG: (out, C, H, W) -> (out, CHW)."""
    pairs = zip(theirs, [tensor.dim() for _, tensor in ours] + [0] * len(theirs), strict=False)
    return [(name, t.flatten(1) if (t.dim(), dims) == (4, 2) else t) for (name, t), dims in pairs]


def _classes_differ(theirs: tuple[str, Tensor], mine: tuple[str, Tensor]) -> bool:
    there, here = theirs[1].shape, mine[1].shape
    return len(there) > 0 and there[1:] == here[1:] and there[0] != here[0]


def comparable(state: dict[str, Any]) -> Named:
    """Names, without the prefix of a parallel wrapper, and tensors that decide what a net computes."""
    return [
        (name.removeprefix("module."), tensor)
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and name.rpartition(".")[2] not in PASSED_OVER
    ]


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or error}") from None
    except Exception as error:  # a file of something else makes the reader raise anything
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):  # torch.save wrote it
            remedy = "holds other Python objects beside tensors; save its state_dict alone"
            raise UserError(f"{where}: {remedy}") from None
        raise UserError(f"{where}: no file of tensors ({type(error).__name__})") from None
    for key in CONTAINERS:
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict) or not comparable(saved):
        raise UserError(f"{where}: holds no state dict")
    return saved


def _by_name(path: Path, ours: Named, where: str) -> Named:
    """The file's tensors in the order of ours."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = dict(comparable(load_file(path)))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where}: cannot be read as safetensors ({str(error).splitlines()[0]})") from None
    if other := sorted(saved.keys() ^ dict(ours).keys()):
        absent = "the net" if other[0] in saved else "the file"
        raise UserError(
            f"{where}: {other[0]} is not in {absent}; take the net of these weights, or a file of torch.save"
        )
    return [(name, saved[name]) for name, _ in ours]
