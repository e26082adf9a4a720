"""A training step recorded once and replayed: one launch instead of hundreds."""

from collections.abc import Callable

import torch
from torch import Tensor

WARMUP_CALLS = 3  # real steps before the recording: libraries choose their algorithms and allocate in them


class CudaGraph:
    """``function`` of tensors on one GPU, recorded at its fourth call. It must do the same work at every call.

    The nets of the CIFAR papers are so small that a GPU runs their kernels faster than a host can launch them. What the
    function changes besides its result (weights, counters) must stay in place, at the same address.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.calls = 0
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()  # torch asks for another one than usual for the calls before a recording
        self.inputs: list[Tensor | None] = []
        self.output: Tensor | None = None

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """The function's result; its memory is written anew by the next call."""
        self.calls += 1
        if self.calls <= WARMUP_CALLS:
            return self._run_beside(inputs)
        if self.output is None:
            self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
            with torch.cuda.graph(self.graph):
                self.output = self.function(*self.inputs)
        for place, tensor in zip(self.inputs, inputs, strict=True):
            if place is not None and tensor is not None:
                place.copy_(tensor)
        self.graph.replay()
        return self.output

    def _run_beside(self, inputs: tuple[Tensor | None, ...]) -> Tensor:
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            output = self.function(*inputs)
        usual.wait_stream(self.stream)
        return output
