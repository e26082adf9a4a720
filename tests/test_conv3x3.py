"""Our kernel for the 3x3 convolution of few channels computes what torch's does."""

import pytest
import torch
from torch import Tensor

from resexp.models.conv3x3 import Conv3x3
from resexp.models.kernels import load_kernels

supported = (library := load_kernels()) is not None and library.conv3x3_supported()
needs_kernel = pytest.mark.skipif(not supported, reason="no C compiler at installation, or no AVX-512")
SHAPES = [(2, 8, 1, 8), (3, 8, 8, 8), (2, 8, 5, 24), (2, 8, 3, 16), (2, 16, 8, 8), (4, 16, 32, 32), (1, 16, 7, 48)]


def run(shape: tuple[int, ...], *, fast: bool) -> dict[str, Tensor]:
    """Output and gradients of one convolution."""
    convolution = Conv3x3(shape[1], shape[1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = fast
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator))
    x, dy = (torch.randn(shape, generator=generator).to(memory_format=torch.channels_last) for _ in range(2))
    y = convolution(x.requires_grad_())
    assert y.grad_fn is not None and ("Conv3x3" in y.grad_fn.name()) == fast
    y.backward(dy)
    assert x.grad is not None and convolution.weight.grad is not None
    return {"y": y.detach(), "x": x.grad, "weight": convolution.weight.grad}


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_torch_in_output_and_gradients_at_every_edge(shape: tuple[int, ...]) -> None:
    ours, torchs = run(shape, fast=True), run(shape, fast=False)
    for name in ours:
        torch.testing.assert_close(ours[name], torchs[name], rtol=1e-4, atol=1e-4, msg=name)


@needs_kernel
def test_it_gives_the_same_bits_on_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(run((5, 16, 16, 16), fast=True))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in ("y", "x"))


@pytest.mark.parametrize(
    ("channels", "out", "stride", "width"), [(16, 16, 2, 8), (16, 32, 1, 8), (12, 12, 1, 8), (16, 16, 1, 12)]
)
def test_where_it_does_not_apply_torch_does_the_work(channels: int, out: int, stride: int, width: int) -> None:
    convolution = Conv3x3(channels, out, stride).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = True
    x = torch.randn(2, channels, 8, width).to(memory_format=torch.channels_last)
    y = convolution(x)
    assert y.grad_fn.name() == "ConvolutionBackward0"
    assert y.shape == (2, out, 8 // stride, width // stride)
