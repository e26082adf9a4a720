"""Our kernel for batch norm, shortcut and ReLU computes what torch's operations do."""

import shutil

import pytest
import torch
from torch import Tensor

from resexp.models.build import build_model
from resexp.models.kernels import load_kernels
from resexp.models.norm_relu import BatchNorm

needs_kernel = pytest.mark.skipif(load_kernels() is None, reason="installed without a C compiler")
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
def test_a_single_value_a_channel_is_refast_as_torch_does() -> None:
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
