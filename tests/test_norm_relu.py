"""Our kernel for batch norm, shortcut and ReLU computes what torch's operations do."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY
from torch import Tensor, nn

from resexp.cli import main
from resexp.models import kernels
from resexp.models.build import build_model
from resexp.models.kernels import load_kernels
from resexp.models.norm_relu import BatchNorm

needs_kernel = pytest.mark.skipif(load_kernels() is None, reason="installed without a C compiler")
needs_bf16 = pytest.mark.skipif(
    not ((library := load_kernels()) and library.bf16_supported()), reason="no AVX-512 with bf16"
)
SHAPES = [(4, 8, 5, 3), (64, 8, 8, 8), (3, 16, 7, 7), (40, 24, 9, 9), (8, 64, 1, 1), (5, 40, 40, 40)]


def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert load_kernels() is not None


def channels_last(shape: tuple[int, ...], seed: int, offset: float = 0.0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + offset
    return x.to(memory_format=torch.channels_last).requires_grad_()


def run(shape: tuple[int, ...], *, fast: bool, joins: bool) -> dict[str, Tensor]:
    """One training pass of a BatchNorm: output, gradients, running statistics."""
    norm = BatchNorm(shape[1])
    norm.fast = fast
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-0.5, 2, shape[1]))
        norm.bias.copy_(torch.linspace(1, -1, shape[1]))
    x, shortcut = channels_last(shape, 1, offset=3.0), channels_last(shape, 2) if joins else None
    y = norm.relu(x, shortcut)
    with torch.no_grad():  # where rounding decides on which side of the ReLU a value lies, gradients may differ
        exact = torch.batch_norm(
            x.double(), norm.weight.double(), norm.bias.double(), None, None, True, 0.1, norm.eps, False
        )
        clear = (exact if shortcut is None else exact + shortcut).abs() > 1e-5
    y.backward(channels_last(shape, 3).detach())
    assert x.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    result = {
        "y": y.detach(),
        "x": x.grad * clear,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        **norm.state_dict(),
    }
    if shortcut is not None and shortcut.grad is not None:
        result["shortcut"] = shortcut.grad * clear
    return {name: value.clone() for name, value in result.items()}


@needs_kernel
@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_torch_in_output_gradients_and_statistics(shape: tuple[int, ...], joins: bool) -> None:
    ours, torchs = run(shape, fast=True, joins=joins), run(shape, fast=False, joins=joins)
    assert ours.keys() == torchs.keys()
    assert not all(torch.equal(ours[name], torchs[name]) for name in ours)  # it is another computation
    for name in ours:
        scale = float(torchs[name].abs().max())
        torch.testing.assert_close(ours[name], torchs[name], rtol=1e-4, atol=2e-5 * scale, msg=name)


@needs_kernel
@pytest.mark.parametrize("joins", [False, True])
def test_it_gives_the_same_bits_on_any_number_of_threads(joins: bool) -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run((40, 24, 9, 9), fast=True, joins=joins))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


@needs_kernel
@pytest.mark.parametrize("joins", [False, True])
def test_a_nan_is_passed_on(joins: bool) -> None:
    norm = BatchNorm(8)
    norm.fast = True
    x = torch.zeros(2, 8, 4, 4).to(memory_format=torch.channels_last)
    x[0, 3, 0, 0] = torch.nan
    y = norm.relu(x, torch.zeros_like(x) if joins else None)
    assert y[:, 3].isnan().all() and y[:, :3].isfinite().all()


@needs_kernel
def test_where_it_does_not_apply_torch_does_the_same() -> None:
    norm = BatchNorm(12)
    norm.fast = True
    odd = torch.randn(4, 12, 3, 3).to(memory_format=torch.channels_last)  # 12 channels are not a multiple of 8
    assert norm.relu(odd.requires_grad_()).grad_fn.name() == "ReluBackward0"  # type: ignore[union-attr]
    norm = BatchNorm(8)
    norm.fast = True
    rows = torch.randn(4, 8, 3, 3, requires_grad=True)
    assert norm.relu(rows).grad_fn.name() == "ReluBackward0"  # type: ignore[union-attr]
    dense = rows.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert "NormReLU" in norm.relu(dense).grad_fn.name()  # type: ignore[union-attr]
    norm.eval()
    assert torch.equal(
        norm.relu(dense),
        torch.relu(torch.nn.functional.batch_norm(dense, norm.running_mean, norm.running_var, norm.weight, norm.bias)),
    )


@needs_kernel
@pytest.mark.parametrize("joins", [False, True])
def test_in_evaluation_it_takes_the_running_statistics_unless_gradients_are_asked(joins: bool) -> None:
    norm = BatchNorm(24).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2)  # type: ignore[arg-type]
    x, shortcut = channels_last((5, 24, 9, 7), 1), channels_last((5, 24, 9, 7), 2) if joins else None
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    with torch.no_grad():
        own = [t.double() for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias) if t is not None]
        expected = torch.relu(F.batch_norm(x.double(), *own) + (0 if shortcut is None else shortcut))
        norm.fast = True
        found = norm.relu(x, shortcut)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    assert norm.relu(x, shortcut).grad_fn.name() == "ReluBackward0"  # type: ignore[union-attr]


@needs_kernel
def test_a_single_value_a_channel_is_refused_as_torch_does() -> None:
    norm = BatchNorm(8)
    norm.fast = True
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm.relu(torch.randn(1, 8, 1, 1).to(memory_format=torch.channels_last))


@needs_kernel
def test_activation_checkpointing_counts_each_batch_once_with_it_too() -> None:
    inputs = torch.rand(4, 3, 8, 8).to(memory_format=torch.channels_last)
    nets = [
        build_model(family="resnet", depth=20, shortcut="A", width=8, fast=True, activation_checkpointing=spare)
        for spare in (False, True)
    ]
    for net in nets:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net(inputs).square().sum().backward()
    for one, other in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(one, other)
    for first, second in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert first.grad is not None and second.grad is not None and torch.equal(first.grad, second.grad)


ROUNDING = 2.0**-8  # of a number that is kept in bf16, at most, as a part of it


def assert_rounded(found: Tensor, exact: Tensor, what: str) -> None:
    """Within one rounding to bf16 of the exact number, and of what sums in float32 lose beside the largest."""
    bound = ROUNDING * exact.abs() + 2e-5 * exact.abs().max()
    assert bool(((found.double() - exact).abs() <= bound).all()), what


@needs_bf16
@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize(
    "shape", [(64, 16, 8, 8), (3, 16, 7, 7), (9, 32, 5, 3), (40, 48, 20, 20), (8, 64, 1, 1)], ids=str
)
def test_in_bf16_it_is_the_exact_result_rounded_once(shape: tuple[int, ...], joins: bool) -> None:
    """Against float64 on the same bf16 numbers; weights' gradients and statistics are not rounded at all."""
    norm = BatchNorm(shape[1])
    norm.fast = True
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-0.5, 2, shape[1]))
        norm.bias.copy_(torch.linspace(1, -1, shape[1]))
    x = channels_last(shape, 1, offset=3.0).detach().bfloat16().requires_grad_()
    shortcut = channels_last(shape, 2).detach().bfloat16().requires_grad_() if joins else None
    dy = channels_last(shape, 3).detach().bfloat16()
    y = norm.relu(x, shortcut)
    assert y.dtype == torch.bfloat16 and "NormReLU" in y.grad_fn.name()  # type: ignore[union-attr]
    y.backward(dy)

    exact_x, weight, bias = (t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias))
    running = [torch.zeros(shape[1], dtype=torch.float64), torch.ones(shape[1], dtype=torch.float64)]
    z = torch.batch_norm(exact_x, weight, bias, *running, True, 0.1, norm.eps, False)
    if shortcut is not None:
        exact_shortcut = shortcut.detach().double().requires_grad_()
        z = z + exact_shortcut
    clear = z.detach().abs() > 1e-4
    z.relu().backward(dy.double())
    assert x.grad is not None and exact_x.grad is not None and norm.weight.grad is not None
    assert_rounded(y.detach(), z.detach().relu(), "y")
    assert_rounded(x.grad * clear, exact_x.grad * clear, "x")
    if shortcut is not None:
        assert shortcut.grad is not None and exact_shortcut.grad is not None
        assert torch.equal(shortcut.grad.double() * clear, exact_shortcut.grad * clear)
    pairs = [(norm.weight.grad, weight.grad), (norm.bias.grad, bias.grad)]
    pairs += [(norm.running_mean, running[0]), (norm.running_var, running[1])]
    for found, exact in pairs:
        assert found is not None and exact is not None and found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


@needs_bf16
def test_in_bf16_a_nan_is_passed_on_and_any_number_of_threads_gives_the_same_bits() -> None:
    norm = BatchNorm(16)
    norm.fast = True
    x = torch.zeros(2, 16, 4, 4).to(memory_format=torch.channels_last).bfloat16()
    x[0, 3, 0, 0] = torch.nan
    y = norm.relu(x, torch.zeros_like(x))
    assert y[:, 3].isnan().all() and y[:, :3].isfinite().all()
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        norm = BatchNorm(48)
        norm.fast = True
        x = channels_last((40, 48, 9, 9), 1).detach().bfloat16().requires_grad_()
        norm.relu(x).square().sum().backward()
        results.append((x.grad, norm.weight.grad, norm.running_var))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))  # type: ignore[arg-type]


@needs_bf16
def test_a_norm_whose_own_numbers_are_bf16_is_left_to_torch() -> None:
    norm = BatchNorm(16).bfloat16()
    norm.fast = True
    x = torch.randn(4, 16, 8, 8).to(memory_format=torch.channels_last).bfloat16()
    assert norm.relu(x).grad_fn.name() == "ReluBackward0"  # type: ignore[union-attr]
    assert norm.running_mean is not None and float(norm.running_mean.abs().max()) < 1


@needs_kernel
def test_kernels_of_an_earlier_checkout_are_not_called_and_a_run_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = ["train", *TINY, "protocol.steps=2", "protocol.lr_drops=[]", f"output_dir={tmp_path}"]
    assert not kernels.are_outdated()
    assert main([*smoke, "seed=0"]) == 0
    assert "another checkout" not in capsys.readouterr().err
    kernels._library.cache_clear()
    monkeypatch.setattr(kernels, "VERSION", 10**6)
    assert load_kernels() is None
    assert main([*smoke, "seed=1"]) == 0
    assert (
        "kernels of another checkout or machine are not used, which is slower; make install builds new ones"
        in capsys.readouterr().err
    )
    assert main([*smoke, "seed=2", "fast=false"]) == 0  # asks for none
    assert "another checkout" not in capsys.readouterr().err
    monkeypatch.undo()
    kernels._library.cache_clear()


@needs_kernel
def test_kernels_of_another_machine_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, bad = next(kernels._files()), tmp_path / "_kernels.cpython-311-riscv64.so"
    bad.write_bytes(b"\x7fELF" + bytes(100))
    for files, there in (([bad, good], True), ([bad], False)):
        kernels._library.cache_clear()
        monkeypatch.setattr(kernels, "_files", lambda files=files: iter(files))
        assert (load_kernels() is not None) == there and kernels.are_outdated() != there
    monkeypatch.undo()
    kernels._library.cache_clear()


@needs_bf16
def test_in_bf16_torch_does_the_work_where_the_kernel_does_not_apply() -> None:
    for x, shortcut in (
        (torch.randn(4, 24, 8, 8), None),  # no multiple of 16 channels
        (torch.randn(4, 16, 8, 8), torch.randn(4, 16, 8, 8)),  # a shortcut in fp32
    ):
        norm = BatchNorm(x.shape[1])
        norm.fast = True
        y = norm.relu(x.to(memory_format=torch.channels_last).bfloat16(), shortcut)
        assert y.grad_fn.name() == "ReluBackward0"  # type: ignore[union-attr]


@needs_kernel
def test_a_default_type_of_the_callers_changes_no_gradient() -> None:
    x, norm = channels_last((4, 8, 8, 8), seed=0), BatchNorm(8)
    norm.fast = True

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(norm.relu(x).square().sum(), (x, norm.weight, norm.bias))

    expected = gradients()
    torch.set_default_dtype(torch.float64)
    try:
        found = gradients()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
