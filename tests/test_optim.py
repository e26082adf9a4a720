"""The learning rate is the papers' at every step."""

from typing import Any

import pytest
import torch

from resexp.optim import SGD, AdamW, Optimizer
from resexp.schedule import Schedule


def test_the_rate_drops_at_the_stated_steps_counted_from_zero() -> None:
    schedule = Schedule(base_lr=0.1, drops=[32_000, 48_000])
    rates = [schedule.lr(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_warm_up_ends_by_the_error_of_the_last_hundred_batches_and_the_rate_comes_back() -> None:
    schedule = Schedule(base_lr=0.1, drops=[32_000], warmup=True)
    for step in range(1, 400):
        assert schedule.lr(step - 1) == 0.01
        schedule.observe(step, 90.0 if step <= 300 else 70.0)
        if not schedule.warming_up:
            break
    # 100 batches of which k have 70 %: the mean falls below 80 % with the 51st
    assert schedule.warmup_ended_at == 351
    assert schedule.lr(351) == 0.1
    assert schedule.lr(32_000) == pytest.approx(0.01)


def test_a_good_first_batch_does_not_end_the_warm_up() -> None:
    schedule = Schedule(base_lr=0.1, warmup=True)
    for step in range(1, 100):
        schedule.observe(step, 10.0)
    assert schedule.warming_up
    schedule.observe(100, 10.0)
    assert not schedule.warming_up


def test_a_net_that_never_learns_leaves_the_warm_up_at_its_limit() -> None:
    schedule = Schedule(base_lr=0.1, drops=[200], warmup=True, warmup_limit=150)
    rates = []
    for step in range(1, 300):
        rates.append(schedule.lr(step - 1))
        if schedule.warming_up:
            schedule.observe(step, 90.0)
    assert schedule.warmup_ended_at == 150
    assert rates[:150] == [0.01] * 150 and rates[150:200] == [0.1] * 50
    assert rates[200:] == pytest.approx([0.01] * 99)


def test_a_fixed_warm_up_is_that_of_the_papers_of_2016_for_every_net() -> None:
    schedule = Schedule(base_lr=0.1, drops=[32_000, 48_000], warmup_steps=400)
    assert [schedule.lr(step) for step in (0, 399, 400, 31_999)] == [0.01, 0.01, 0.1, 0.1]
    assert not schedule.warming_up  # it waits for no error


def test_a_warm_up_never_raises_the_rate() -> None:
    for schedule in (
        Schedule(base_lr=0.003, warmup_steps=10),
        Schedule(base_lr=0.003, warmup=True),
        Schedule(base_lr=0.1, drops=[2, 4], warmup=True),
    ):
        assert schedule.lr(5) <= 0.003


def test_a_restored_schedule_remembers_the_warm_up() -> None:
    first, second = (Schedule(base_lr=0.1, warmup=True, warmup_window=3) for _ in range(2))
    for step, error in enumerate((90.0, 75.0), start=1):
        first.observe(step, error)
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.observe(3, 70.0)
    assert first == second and second.warmup_ended_at == 3


def test_weight_decay_falls_on_every_parameter() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    optimizer = SGD(net.parameters(), momentum=0.0, weight_decay=0.1)
    optimizer.lr = 0.5
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.allclose(new, old * (1 - 0.5 * 0.1))


def assert_same_training(
    ours: Optimizer, theirs: torch.optim.Optimizer, nets: list, shape: tuple[int, ...], *, fused: bool
) -> None:
    """Five steps of both, at a rate that changes: to the last bit if both are fused."""
    for step in range(5):
        ours.lr = theirs.param_groups[0]["lr"] = theirs.defaults["lr"] / (step + 1)
        inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(step))
        for net, optimizer in zip(nets, (ours, theirs), strict=True):
            optimizer.zero_grad()
            net(inputs).abs().mean().backward()
            optimizer.step()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0 if fused else 1e-4, atol=0 if fused else 1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_sgd_is_torchs_sgd_with_momentum_and_decay(fused: bool) -> None:
    nets = [torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = SGD(nets[0].parameters(), momentum=0.9, weight_decay=0.01, fused=fused)
    theirs = torch.optim.SGD(nets[1].parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
    assert_same_training(ours, theirs, nets, (3, 8, 8), fused=fused)


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_is_torchs_adamw(fused: bool) -> None:
    nets = [torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours = AdamW(nets[0].parameters(), weight_decay=0.05, fused=fused)
    theirs = torch.optim.AdamW(nets[1].parameters(), lr=0.01, weight_decay=0.05, fused=fused)
    assert_same_training(ours, theirs, nets, (6,), fused=fused)


def test_a_restored_adamw_resumes_where_it_stopped() -> None:
    def steps(optimizer: AdamW, parameter: torch.nn.Parameter, count: int) -> None:
        optimizer.lr = 0.1
        for _ in range(count):
            parameter.grad = parameter.detach().sin()
            optimizer.step()

    one, two = (torch.nn.Parameter(torch.arange(3.0)) for _ in range(2))
    whole = AdamW([one], weight_decay=0.1)
    steps(whole, one, 5)
    first = AdamW([two], weight_decay=0.1)
    steps(first, two, 2)
    second = AdamW([two], weight_decay=0.1)
    second.load_state_dict({name: [t.clone() for t in tensors] for name, tensors in first.state_dict().items()})
    steps(second, two, 3)
    assert torch.equal(one, two)


def test_what_took_no_part_in_a_step_still_decays_and_coasts() -> None:
    """A block that stochastic depth has dropped: its gradient is zero, its velocity and decay continue."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([parameter], momentum=0.5, weight_decay=0.1)
    optimizer.lr = 1.0
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.allclose(parameter, torch.full((2,), (1 - 1.1) - (0.5 * 1.1 - 0.01)))


@pytest.mark.parametrize(("make", "name"), [(SGD, "_fused_sgd_"), (AdamW, "_fused_adamw_")])
def test_a_torch_without_the_fused_operation_takes_the_public_ones(
    make: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights_after_a_step() -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 8))
        settings = {"momentum": 0.9} if make is SGD else {}
        optimizer = make([weight], weight_decay=0.1, fused=True, **settings)
        optimizer.lr = 0.1
        weight.grad = torch.linspace(0, 1, 8)
        optimizer.step()
        return weight.detach()

    fused = weights_after_a_step()
    monkeypatch.delattr(torch, name)
    assert torch.allclose(weights_after_a_step(), fused, atol=1e-6)
