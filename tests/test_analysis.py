"""Each analysis against a closed form or a slow reference, and what the command does with good and bad input."""

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, write_run

from resexp import UserError, config
from resexp.analysis import (
    convergence,
    decay,
    ensemble,
    few_blocks,
    gradients,
    identity,
    landscape,
    lesion,
    paths,
    rank,
    recurrent,
    responses,
    sparsity,
    stacks,
    units,
)
from resexp.analysis import forward as forward_terms
from resexp.analysis import relu_collapse as collapse
from resexp.analysis import shattering as shatter
from resexp.analysis.responses import layer_responses
from resexp.analysis.runner import ANALYSES, load_analysis, subject_of
from resexp.analysis.subject import (
    Trained,
    about,
    blocks_of,
    error_of,
    judged,
    log_probabilities,
    of_one_depth,
    read_weights,
    replaced,
    told_apart,
)
from resexp.builder import build_net, load_data
from resexp.catalog import NAMED, label_of
from resexp.cli import main
from resexp.models.build import build_model, use_kernels
from resexp.run.reader import Run
from resexp.studies import finding
from resexp.studies.finding import Finding, Panel, Row, Series

Subject = Callable[..., Trained]
NOT_THE_NET = [word for word in TINY if not word.startswith("model=")]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """A tiny net whose batch norms have seen images, read from a file of weights: ``subject("model=resnet8")``."""

    def make(*words: str) -> Trained:
        cfg = config.load([*NOT_THE_NET, *(words or ["model=resnet8"])])
        torch.save(build_net(cfg, load_data(cfg)).state_dict(), tmp_path / "weights.pt")
        found = read_weights(cfg, tmp_path / "weights.pt")
        with torch.no_grad():
            found.net.train()(found.images("train", 192)[0])
        found.net.eval()
        return found

    return make


def bits(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(before: dict[str, torch.Tensor], net: torch.nn.Module) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# What is analysed


def test_images_are_the_first_of_a_part_ready_for_the_net(subject: Subject) -> None:
    net = subject()
    inputs, labels = net.images("test", 12)
    stored = net.data.test
    slow = (stored.images[:12].double() - net.data.train.images.double().mean(dim=0)) / 255
    assert inputs.shape == (12, 3, 8, 8) and inputs.dtype == torch.float32
    assert torch.equal(labels, stored.labels[:12]) and net.cfg.protocol.normalize == "pixel-mean"
    assert torch.allclose(inputs.double(), slow, atol=1e-6)


def test_what_a_net_was_trained_on_says_what_is_not_its_protocols(subject: Subject) -> None:
    net = subject("model=resnet8", "protocol.weight_decay=0.5")
    assert net.origin.startswith("weights weights.pt, width 4, data set synthetic")
    assert "lr_drops=[6], weight_decay=0.5, 12 steps" in dataclasses.replace(net, weights="").origin  # as of a run


def test_a_label_names_what_is_not_the_papers() -> None:
    assert label_of({"family": "resnet", "depth": 56, "width": 8}) == "resnet56"
    assert label_of({"family": "resnet", "depth": 56, "survival": 0.5}) == "resnet56 survival=0.5"
    for net in NAMED:
        assert label_of(net.settings) == net.name
    assert label_of({"family": "resnet", "depth": 56, "zero_padding": "both"}) == "resnet56"  # an order of channels


def test_no_analysis_judges_a_net_that_knows_nothing(subject: Subject) -> None:
    """All weights zero: every answer is one class, and no lesion, path or response of it says anything."""
    nets = [subject("model=preresnet8"), subject("model=resnet8"), subject("model=plain8")]
    for net in nets:
        with torch.no_grad():
            for weight in net.net.parameters():
                weight.zero_()
        assert not net.has_learned and judged(True, net) is None and "no verdict on" in about([net])
    small: dict[str, dict[str, Any]] = {"images": {"images": 32}}
    pre, residual, plain = nets
    found = [
        lesion.analyze(nets, repeats=1, swaps=1, **small["images"]),
        ensemble.analyze([residual], members=2, **small["images"]),
        paths.analyze([pre], samples=1, images=4, train_steps=0),
        responses.analyze([residual, plain], **small["images"]),
        sparsity.analyze([residual, plain], **small["images"]),
        landscape.analyze([residual, plain], points=3, side=0, curvature=0, directions=1, **small["images"]),
    ]
    on_nets = [row for one in found for row in one.rows if row.id not in ("exact-share",)]
    assert on_nets and all(row.agrees is None for row in on_nets)


def test_a_net_has_learned_below_half_of_the_error_of_guessing(subject: Subject) -> None:
    net = subject()
    for error, learned in ((net.chance / 2, True), (net.chance / 2 + 0.1, False)):
        object.__getattribute__(net, "__dict__")["train_error"] = error
        assert net.has_learned is learned and judged(False, net) is (False if learned else None)


def test_replaced_blocks_come_back_even_after_an_error(subject: Subject) -> None:
    net = subject()
    before, place = list(net.net.stages[0]), (net.net.stages[0], 0)
    with pytest.raises(ZeroDivisionError), replaced([place], [torch.nn.Identity()]):
        assert isinstance(net.net.stages[0][0], torch.nn.Identity)
        raise ZeroDivisionError
    assert list(net.net.stages[0]) == before


@pytest.mark.parametrize(
    "analysis",
    ["lesion", "landscape", "responses", "ensemble", "gradients", "forward", "paths", "sparsity", "remedies"],
)
def test_no_analysis_changes_the_net(analysis: str, subject: Subject) -> None:
    net = subject("model=preresnet8")
    inputs, _ = net.images("test", 32)
    before, answer = bits(net.net), log_probabilities(net.net, inputs)
    small: dict[str, dict[str, Any]] = {
        "lesion": {"repeats": 1, "swaps": 2},
        "landscape": {"points": 3, "side": 2, "curvature": 1},
        "ensemble": {"members": 2},
        "gradients": {"layers": 2, "steps": 10},
        "paths": {"samples": 1, "train_steps": 2},
    }
    module = __import__(f"resexp.analysis.{analysis}", fromlist=["analyze"])
    module.analyze([net], **{"images": 32, **small.get(analysis, {})})
    assert same(before, net.net) and torch.equal(answer, log_probabilities(net.net, inputs))
    assert not any(module._forward_hooks for module in net.net.modules()) and not net.net.training


# responses


def test_responses_are_the_spread_after_each_batch_norm_the_stems_first(subject: Subject) -> None:
    net = subject("model=preresnet8")
    inputs, _ = net.images("test", 32)
    found = layer_responses(net.net, inputs)
    stem = net.net.stem
    with torch.no_grad():
        x = stem.conv(inputs)
        by_hand = F.batch_norm(x, stem.bn.running_mean, stem.bn.running_var, stem.bn.weight, stem.bn.bias)
    assert found[0] == pytest.approx(float(by_hand.std()), rel=1e-5)
    assert len(found) == 7


def test_responses_of_a_plain_net_are_taken_after_norm_and_before_relu(subject: Subject) -> None:
    """The fused kernel must not hide a layer, and what is measured has values below zero."""
    net = subject("model=plain8")
    inputs, _ = net.images("test", 64)
    found = layer_responses(net.net, inputs)
    assert len(found) == 7
    with torch.no_grad():
        for module in net.net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.mul_(2)
                module.bias.mul_(2)
        assert layer_responses(net.net, inputs)[0] == pytest.approx(2 * found[0], rel=1e-5)


def test_responses_need_batch_norm(subject: Subject) -> None:
    with pytest.raises(UserError, match="no batch norm"):
        layer_responses(torch.nn.Linear(3, 3), torch.zeros(1, 3), "this net")


# gradients


def test_layer_gradients_are_those_of_backward(subject: Subject) -> None:
    net = subject("model=plain8")
    inputs, labels = net.images("train", 32)
    copied = copy.deepcopy(net.net).train()
    F.cross_entropy(copied(inputs), labels).backward()
    slow = [float(m.weight.grad.norm()) for m in copied.modules() if isinstance(m, torch.nn.Conv2d)]
    weights, found = gradients.layer_gradients(copy.deepcopy(net.net), inputs, labels)
    assert found == pytest.approx(slow, rel=1e-5) and len(slow) == 7
    assert weights[0] == pytest.approx(float(net.net.stem.conv.weight.detach().norm()))


@pytest.mark.parametrize(("factor", "lasts", "stays"), [(1.0, True, True), (1e3, True, False), (1e-3, False, True)])
def test_a_gradient_vanishes_if_it_is_too_small_and_explodes_if_it_is_too_large(
    factor: float, lasts: bool, stays: bool, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = [factor] * 3 + [1.0] * 4
    monkeypatch.setattr(gradients, "layer_gradients", lambda *_: ([1.0] * 7, norms))
    net = subject("model=plain8")
    rows = {row.id: row for row in gradients.analyze([net], layers=2, steps=5).rows}
    assert rows["fresh-lasts-plain8"].agrees is lasts and rows["fresh-stays-plain8"].agrees is stays
    assert rows["first-update-plain8"].agrees is (net.cfg.protocol.lr * factor < 1)


def test_the_gradient_of_a_deep_plain_net_explodes_at_the_start_and_a_residual_ones_does_not() -> None:
    """The embedded study's nets: its gap is of another kind than the paper describes, and the page says so."""
    ratio = {}
    for name in ("plain20", "plain56", "resnet56"):
        cfg = config.load([f"model={name}", "model.width=8", "dataset=digits"])
        data = load_data(cfg)
        net = build_net(cfg, data)
        inputs, labels = data.train.images[:128].float() / 255, data.train.labels[:128]
        _, norms = gradients.layer_gradients(net, inputs, labels)
        ratio[name] = sum(norms[:3]) / sum(norms[-3:])
    assert ratio["plain56"] > 100 > 10 > max(ratio["plain20"], ratio["resnet56"])


def test_sigmoid_gradients_keep_below_a_quarter_of_the_weights_norm() -> None:
    kind = next(kind for kind in stacks.KINDS if kind.activation == "sigmoid" and not kind.norm)
    random = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(256, 12, generator=random), torch.arange(256) % 4
    found = stacks.train_stack(kind, 8, 16, 5, 0.01, 0, inputs, labels)
    assert 0 < max(found["bound"]) <= 1
    assert found["signal"][0] < 1e-2 * found["signal"][-1]  # and so it vanishes


def test_he_keeps_the_gradient_where_naive_weights_lose_it() -> None:
    random = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(256, 64, generator=random), torch.arange(256) % 4
    ratio = {}
    for kind in stacks.KINDS:
        signal = stacks.train_stack(kind, 10, 64, 1, 0.01, 0, inputs, labels)["signal"]
        ratio[kind.name] = signal[0] / signal[-1]
    assert 0.05 < ratio["ReLU, He"] < 20 and ratio[f"ReLU, normal({stacks.NAIVE})"] < 1e-8
    assert ratio["ReLU, He, batch norm"] == pytest.approx(stacks.NORM_FACTOR**9, rel=0.6)  # it grows


# shattering


def test_autocorrelation_is_the_slow_sum() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    mean = values.mean()
    slow = [sum((values[i] - mean) * (values[i + k] - mean) for i in range(50 - k)) for k in range(6)]
    assert shatter.autocorrelation(values, 5) == pytest.approx([one / slow[0] for one in slow])


def test_a_line_gradient_is_the_difference_quotient() -> None:
    net = decay.Net(3, residual=True)
    found = shatter.line_gradient(net, 20, 201, seed=3)
    random = torch.Generator().manual_seed(3)
    first, bias = (torch.randn(1, 20, generator=random, dtype=torch.float64) for _ in range(2))
    weights = net.weights(20, random)
    out = torch.randn(20, 1, generator=random, dtype=torch.float64) / math.sqrt(20)

    def f(x: float) -> float:
        h = x * first + bias
        for weight in weights:
            h = h + h.relu() @ weight
        return float(h @ out)

    line = np.linspace(-2, 2, 201)
    for index in (7, 100, 150):
        quotient = (f(line[index] + 1e-7) - f(line[index] - 1e-7)) / 2e-7
        assert found[index] == pytest.approx(quotient, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "net",
    [
        decay.Net(4),
        decay.Net(4, norm=True),
        decay.Net(4, residual=True),
        decay.Net(4, residual=True, norm=True),
    ],
)
def test_wide_nets_have_the_mean_fields_correlation(net: decay.Net) -> None:
    found = np.mean([decay.input_correlation(net, 600, seed)[0] for seed in range(4)])
    assert found == pytest.approx(decay.mean_field(net, [4])[0], rel=0.15)


def test_looks_linear_nets_are_linear_at_the_start() -> None:
    """Then the gradient is the same at every input."""
    correlation, _ = decay.input_correlation(decay.Net(30, init="looks-linear"), 40, 0)
    assert correlation == pytest.approx(1, abs=1e-9)


def test_a_fit_finds_the_law_and_its_interval_covers_it() -> None:
    random = np.random.default_rng(0)
    depths = [1, 2, 4, 8, 16]
    base = 0.6 ** np.array(depths)[:, None] * np.exp(0.05 * random.standard_normal((5, 20)))
    value, low, high = decay.fit(depths, base, "base", skip=1)
    assert low <= 0.6 <= high and high - low < 0.05 and value == pytest.approx(0.6, abs=0.01)
    power = np.array(depths, dtype=float)[:, None] ** -0.5 * np.ones((5, 20))
    assert decay.fit(depths, power, "power", skip=2)[0] == pytest.approx(-0.5)


def test_the_covariance_picture_is_that_of_numpy() -> None:
    random = np.random.default_rng(0)
    many = [random.standard_normal(5) for _ in range(400)]
    found = shatter.covariance(many)
    assert np.diag(found) == pytest.approx(1) and found == pytest.approx(np.corrcoef(np.array(many).T), abs=0.02)
    line = [value * np.ones(5) for value in random.standard_normal(4)]  # one gradient for all inputs
    assert shatter.covariance(line) == pytest.approx(1)


# lesion


def test_a_plain_net_loses_single_layers(subject: Subject) -> None:
    net = subject("model=plain14")
    inputs, labels = net.images("test", 64)
    all_units = units.units_of(net)
    assert len(all_units) == 12 and len(units.units_of(subject("model=resnet14"))) == 6
    block = net.net.stages[0][0]
    x = torch.randn(2, 4, 8, 8).relu()
    second = block.transform.bn2.relu(block.transform.conv2(x))  # without the first layer
    assert torch.equal(units.LayersDropped(block, [1])(x), second)
    assert torch.equal(units.LayersDropped(block, [])(x), block(x))
    assert torch.equal(units.LayersDropped(block, [1, 2])(x), units.Dropped(block)(x))
    both = lesion._error_without(net, [0, 1], inputs, labels)
    with replaced([(net.net.stages[0], 0)], [units.Dropped(block)]):
        assert both == error_of(net.net, inputs, labels)


@pytest.mark.parametrize(
    ("errors", "smooth"),
    [
        ([1, 10, 20, 30, 40, 50, 60, 70, 80], True),
        ([1, 2, 3, 4, 5, 80, 81, 82, 83], False),
        ([50, 10, 60, 5, 70, 1, 80, 2, 90], False),
    ],
)
def test_smooth_is_a_rise_in_order_without_a_jump(errors: list[float], smooth: bool, subject: Subject) -> None:
    net = subject()
    object.__getattribute__(net, "__dict__")["train_error"] = 0.0
    row = lesion._judge_smooth(net, errors)[0]
    assert row.agrees is smooth and not lesion._judge_smooth(net, errors[:8])


def test_swaps_are_judged_by_their_order_and_not_by_a_step_between_single_draws(subject: Subject) -> None:
    net = subject()
    object.__getattribute__(net, "__dict__")["train_error"] = 0.0
    taus = [1.0, *(0.98 - 0.02 * step for step in range(8))]

    def agrees(errors: list[float]) -> bool | None:
        return lesion._judge_order(net, 1.0, Series(label="", x=taus, y=errors))[0].agrees

    assert agrees([9, 2, 3, 4, 5, 6, 7, 8, 80]) is True  # an exchange that was taken back, tau = 1, does not count
    assert agrees([1, 60, 5, 40, 7, 30, 2, 20, 3]) is False


def test_a_dropped_block_leaves_its_shortcut(subject: Subject) -> None:
    net = subject("model=resnet8")
    x = torch.randn(2, 4, 8, 8).relu()
    same_shape, smaller = net.net.stages[0][0], net.net.stages[1][0]
    assert torch.equal(units.Dropped(same_shape)(x), x)
    padded = units.Dropped(smaller)(x)  # option A: every second pixel, new channels are zero
    assert torch.equal(padded[:, :4], x[:, :, ::2, ::2]) and padded[:, 4:].abs().sum() == 0


def test_a_dropped_plain_block_passes_x_on(subject: Subject) -> None:
    net = subject("model=plain8")
    x = torch.randn(2, 4, 8, 8).relu()
    assert torch.equal(units.Dropped(net.net.stages[0][0])(x), x)
    assert units.Dropped(net.net.stages[1][0])(x).shape == (2, 8, 4, 4)


def test_layers_of_vgg_and_dense_layers_can_be_dropped(subject: Subject) -> None:
    vgg, dense = subject("model=vgg_a", "model.pools=3"), subject("model=densenet40_k12", "model.width=null")
    assert len(blocks_of(vgg)) == 8 and len(blocks_of(dense)) == 36
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(units.Dropped(vgg.net.stages[0][0])(x[:, :3])[:, :3], x[:, :3])
    layer = dense.net.stages[0][0]
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(units.Dropped(layer)(x)[:, :16], x) and units.Dropped(layer)(x)[:, 16:].abs().sum() == 0


def test_dropping_a_residual_block_is_setting_its_last_norm_to_zero(subject: Subject) -> None:
    """A slow reference: F = 0 by its weights."""
    net = subject("model=resnet14")
    inputs, labels = net.images("test", 64)
    for index, (stage, place) in enumerate(blocks_of(net)):
        other = copy.deepcopy(net.net)
        norm = other.stages[list(net.net.stages).index(stage)][place].transform.last_norm
        with torch.no_grad():
            norm.weight.zero_()
            norm.bias.zero_()
        assert lesion._error_without(net, [index], inputs, labels) == error_of(other, inputs, labels)


def test_swaps_exchange_only_blocks_of_one_shape(subject: Subject) -> None:
    net = subject("model=resnet20")
    inputs, labels = net.images("test", 32)
    series = lesion._swap(net, 3, 2, np.random.default_rng(0), inputs, labels)
    assert series.x and min(series.x) < 1 and len(series.x) == len(series.y)
    assert list(series.x) == sorted(series.x, reverse=True)


# paths


def test_the_paths_gradients_sum_to_the_whole_gradient(subject: Subject) -> None:
    net = subject("model=preresnet8")
    inputs, labels = net.images("train", 8)
    double = copy.deepcopy(net.net).double()
    every = [s for k in range(4) for s in itertools.combinations(range(3), k)]
    total = sum(paths.path_gradient(double, chosen, inputs.double(), labels) for chosen in every)
    start = double.stem(inputs.double()).detach().requires_grad_()
    loss = F.cross_entropy(double.head(double.last(double.stages(start)).mean(dim=(2, 3))), labels)
    whole = torch.autograd.grad(loss, start)[0]
    assert len(every) == 8 and float((total - whole).norm() / whole.norm()) < 1e-12


def test_effective_lengths_leave_out_both_tails() -> None:
    carried = np.array([0.02, 0.0, 0.5, 0.46, 0.01, 0.01])
    assert paths.effective_lengths(carried) == (2, 3)
    assert paths.effective_lengths(np.array([0.0, 1.0, 0.0])) == (1, 1)


def test_the_interval_of_the_effective_lengths_covers_the_true_ones() -> None:
    """Gradients of a known mean, of which a bootstrap sees 24 each: how often does its interval cover the truth?"""
    random = np.random.default_rng(0)
    numbers = [math.comb(20, k) for k in range(21)]
    true = [0.6**k for k in range(21)]
    low, high = paths.effective_lengths(paths.share_carried(numbers, true))
    covered = 0
    for _ in range(20):
        sampled = [(size * random.lognormal(0, 0.7, 24) / math.exp(0.7**2 / 2)).tolist() for size in true]
        lows, highs, _ = paths.bootstrap_lengths(numbers, sampled, random)
        covered += lows[0] <= low <= lows[1] and highs[0] <= high <= highs[1]
    assert covered >= 16


def test_short_training_uses_only_the_drawn_blocks(subject: Subject) -> None:
    net = subject("model=preresnet8")
    x, _ = net.images("train", 4)
    whole = net.net(x)
    with few_blocks.only(net.net, [0, 1, 2]):
        assert torch.equal(net.net(x), whole)
    with few_blocks.only(net.net, [1]):
        kept = [isinstance(stage[0], units.Dropped) for stage in net.net.stages]
        assert not torch.equal(net.net(x), whole)
    assert kept == [True, False, True] and not any(isinstance(s[0], units.Dropped) for s in net.net.stages)


# identity


@pytest.mark.parametrize("at", ["end", "middle"])
@pytest.mark.parametrize("family", ["plain", "resnet"])
def test_identity_blocks_change_no_prediction(family: str, at: str, subject: Subject) -> None:
    shallow, deep = subject(f"model={family}14"), subject(f"model={family}20")
    inputs, _ = shallow.images("test", 64)
    made = identity.deepened(shallow.net, deep.net, at=at)
    assert sum(len(stage) for stage in made.stages) == 9
    with torch.no_grad():
        assert torch.allclose(made(inputs), shallow.net(inputs), atol=1e-5)


def test_a_residual_stack_starts_nearer_to_the_identity_and_learns_it() -> None:
    plain, residual = (identity.fit_stack(kind, 6, 16, 150, 0.0, 0) for kind in (False, True))
    assert residual[-1] < residual[0] and residual[-1] < plain[-1]


def test_the_trivial_loss_is_the_variance_of_the_target() -> None:
    """Of |x| with x normal: 1 - 2 / pi."""
    assert identity.trivial_loss(0.0, 16) == pytest.approx(1 - 2 / math.pi, rel=0.02)


def test_identity_needs_two_depths_of_a_family(subject: Subject) -> None:
    with pytest.raises(UserError, match="a shallow and a deep net of one family"):
        identity.analyze([subject("model=plain8"), subject("model=resnet8")])


# forward


def test_both_equations_hold_and_their_terms_are_autograds(subject: Subject) -> None:
    net = subject("model=preresnet20")
    found = forward_terms.analyze([net], images=8)
    assert all(row.agrees for row in found.rows) and len(found.rows) == 6


def test_a_wrong_sum_would_be_seen(subject: Subject) -> None:
    net = subject("model=preresnet20")
    inputs, labels = net.images("test", 8)
    double = copy.deepcopy(net.net).double()
    blocks, x = forward_terms._stages(double, inputs.double())[0]
    assert max(forward_terms.two_terms(double, blocks, x, labels)["forward"]) < 1e-12
    hook = blocks[1].connection.register_forward_hook(lambda _m, _i, out: 1.01 * out)
    assert max(forward_terms.two_terms(double, blocks, x, labels)["forward"]) > 1e-3
    hook.remove()


# relu-collapse


def test_a_linear_bottleneck_and_a_mirrored_one_lose_nothing() -> None:
    curve = collapse.spiral()
    assert collapse.lost_variance(curve, np.eye(2), relu=False) < 1e-12
    both = np.vstack([np.eye(2), -np.eye(2)])  # relu(x) - relu(-x) = x
    assert collapse.lost_variance(curve, both) < 1e-12


def test_relu_in_one_quadrant_loses_what_is_outside() -> None:
    curve = collapse.spiral()
    matrix = np.eye(2)
    kept = np.maximum(curve, 0)
    design = np.column_stack([kept, np.ones(len(kept))])
    left = curve - design @ np.linalg.lstsq(design, curve, rcond=None)[0]
    assert collapse.lost_variance(curve, matrix) == pytest.approx((left**2).sum() / (curve**2).sum())
    assert collapse.lost_variance(curve, matrix) > 0.2


def test_in_n_dimensions_everything_is_zero_with_probability_one_in_two_to_the_n() -> None:
    random = np.random.default_rng(0)
    assert [collapse.all_zero(random, n, 20_000) for n in (1, 3)] == pytest.approx([0.5, 0.125], abs=0.01)


def test_units_that_are_dead_at_the_start_come_back() -> None:
    dead, revived = collapse.revived_units(0, nets=6)
    assert dead > revived > 0


# sparsity


def test_zeros_are_those_of_the_activations(subject: Subject) -> None:
    net = subject("model=plain8")
    inputs, _ = net.images("test", 16)
    found = sparsity.count_zeros(net.net, inputs)
    with torch.no_grad():
        first = F.relu(net.net.stem.bn(net.net.stem.conv(inputs)))
        net.net.stages[0][0].transform.bn1.weight[:2] = 0
        net.net.stages[0][0].transform.bn1.bias[:2] = -1
    assert len(found) == 7 and found[0][0] == pytest.approx(float((first == 0).float().mean()))
    assert sparsity.count_zeros(net.net, inputs)[1][1] == pytest.approx(0.5)  # two of four channels are dead
    with pytest.raises(UserError, match="no ReLU after a batch norm"):
        sparsity.count_zeros(torch.nn.Linear(3, 3), torch.zeros(1, 3))


# recurrent


def test_a_gate_that_carries_keeps_the_gradient_that_an_rnn_loses() -> None:
    plain, half, carries = (recurrent.gradient_by_age(kind, 40, 16, 0)[-1] for kind in recurrent.KINDS)
    assert plain < 1e-3 and half < 1e-3 < 0.1 < carries


def test_the_task_can_be_told_by_its_first_number_alone() -> None:
    inputs, labels = recurrent.sequences(500, 20, torch.Generator().manual_seed(0))
    assert torch.equal(inputs[:, 0, 0] > 0, labels == 1) and 0.4 < float(labels.float().mean()) < 0.6
    assert abs(float(np.corrcoef(inputs[:, 1:, 0].sum(dim=1), labels)[0, 1])) < 0.15
    assert np.mean(recurrent.train_memory("RNN", 3, 8, 60, 0.02, 0)[-10:]) < 10  # a short memory an RNN has


# landscape


def test_a_direction_has_each_filters_length_and_leaves_norms_alone(subject: Subject) -> None:
    net = subject().net
    for weight, along in zip(net.parameters(), landscape.direction(net, 0), strict=True):
        if weight.dim() < 2:
            assert along.abs().sum() == 0
        else:
            assert torch.allclose(along.flatten(1).norm(dim=1), weight.detach().flatten(1).norm(dim=1), rtol=1e-4)


def test_the_surface_of_a_linear_net_is_the_formula() -> None:
    net = torch.nn.Linear(3, 2, bias=False)
    x, labels = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    along = landscape.direction(net, 1)
    before = net.weight.detach().clone()
    found = landscape.loss_at(net, [(0.7, along), (-0.2, along)], x, labels)
    slow = F.cross_entropy(x @ (before + 0.5 * along[0]).T, labels)
    assert found == pytest.approx(float(slow), rel=1e-5) and torch.equal(net.weight, before)


def test_the_extreme_eigenvalues_are_those_of_the_whole_hessian(subject: Subject) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    x, labels = torch.randn(20, 4), torch.arange(20) % 3
    weights = torch.nn.utils.parameters_to_vector(net.parameters()).detach()

    def loss(vector: torch.Tensor) -> torch.Tensor:
        sizes = [weight.numel() for weight in net.parameters()]
        parts = [p.view_as(w) for p, w in zip(vector.split(sizes), net.parameters(), strict=True)]
        return F.cross_entropy(torch.tanh(x @ parts[0].T + parts[1]) @ parts[2].T + parts[3], labels)

    whole = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, weights))
    low, high = landscape.extremes(net, [], x, labels)
    assert high == pytest.approx(float(whole[-1]), rel=0.1) and low == pytest.approx(float(whole[0]), rel=0.1)
    net = subject().net  # convolutions, batch norm, shortcuts: the second derivative is there
    use_kernels(net, False)
    assert all(map(math.isfinite, landscape.extremes(net, [], torch.randn(8, 3, 8, 8), labels[:8])))


def test_convexity_counts_what_bends_upwards() -> None:
    assert landscape.convexity([4.0, 1.0, 0.0, 1.0, 4.0]) == 1
    assert landscape.convexity([0.0, 1.0, 0.0, 1.0]) == 0.5


# convergence


def test_steps_to_is_the_step_after_which_the_loss_stays_below() -> None:
    steps, values = [10, 20, 30, 40, 50], [2.0, 0.9, 1.1, 0.8, 0.7]
    assert convergence.steps_to(1.0, steps, values) == 40
    assert convergence.steps_to(2.5, steps, values) == 10
    assert math.isinf(convergence.steps_to(0.5, steps, values))


def test_convergence_judges_no_net_that_has_not_learned(tmp_path: Path) -> None:
    nets = [("plain20", 80.0), ("resnet20", 1.0), ("plain32", 10.0), ("resnet32", 1.0)]
    runs = [write_run(tmp_path, [f"model={net}"], train_error=error, classes=10) for net, error in nets]
    for run, loss in zip(runs, (0.9, 0.4, 0.9, 0.4), strict=True):
        lines = [{"step": step, "split": "train", "loss": loss * 20 / step, "error": 1} for step in (10, 20, 30)]
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = convergence.analyze([Run(run.path) for run in runs], losses=(0.9,))
    assert {row.id: row.agrees for row in found.rows if row.expected} == {
        "residual-first-20": None,
        "residual-first-32": True,
    }
    assert "no verdict on what has not learned: plain20." in found.about


def test_convergence_takes_runs_of_other_settings_for_other_nets(tmp_path: Path) -> None:
    words = [["model=resnet20"], ["model=resnet20", "protocol.lr=0.01"], ["model=plain20"]]
    runs = [write_run(tmp_path, one, classes=10) for one in words]
    found = convergence.analyze(runs, losses=(2.0,))
    labels = [series.label for panel in found.panels for series in panel.series]
    assert len(labels) == 3 and sum("lr=" in label for label in labels) >= 2


# ensemble


def test_one_member_averaged_is_itself_and_equal_members_too(subject: Subject) -> None:
    net = subject("model=resnet8")
    inputs, labels = net.images("test", 64)
    mean, averaged = ensemble.member_errors(net, 1, 1, np.random.default_rng(0), inputs, labels)
    assert mean == pytest.approx(averaged)
    mean, averaged = ensemble.member_errors(net, 3, 4, np.random.default_rng(0), inputs, labels)
    assert mean == pytest.approx(averaged)  # without all three blocks there is one member


def test_dropouts_masks_are_members_and_leave_the_net_as_it_was(subject: Subject) -> None:
    net = subject("model=resnet8", "model.dropout=0.5")
    inputs, labels = net.images("test", 64)
    before = log_probabilities(net.net, inputs)
    mean, averaged = ensemble.mask_errors(net, 5, 0, inputs, labels)
    assert 0 <= averaged <= 100 and 0 <= mean <= 100
    assert torch.equal(before, log_probabilities(net.net, inputs))
    net = subject("model=resnet8")  # without dropout all masks are the net
    mean, averaged = ensemble.mask_errors(net, 3, 0, inputs, labels)
    assert mean == averaged == pytest.approx(error_of(net.net, inputs, labels))


# The finding


def test_a_finding_is_written_and_read_back(tmp_path: Path) -> None:
    panel = Panel(title="t", x="x", y="y", series=[Series(label="s", x=[1.0, 2.0], y=[1 / 3, float("inf")])])
    found = Finding(analysis="lesion", title="T", about="a", panels=[panel], rows=[Row(what="w", measured="1")])
    finding.save(found, tmp_path / "one.json")
    again = finding.read(tmp_path / "one.json")
    assert again.panels[0].series[0].y == [0.33333, None] and again.rows == found.rows and again.about == "a"
    (tmp_path / "bad.json").write_text('{"panels": [{"title": 1}]}')
    with pytest.raises(UserError, match=r"bad\.json: no finding"):
        finding.read(tmp_path / "bad.json")


# The command


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny trained nets: the folder that holds runs/."""
    folder = tmp_path_factory.mktemp("trained")
    for net in ("plain8", "resnet8", "preresnet8", "mlp10"):
        assert main(["train", *NOT_THE_NET, f"model={net}", f"output_dir={folder}"]) == 0
    return folder


def run_of(runs: Path, net: str) -> str:
    return str(next((runs / "runs").glob(f"{net}-*")))


def test_nets_of_one_name_get_labels_of_their_own(subject: Subject) -> None:
    """Under one label the second would take the place of the first in what an analysis compares."""
    words = (["seed=0"], ["seed=1"], ["seed=0", "model.width=8"], ["seed=0", "model.width=8"])
    nets = [subject("model=resnet8", *more) for more in words]
    told = [net.label for net in told_apart([*nets, subject("model=plain8")])]
    first = "resnet8 width 4"
    assert told == [f"{first} seed 0", f"{first} seed 1", "resnet8 width 8 no. 3", "resnet8 width 8 no. 4", "plain8"]
    assert [net.label for net in told_apart([nets[0]])] == ["resnet8"]


SMALL = {
    "lesion": ["repeats=1", "swaps=2", "images=50"],
    "ensemble": ["members=2", "images=50"],
    "paths": ["samples=1", "images=8", "train_steps=4"],
    "landscape": ["points=5", "side=3", "images=50", "curvature=1"],
    "gradients": ["steps=20", "layers=3", "width=8"],
    "shattering": ["width=16", "draws=5", "points=64", "depths=1,2,4,6,8"],
    "relu-collapse": ["draws=5"],
    "forward": ["images=8"],
    "responses": ["images=50"],
    "convergence": ["losses=2.0,1.0"],
    "sparsity": ["images=50"],
    "rank": ["depth=4", "width=8", "images=10", "draws=2"],
    "recurrent": ["lengths=4,6", "steps=20", "seeds=1", "width=4"],
}
NETS = {"forward": ["preresnet8"], "paths": ["preresnet8"], "convergence": ["plain8", "resnet8"]}


@pytest.mark.slow
@pytest.mark.parametrize("analysis", [name for name in ANALYSES if name != "identity"])
def test_every_analysis_leaves_a_figure_a_table_and_numbers(
    analysis: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = subject_of(load_analysis(analysis)) is None
    words = [] if alone else [run_of(runs, net) for net in NETS.get(analysis, ["plain8", "preresnet8"])]
    small = SMALL.get(analysis, [])
    if analysis == "ensemble":
        words = [run_of(runs, "resnet8")]
    assert main(["analyze", analysis, *words, *small, "--name", "mine", f"output_dir={tmp_path}"]) == 0
    out = capsys.readouterr()
    folder = tmp_path / "analysis"
    assert {path.name for path in folder.iterdir()} == {f"mine.{end}" for end in ("json", "md", "png", "svg")}
    found = finding.read(folder / "mine.json")
    assert found.analysis == analysis and found.rows and found.panels and found.versions["torch"]
    assert found.title in out.out and "seed" in found.about + str(found.settings) + " ".join(r.what for r in found.rows)
    for key, _, value in (word.partition("=") for word in small):
        assert str(found.settings[key]).strip("[]()").replace(" ", "").rstrip(",") == value
    assert found.rows[0].what in (folder / "mine.md").read_text()


def test_without_an_analysis_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ANALYSES)


def test_a_study_names_its_runs_and_nets_choose_among_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "lesion", "mechanisms", f"output_dir={runs}"]) == 2
    assert "train them: resexp study mechanisms" in capsys.readouterr().err
    folder = run_of(runs, "plain8")
    assert main(["analyze", "responses", folder, "--nets", "plian8", "output_dir=out"]) == 2
    assert "--nets plian8: no such run; choose from plain8" in capsys.readouterr().err


def test_foreign_weights_are_analysed_by_the_same_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As published ones come: names of a parallel wrapper, under ``state_dict``, with counters and an accuracy."""
    folder = Path(run_of(runs, "resnet8"))
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["net"]
    state = {f"module.{name}": value for name, value in state.items()}
    torch.save({"state_dict": state, "best_prec1": 91.0}, "resnet8.th")
    stored = Path("resnet8.th").read_bytes()
    net = ["dataset=synthetic", "model=resnet8", "model.width=4"]
    command = ["analyze", "lesion", "weights=resnet8.th", *net, *SMALL["lesion"]]
    assert main([*command, "output_dir=theirs"]) == 0
    assert main(["analyze", "lesion", str(folder), *SMALL["lesion"], "output_dir=ours"]) == 0
    theirs, ours = (finding.read(Path(name) / "analysis/lesion.json") for name in ("theirs", "ours"))
    assert theirs.rows == ours.rows and theirs.panels == ours.panels
    assert Path("resnet8.th").read_bytes() == stored
    several = ["weights=resnet8.th,resnet8.th", "model=resnet8,resnet8", *net[::2], "images=20"]
    assert main(["analyze", "responses", *several, run_of(runs, "plain8"), "output_dir=several"]) == 0
    assert "plain8" in Path("several/analysis/responses.md").read_text()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["lesoin"], "analyze lesoin: no such analysis; did you mean lesion?"),
        (["lesion"], "analyze lesion: of which run? Name run folders, or a study"),
        (["lesion", "nowhere"], "nowhere: not a run folder"),
        (["lesion", "{plain8}", "repeat=3"], "no setting repeat; did you mean repeats?"),
        (["lesion", "{plain8}", "repeats=many"], "int expected, as in repeats=10"),
        (["lesion", "{plain8}", "repeats=-1"], "repeats=-1: must be at least 1"),
        (["lesion", "{plain8}", "repeats=0"], "repeats=0: must be at least 1"),
        (["lesion", "{plain8}", "repeats=1,2"], "one value, as in repeats=10"),
        (["lesion", "{plain8}", "deletions=7"], "lesion deletions=7: plain8 has 6 layers; drop no more"),
        (["lesion", "{mlp10}"], "mlp10: has no blocks to take out"),
        (["forward", "{resnet8}"], "forward: resnet8 has more than x + F(x) in its blocks; take a pre-activation net"),
        (["forward", "{plain8}"], "forward: plain8 has more than x + F(x)"),
        (["paths", "{plain8}"], "paths: plain8 has no sums of x and F(x)"),
        (["paths", "{resnet8}", "{preresnet8}"], "paths: takes one net, not resnet8, preresnet8"),
        (["shattering", "{plain8}"], "it builds its own nets; drop"),
        (["convergence", "weights=some.pt", "model=plain8"], "takes run folders"),
        (["responses", "weights=nowhere.pt", "model=plain8", "dataset=synthetic"], "weights=nowhere.pt: No such file"),
        (["responses", "weights=a.th,b.th", "model=resnet8"], "2 files of weights and 1 nets; name one net a file"),
        (["identity", "{plain8}"], "takes a shallow and a deep net of one family"),
        (["shattering", "depths=5"], "depths=5: name at least two"),
    ],
)
def test_mistakes_get_one_line(words: list[str], answer: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {net: run_of(runs, net) for net in ("plain8", "resnet8", "preresnet8", "mlp10")}
    assert main(["analyze", *(word.format(**named) for word in words)]) == 2
    err = capsys.readouterr().err
    assert answer in err and len(err.strip().splitlines()) == 1
    assert not Path("outputs").exists()


def test_a_run_without_its_checkpoint_or_with_anothers_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    mine = tmp_path / "mine"
    shutil.copytree(run_of(runs, "plain8"), mine)
    (mine / "checkpoint.pt").unlink()
    assert main(["analyze", "lesion", str(mine)]) == 2
    assert "no checkpoint.pt; resume the run to make one" in capsys.readouterr().err
    shutil.copy(Path(run_of(runs, "resnet8")) / "checkpoint.pt", mine)
    assert main(["analyze", "lesion", str(mine)]) == 2
    err = capsys.readouterr().err
    assert "checkpoint.pt" in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_unwritable_folder_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["analyze", "relu-collapse", "draws=2", "output_dir=file"]) == 2
    assert "set another output_dir=" in capsys.readouterr().err


@pytest.mark.slow
def test_the_numbers_are_json_without_infinities(runs: Path, tmp_path: Path) -> None:
    assert main(["analyze", "relu-collapse", "draws=2", f"output_dir={tmp_path}"]) == 0
    json.loads((tmp_path / "analysis/relu-collapse.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.slow
def test_figures_redraws_what_was_found(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "analysis"
    folder.mkdir()
    found = finding.findings_in(Path(__file__).parent.parent / "outputs/reference/analysis")["relu-collapse"]
    finding.save(found, folder / "relu-collapse.json")
    before = (folder / "relu-collapse.json").read_text()
    write_run(tmp_path / "runs", ["model=plain20", "model.width=8"])  # of the embedded study
    assert main(["figures", f"output_dir={tmp_path}"]) == 0
    assert (folder / "relu-collapse.png").is_file() and (folder / "relu-collapse.json").read_text() == before


def test_the_equations_are_held_against_the_nets_own_way(subject: Subject) -> None:
    """A net whose blocks pass another gradient back than they should is found out."""
    usual, scaled = (subject("model=preresnet14", *words) for words in ([], ["model.gradient_scale=1.3"]))
    for net in (usual, scaled):
        rows = forward_terms.analyze([net], images=8).rows
        assert all(row.agrees for row in rows if row.id == "sum")
        assert all(row.agrees is (net is usual) for row in rows if row.id == "two-terms")


def test_nets_of_another_width_are_no_pair(subject: Subject) -> None:
    plain, narrow = subject("model=plain8", "model.width=8"), subject("model=resnet8", "model.width=4")
    assert of_one_depth([plain, narrow]) == [] and of_one_depth([plain, subject("model=resnet8", "model.width=8")])
    rows = responses.analyze([plain, narrow], images=32).rows
    assert not [row for row in rows if row.id == "residual-below-plain"]


def test_pairs_are_looked_for_among_nets_that_compare(subject: Subject) -> None:
    """Nets of other widths, before or between them, hide none."""
    nets = [subject(f"model=resnet{depth}", f"model.width={width}") for depth in (8, 14) for width in (4, 8)]
    wide = [net for net in nets if net.cfg.model.width == 8]
    assert identity._pairs([nets[0], *wide]) == [tuple(wide)]
    assert len(identity._pairs(nets)) == len(responses._expected_order(nets)) == 2


def test_gradients_that_overflow_have_exploded() -> None:
    assert gradients.growth([1.0] * 6) == 1
    for sizes in ([math.inf] * 6, [math.nan] * 6, [1.0, 1.0, 1.0, math.inf, 1.0, 1.0]):
        assert gradients.growth(sizes) == math.inf
    assert math.isnan(gradients.growth([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])) and math.isnan(gradients.growth([1.0] * 5))


def test_what_drops_whole_blocks_is_measured_with_all_of_them(subject: Subject) -> None:
    net = subject("model=resnet14", "model.survival=0.3")
    inputs, labels = net.images("train", 32)
    found = [gradients.layer_gradients(copy.deepcopy(net.net), inputs, labels)[1] for _ in range(2)]
    assert found[0] == found[1] and len(found[0]) == 13 and min(found[0]) > 0


def test_a_gradient_without_an_end_gets_no_verdict(subject: Subject) -> None:
    net = subject("model=resnet20", "model.last_scale=0.0")
    rows = {row.id: row for row in gradients.analyze([net], layers=2, steps=5).rows}
    fresh = rows[f"fresh-stays-{net.label}"]
    assert fresh.agrees is None and "no gradient" in fresh.measured


REFUSED: list[tuple[Any, list[str], dict[str, Any], str]] = [
    (landscape, ["model=resnet8"], {"side": 1, "points": 3, "curvature": 0, "images": 8}, "side=1"),
    (lesion, ["model=resnext11_2x2d", "model.form=summed"], {"images": 8}, "separate paths"),
    (lesion, ["model=plain8", "model.activation=crelu"], {"images": 8}, "twice the channels"),
    (ensemble, ["model=plain8", "model.activation=crelu"], {"images": 8}, "twice the channels"),
    (forward_terms, ["model=preresnet8", "model.shortcut=C"], {"images": 8}, "no shortcut is the identity"),
    (gradients, ["model=mlp10"], {"layers": 2, "steps": 2, "images": 8}, "mlp10: has no convolutions"),
]


BOTTLENECK = "model.transform=bottleneck"


@pytest.mark.parametrize(
    ("shallow", "deep", "answer"),
    [
        (["model=plain8"], ["model=plain8"], "a shallow and a deep net"),
        (["model=plain8", "model.width=4"], ["model=plain14", "model.width=8"], "alike in width"),
        (["model=plain20", BOTTLENECK], ["model=plain38", BOTTLENECK], "basic blocks"),
        (["model=resnet8"], ["model=resnet20", BOTTLENECK], "two of one kind"),
    ],
)
def test_nets_of_which_one_is_not_the_other_deepened_are_refused(
    shallow: list[str], deep: list[str], answer: str, subject: Subject
) -> None:
    with pytest.raises(UserError, match=answer):
        identity.analyze([subject(*shallow), subject(*deep)], steps=2, seeds=1)


@pytest.mark.parametrize(("analysis", "words", "settings", "answer"), REFUSED, ids=lambda one: str(one)[:40])
def test_nets_that_an_analysis_cannot_take_are_refused_in_one_line(
    analysis: Any, words: list[str], settings: dict[str, Any], answer: str, subject: Subject
) -> None:
    with pytest.raises(UserError, match=answer):
        analysis.analyze([subject(*words)], **settings)


def test_curvature_is_known_of_transformers_and_unknown_where_the_loss_is_not_finite(subject: Subject) -> None:
    net = subject("model=transformer2", "model.width=8", "model.heads=2")
    part = net.images("train", 16)
    low, high = landscape.extremes(net.net, [], *part)
    assert low < high
    with torch.no_grad():
        next(net.net.parameters()).fill_(torch.inf)
    assert all(map(math.isnan, landscape.extremes(net.net, [], *part)))


def test_one_unknown_eigenvalue_leaves_the_greatest_ratio_unknown(subject: Subject) -> None:
    for spectrum in ([(-0.1, 10.0), (math.nan, math.nan)], [(math.nan, math.nan), (-0.1, 10.0)], [(0.0, 0.0)]):
        one = landscape.Surface(subject(), [], [], [], [], 0.0, spectrum)
        assert math.isnan(one.greatest_ratio)


def test_the_share_of_paths_has_an_interval_that_holds_it() -> None:
    random = np.random.default_rng(0)
    numbers = [math.comb(9, k) for k in range(10)]
    sampled = [(10.0**-k * random.lognormal(0, 0.3, 12)).tolist() for k in range(10)]
    low, high = paths.effective_lengths(paths.share_carried(numbers, [float(np.mean(one)) for one in sampled]))
    _, _, shares = paths.bootstrap_lengths(numbers, sampled, random)
    assert shares[0] <= paths.share_of_paths(numbers, low, high) <= shares[1]


def test_one_number_of_dimensions_is_compared_with_nothing_and_their_order_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collapse, "revived_units", lambda seed: (2, 1))  # takes a training

    def verdicts(dims: tuple[int, ...]) -> dict[str, bool | None]:
        return {row.id: row.agrees for row in collapse.analyze(dims=dims, draws=20).rows}

    assert verdicts((30, 2))["less-lost-in-many"] is verdicts((2, 30))["less-lost-in-many"] is True
    assert verdicts((2,))["less-lost-in-many"] is None


@pytest.mark.parametrize(("gated", "plain", "agrees"), [(1.0, 49.0, True), (49.0, 1.0, False), (48.0, 49.0, None)])
def test_a_memory_without_gates_that_learns_speaks_against_them(
    gated: float, plain: float, agrees: bool | None
) -> None:
    errors = dict(zip(recurrent.KINDS, (plain, 49.0, gated), strict=True))
    row = recurrent._row(10, {kind: [[error]] for kind, error in errors.items()})
    assert row.agrees is agrees


def test_memories_of_which_none_has_learned_get_no_verdict() -> None:
    found = recurrent.analyze(lengths=(60,), width=4, steps=3, seeds=1)
    assert [row.agrees for row in found.rows if row.id == "gate-remembers-60"] == [None]


# rank


def test_the_distance_of_the_tokens_is_measured_behind_each_layer_and_changes_nothing() -> None:
    net = build_model(family="transformer", depth=4, width=8, heads=2, image_shape=(1, 8, 8)).double().eval()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    behind: list[torch.Tensor] = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _, __, y: behind.append(y))
    net(images)
    found = rank.distances(net, images)
    assert len(found) == 5 and len(behind) == 4
    for measured, x in zip(found[1:], behind, strict=True):
        off = x - x.mean(dim=1, keepdim=True)
        by_hand = (off.square().sum(dim=(1, 2)) / x.square().sum(dim=(1, 2))).sqrt()
        assert measured == pytest.approx(float(by_hand.detach().sum()) / 3)
    assert rank._distance(torch.ones(2, 5, 8)) == 0


def test_without_residuals_the_tokens_of_a_fresh_transformer_become_one_and_with_them_not() -> None:
    found = rank.analyze(depth=6, draws=2, images=20)
    assert [row.agrees for row in found.rows] == [True, False, None, True, None]
    ends = {one.label: one.y[-1] for panel in found.panels for one in panel.series}
    assert ends[rank.ALONE] < 1e-12 and ends["no residual"] < 1e-12 and ends["both residuals"] > 0.05


def test_a_distance_that_rounding_has_made_zero_ends_no_analysis() -> None:
    assert all(row.measured for row in rank.analyze(depth=4, width=2, heads=1, draws=1).rows)
