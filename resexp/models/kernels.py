"""Our compiled kernels for the CPU: built when resexp is installed, if there is a C compiler."""

import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VERSION = 6  # of their arguments, as in norm_relu.c
_SIGNATURES = {  # a letter an argument: pointer, long, float, int
    "kernels_parallel": "",
    "norm_relu_forward": "pppillppffpppi",
    "norm_relu_backward": "pppppillpppi",
    "norm_relu_apply": "pppillppi",
    "conv3x3": "pppllllii",
    "conv3x3_supported": "",
    "conv3x3_bf16": "ppppllllliii",
    "conv3x3_bf16_weights": "ppplllllii",
    "conv3x3_amx": "ppppllllliii",
    "conv3x3_amx_weights": "ppplllllii",
    "bf16_supported": "",
    "amx_supported": "",
    "winograd": "pppplllllii",
    "winograd_weights": "pppllllli",
    "winograd_lanes": "",
}


def load_kernels() -> ctypes.CDLL | None:
    """The compiled C files of this folder; None if this installation has none that keep up with torch.

    They use torch's OpenMP threads. Built without OpenMP they have one thread, and serve only where torch has one, too.
    """
    kernels = _library()
    return kernels if kernels and (torch.get_num_threads() == 1 or kernels.kernels_parallel()) else None


def are_outdated() -> bool:
    """Whether they were built from another checkout, or for another kind of machine: then they are not called."""
    return _library() is None and any(_files())


def _files() -> Iterator[Path]:
    return Path(__file__).parent.glob("_kernels*.so")


@functools.cache
def _library() -> ctypes.CDLL | None:
    types: dict[str, Any] = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float, "i": ctypes.c_int}
    for path in _files():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # of another kind of processor, say, in a folder that several machines share
            continue
        if not hasattr(library, "kernels_version") or library.kernels_version() != VERSION:
            continue  # their arguments may be others
        for name, letters in _SIGNATURES.items():
            if hasattr(library, name):
                getattr(library, name).argtypes = [types[letter] for letter in letters]
        return library
    return None


def is_plain_cpu(*tensors: Tensor, dtype: torch.dtype) -> bool:
    """On the CPU, channels last, and of one type: what the kernels take."""
    return all(
        t.device.type == "cpu" and t.dtype == dtype and t.is_contiguous(memory_format=torch.channels_last)
        for t in tensors
    )


def takes_kernels(module: nn.Module) -> bool:
    """In training and, where no gradients are asked, in evaluation: those that are may be differentiated again.

    Never while torch.compile, torch.export or torch.jit.trace follow the operations: they cannot follow a kernel.
    """
    followed = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not followed and (module.training or not torch.is_grad_enabled())


def works_in(dtype: torch.dtype) -> bool:
    """Whether convolutions on the CPU now work in this type: float32, or what autocast says."""
    return dtype == (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
