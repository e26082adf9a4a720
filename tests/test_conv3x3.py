"""Our kernels for the 3x3 convolution compute what torch's does."""

import pytest
import torch
from torch import Tensor

from resexp.models.conv3x3 import MOST_TILED, Conv3x3
from resexp.models.kernels import load_kernels

supported = (library := load_kernels()) is not None and library.conv3x3_supported()
needs_winograd = pytest.mark.skipif(
    not (library is not None and library.winograd_lanes()), reason="no C compiler at installation, or no AVX2"
)
needs_kernel = pytest.mark.skipif(not supported, reason="no C compiler at installation, or no AVX-512")
needs_bf16 = pytest.mark.skipif(not (library is not None and library.bf16_supported()), reason="no AVX-512 with bf16")
needs_amx = pytest.mark.skipif(not (library is not None and library.amx_supported()), reason="no AMX")
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
    ("channels", "out", "stride", "width"), [(16, 16, 2, 8), (12, 12, 1, 8), (16, 16, 1, 13), (16, 264, 1, 8)]
)
def test_where_it_does_not_apply_torch_does_the_work(channels: int, out: int, stride: int, width: int) -> None:
    convolution = Conv3x3(channels, out, stride).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = True
    x = torch.randn(2, channels, 8, width).to(memory_format=torch.channels_last)
    y = convolution(x)
    assert y.grad_fn.name() == "ConvolutionBackward0"
    assert y.shape == (2, out, 8 // stride, width // stride)


@pytest.fixture
def winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with sizes for which another kernel, or the library's, comes first on this processor."""
    monkeypatch.setattr("resexp.models.conv3x3.winograd_lanes", lambda kernels: 8)
    monkeypatch.setattr("resexp.models.conv3x3.Conv3x3._fits_direct", lambda self, x: False)


def run_winograd(
    shape: tuple[int, ...], out: int, *, beside: bool = False, fast: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Output and gradients of one convolution, and the exact ones.

    :param beside: x is read by something else, too.
    :param fast: false: torch's.
    """
    convolution = Conv3x3(shape[1], out).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = fast
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator))
    made = (shape[0], out, *shape[2:])
    x, dy, dx = (
        torch.randn(size, generator=generator).to(memory_format=torch.channels_last) for size in (shape, made, shape)
    )
    y, same = convolution.beside(x.requires_grad_())
    assert ("SummedConv3x3" in y.grad_fn.name()) is fast  # type: ignore[union-attr]
    torch.autograd.backward([y, same] if beside else [y], [dy, dx] if beside else [dy])
    assert x.grad is not None and convolution.weight.grad is not None
    found = {"y": y.detach(), "x": x.grad, "weight": convolution.weight.grad}
    exact_x = x.detach().double().requires_grad_()
    weight = convolution.weight.detach().double().requires_grad_()
    exact = torch.nn.functional.conv2d(exact_x, weight, padding=1)
    exact.backward(dy.double())
    assert exact_x.grad is not None and weight.grad is not None
    return found, {"y": exact.detach(), "x": exact_x.grad + (dx.double() if beside else 0), "weight": weight.grad}


WINOGRAD = [  # images, channels, height and width, channels out
    ((1, 8, 2, 2), 8),
    ((3, 8, 8, 8), 8),
    ((2, 16, 4, 6), 16),
    ((2, 24, 6, 2), 8),
    ((4, 16, 32, 32), 16),
    ((5, 32, 16, 16), 64),
    ((17, 64, 8, 8), 40),
    ((2, 256, 4, 4), 248),
]


@needs_winograd
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("shape", "out"), WINOGRAD, ids=str)
def test_winograds_algorithm_is_exact_to_rounding_at_every_edge(
    shape: tuple[int, ...], out: int, beside: bool, winograd: None
) -> None:
    found, exact = run_winograd(shape, out, beside=beside)
    for name in exact:
        error = (found[name].double() - exact[name]).abs().max() / exact[name].abs().max()
        assert float(error) < 2e-6, name


@needs_winograd
@pytest.mark.parametrize("shape", [(128, 32, 16, 16), (128, 64, 8, 8)], ids=str)  # of ResNet-20
def test_winograds_rounding_error_is_about_torchs_own(shape: tuple[int, ...], winograd: None) -> None:
    ours, exact = run_winograd(shape, shape[1])
    theirs, _ = run_winograd(shape, shape[1], fast=False)
    for name in exact:
        errors = [float((found[name].double() - exact[name]).square().mean().sqrt()) for found in (ours, theirs)]
        assert errors[0] < 1.5 * errors[1], name


@needs_winograd
def test_winograds_algorithm_gives_the_same_bits_on_any_number_of_threads(winograd: None) -> None:
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(run_winograd((37, 32, 16, 16), 32)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in ("y", "x", "weight"))


@needs_winograd
def test_in_evaluation_it_works_too_unless_gradients_are_asked(winograd: None) -> None:
    convolution = Conv3x3(8, 16).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    convolution.fast = True
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    usual = convolution(x)
    assert usual.grad_fn.name() == "ConvolutionBackward0"
    with torch.inference_mode():
        found = convolution(x)
    assert not torch.equal(found, usual)
    torch.testing.assert_close(found, usual, rtol=1e-5, atol=1e-5)


@needs_winograd
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_winograds_algorithm_lets_no_number_that_is_none_disappear(value: float, winograd: None) -> None:
    convolution = Conv3x3(8, 8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = True
    x = torch.zeros(2, 8, 4, 4).to(memory_format=torch.channels_last)
    x[1, 3, 1, 2] = value
    y = convolution(x)
    assert bool(y[0].isfinite().all()) and not bool(y[1, :, :3, 1:].isfinite().any())


@pytest.fixture(params=[pytest.param("AVX-512", marks=needs_bf16), pytest.param("AMX", marks=needs_amx)])
def half(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The instructions of the kernel in bf16 that is used."""
    if request.param == "AVX-512":
        monkeypatch.setattr(library, "amx_supported", lambda: 0)
    return str(request.param)


def run_bf16(
    shape: tuple[int, ...], out: int, stride: int, *, beside: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Output and gradients of one convolution under autocast, and the exact ones of the same bf16 numbers.

    :param beside: x is read by something else, too.
    """
    convolution = Conv3x3(shape[1], out, stride).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = True
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator))
    small = (shape[0], out, shape[2] // stride, shape[3] // stride)
    x, dy, dx = (
        torch.randn(size, generator=generator).to(memory_format=torch.channels_last).bfloat16()
        for size in (shape, small, shape)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, same = convolution.beside(x.requires_grad_())
    assert y.dtype == torch.bfloat16 and "SummedConv3x3" in y.grad_fn.name()  # type: ignore[union-attr]
    assert torch.equal(same, x)
    torch.autograd.backward([y, same] if beside else [y], [dy, dx] if beside else [dy])
    assert x.grad is not None and convolution.weight.grad is not None
    assert convolution.weight.grad.dtype == torch.float32
    found = {"y": y.detach(), "x": x.grad, "weight": convolution.weight.grad}
    exact_x, weight = x.detach().double().requires_grad_(), convolution.weight.detach().bfloat16().double()
    exact = torch.nn.functional.conv2d(exact_x, weight.requires_grad_(), padding=1, stride=stride)
    exact.backward(dy.double())
    assert exact_x.grad is not None and weight.grad is not None
    return found, {"y": exact.detach(), "x": exact_x.grad + (dx.double() if beside else 0), "weight": weight.grad}


BF16 = [  # images, channels, height and width, channels out, stride
    ((3, 16, 8, 8), 16, 1),
    ((2, 16, 5, 24), 16, 1),
    ((4, 16, 32, 32), 16, 1),
    ((2, 32, 1, 8), 32, 1),
    ((5, 32, 16, 16), 48, 1),
    ((17, 64, 8, 8), 64, 1),
    ((2, 96, 3, 8), 16, 1),
    ((3, 16, 32, 32), 32, 2),
    ((5, 32, 16, 16), 64, 2),
    ((2, 48, 6, 48), 16, 2),
    ((3, 64, 56, 56), 32, 1),
    ((19, 16, 4, 16), 48, 2),
    ((1, 16, 2, 16), 16, 2),
    ((2, 32, 2, 40), 16, 1),
    ((1, 16, 3, 88), 16, 1),
    ((1, 16, 1, 136), 32, 1),
    ((1, 16, 2, 208), 16, 2),
]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("shape", "out", "stride"), BF16, ids=str)
def test_in_bf16_it_is_the_exact_result_rounded_once_at_every_edge(
    shape: tuple[int, ...], out: int, stride: int, beside: bool, half: str
) -> None:
    """The weights' gradient is not rounded at all: torch's comes in bf16."""
    if half == "AMX" and max(shape[1], out) > MOST_TILED:
        pytest.skip("the library's")
    found, exact = run_bf16(shape, out, stride, beside=beside)
    for name, rounding in (("y", 2.0**-8), ("x", 2.0**-8), ("weight", 0.0)):
        bound = rounding * exact[name].abs() + 1e-5 * exact[name].abs().max()
        assert bool(((found[name].double() - exact[name]).abs() <= bound).all()), name


@pytest.mark.parametrize("stride", [1, 2])
def test_in_bf16_it_gives_the_same_bits_on_any_number_of_threads(stride: int, half: str) -> None:
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(run_bf16((37, 32, 16, 16), 32, stride)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in ("y", "x", "weight"))


def test_in_bf16_frozen_weights_get_no_gradient(half: str) -> None:
    convolution = Conv3x3(16, 16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = True
    convolution.weight.requires_grad_(False)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolution(x).sum().backward()
    assert x.grad is not None and convolution.weight.grad is None


def test_in_bf16_torch_does_the_work_where_the_kernel_does_not_apply(half: str) -> None:
    for channels, out, width, stride, dtype in (
        (24, 24, 8, 1, torch.bfloat16),
        (16, 16, 8, 1, torch.float32),
        (16, 16, 12, 1, torch.bfloat16),
        (16, 16, 8, 2, torch.bfloat16),
        *([(16, MOST_TILED + 16, 8, 1, torch.bfloat16)] if half == "AMX" else []),
    ):
        convolution = Conv3x3(channels, out, stride).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        convolution.fast = True
        x = torch.randn(2, channels, 8, width).to(memory_format=torch.channels_last).to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert convolution(x).grad_fn.name() == "ConvolutionBackward0"


def test_in_bf16_torchs_convolution_between_two_of_ours_changes_nothing(half: str) -> None:
    """Both shape the processor's tiles."""
    first = run_bf16((3, 32, 16, 16), 32, 1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.nn.functional.conv2d(torch.randn(2, 48, 9, 9), torch.randn(24, 48, 3, 3))
    second = run_bf16((3, 32, 16, 16), 32, 1)[0]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_no_images_has_no_output_and_a_gradient_of_zeros(dtype: torch.dtype) -> None:
    convolution = Conv3x3(16, 32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution.fast = True
    x = torch.zeros(0, 16, 8, 8, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = convolution(x)
    y.sum().backward()
    assert y.shape == (0, 32, 8, 8) and convolution.weight.grad is not None and not convolution.weight.grad.any()
