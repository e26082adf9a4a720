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


def load_weights(net: nn.Module, path: Path) -> list[str]:
    """Copy anybody's weights into ``net``: a state dict, alone or in a file's ``state_dict`` or the like.

    Its tensors must be those of ``net`` in order, shape and kind (weight, bias, running mean or variance); the rest of
    their names does not matter. A safetensors file keeps its tensors sorted by name, so that their order says nothing:
    there the names must be ours.

    :return: the names of the file's tensors.
    :raises UserError: if the file is not one, or at the first tensor that does not fit.
    """
    ours = comparable(net.state_dict())
    pairs = _by_name(path, ours) if path.suffix == SAFETENSORS else _in_order(path, ours)
    for (theirs, tensor), _ in pairs:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"weights={path}: {theirs} has values that are not finite; take another file")
    with torch.no_grad():
        for (_, tensor), mine in pairs:
            mine.copy_(tensor)
    return [theirs for (theirs, _), _ in pairs]


def comparable(state: dict[str, Any]) -> Named:
    """Names, without the prefix of a parallel wrapper, and tensors that decide what a net computes."""
    return [
        (name.removeprefix("module."), tensor)
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and name.rpartition(".")[2] not in PASSED_OVER
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"weights={path}: {error.strerror or error}") from None
    except Exception as error:  # a file of something else makes the reader raise anything
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):  # torch.save wrote it
            remedy = "holds other Python objects beside tensors; save its state_dict alone"
            raise UserError(f"weights={path}: {remedy}") from None
        raise UserError(f"weights={path}: no file of tensors ({type(error).__name__})") from None
    for key in CONTAINERS:
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict) or not comparable(saved):
        raise UserError(f"weights={path}: holds no state dict")
    return saved


def _in_order(path: Path, ours: Named) -> list[tuple[tuple[str, Tensor], Tensor]]:
    tensors = comparable(_read(path))
    for number, ((theirs, tensor), (name, mine)) in enumerate(zip(tensors, ours, strict=False), start=1):
        kinds = [one.rpartition(".")[2] for one in (theirs, name)]
        if tensor.shape != mine.shape or (kinds[0] in KINDS and kinds[0] != kinds[1]):
            raise UserError(
                f"weights={path}: tensor {number}, {theirs} {tuple(tensor.shape)}, does not fit {name} "
                f"{tuple(mine.shape)}; take the net, classes and images of these weights"
            )
    if len(tensors) != len(ours):
        longer, missing = (tensors, "the net") if len(tensors) > len(ours) else (ours, "the file")
        first = longer[min(len(tensors), len(ours))][0]
        raise UserError(f"weights={path}: {len(tensors)} tensors for {len(ours)}; {first} is not in {missing}")
    return [(theirs, mine) for theirs, (_, mine) in zip(tensors, ours, strict=True)]


def _by_name(path: Path, ours: Named) -> list[tuple[tuple[str, Tensor], Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = dict(comparable(load_file(path)))
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights={path}: cannot be read as safetensors ({str(error).splitlines()[0]})") from None
    if other := sorted(saved.keys() ^ dict(ours).keys()):
        where = "the net" if other[0] in saved else "the file"
        raise UserError(
            f"weights={path}: {other[0]} is not in {where}; take the net of these weights, or a file of torch.save"
        )
    for name, mine in ours:
        if saved[name].shape != mine.shape:
            raise UserError(
                f"weights={path}: {name} {tuple(saved[name].shape)} does not fit {tuple(mine.shape)}; "
                "take the net, classes and images of these weights"
            )
    return [((name, saved[name]), mine) for name, mine in ours]
