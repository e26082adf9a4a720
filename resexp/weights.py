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
Pairs = list[tuple[tuple[str, Tensor], tuple[str, Tensor]]]  # the file's tensor, and the net's


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
    pairs = _by_name(path, ours, where) if path.suffix == SAFETENSORS else _in_order(path, ours, where)
    if new_classes and all(_classes_differ(theirs, mine) for theirs, mine in pairs[-2:]):
        pairs = pairs[:-2]  # every net ends in its classifier's weight and bias
    for (theirs, tensor), (name, mine) in pairs:
        if tensor.shape != mine.shape:
            raise UserError(
                f"{where}: {theirs} {tuple(tensor.shape)} does not fit {name} {tuple(mine.shape)}; "
                "take the net, classes and images of these weights"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: {theirs} has values that are not finite; take another file")
    with torch.no_grad():
        for (_, tensor), (_, mine) in pairs:
            mine.copy_(tensor)
    return [theirs for (theirs, _), _ in pairs]


def _classes_differ(theirs: tuple[str, Tensor], mine: tuple[str, Tensor]) -> bool:
    there, here = theirs[1].shape, mine[1].shape
    return len(there) > 0 and there[1:] == here[1:] and there[0] != here[0]


def comparable(state: dict[str, Any]) -> Named:
    """Names, without the prefix of a parallel wrapper, and tensors that decide what a net computes."""
    return [
        (name.removeprefix("module."), tensor)
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and name.rpartition(".")[2] not in PASSED_OVER
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


def _in_order(path: Path, ours: Named, where: str) -> Pairs:
    """The file's tensors beside ours; of the first that is another kind or form, which place it has."""
    tensors = comparable(_read(path, where))
    last = len(ours) - 2  # the classifier's shapes are compared later
    for number, ((theirs, tensor), (name, mine)) in enumerate(zip(tensors, ours, strict=False)):
        kinds = [one.rpartition(".")[2] for one in (theirs, name)]
        other_shape = tensor.shape != mine.shape and number < last
        if other_shape or (kinds[0] in KINDS and kinds[0] != kinds[1]):
            raise UserError(
                f"{where}: tensor {number + 1}, {theirs} {tuple(tensor.shape)}, does not fit {name} "
                f"{tuple(mine.shape)}; take the net, classes and images of these weights"
            )
    if len(tensors) != len(ours):
        longer, missing = (tensors, "the net") if len(tensors) > len(ours) else (ours, "the file")
        first = longer[min(len(tensors), len(ours))][0]
        raise UserError(f"{where}: {len(tensors)} tensors for {len(ours)}; {first} is not in {missing}")
    return list(zip(tensors, ours, strict=True))


def _by_name(path: Path, ours: Named, where: str) -> Pairs:
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
    return [((name, saved[name]), (name, mine)) for name, mine in ours]
