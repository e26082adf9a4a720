"""What plain nets can have in place of shortcuts does what its paper says."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import write_run
from torch import Tensor, nn

from resexp import UserError, catalog, config
from resexp.analysis.gradients import growth, layer_gradients
from resexp.analysis.remedies import (
    Start,
    correlation_row,
    dimensions,
    likeness,
    measure_start,
    move,
    own_share,
    rank_interval,
)
from resexp.analysis.subject import Trained, read_subject
from resexp.builder import build_net, build_optimizer, load_data
from resexp.cli import main
from resexp.config.studies import load_study
from resexp.figures.remedies import draw_remedies
from resexp.models.blocks import Block
from resexp.models.build import build_model
from resexp.models.connections import Add, Fading, SkipInit
from resexp.models.deepen import deepen
from resexp.models.fold import fold
from resexp.models.norm_relu import BatchNorm, set_statistics
from resexp.models.remedies import DiracConv3x3, NormThen, TailoredReLU, _next_cosine, tailored_slope
from resexp.optim import SGD, AdamW
from resexp.run.reader import find_runs, read_run
from resexp.schedule import Schedule
from resexp.studies.groups import best_of, group_runs
from resexp.studies.remedies import find_remedies, remedy_rows, shares
from resexp.studies.stats import Difference, share, summarize

ROOT = Path(__file__).parent.parent
X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def build(name: str = "plain8", **settings: Any) -> Any:
    return build_model(**catalog.parse_name(name), image_shape=(3, 16, 16), **settings)


def middle(net: Any) -> Any:
    """The second convolution of the first block: as many channels in as out, stride 1."""
    return net.stages[0][0].transform.conv2


# --- weights at the start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "deviation"),
    [
        ("he", math.sqrt(2 / (9 * 32))),
        ("he-fan-out", math.sqrt(2 / (9 * 64))),
        ("torch7", math.sqrt(2 / (9 * 64))),
        ("xavier", math.sqrt(2 / (9 * (32 + 64)))),
        ("naive", 0.01),
    ],
)
def test_random_weights_have_the_deviation_of_their_rule(rule: str, deviation: float) -> None:
    weight = build(init=rule).stages[2][0].transform.conv1.weight  # 32 to 64 channels
    assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.03)
    assert abs(float(weight.detach().mean())) < deviation / 20


def test_by_fan_out_the_classifier_stays_as_torch_fills_it() -> None:
    weight = build(init="he-fan-out").head.weight.detach()
    assert float(weight.abs().max()) <= 1 / 8 and float(weight.std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)


def test_orthogonal_weights_have_orthogonal_rows_of_length_sqrt_2() -> None:
    weight = middle(build(init="orthogonal")).weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(16), atol=1e-5, rtol=0)


def test_a_delta_orthogonal_convolution_doubles_the_energy_of_every_image_exactly() -> None:
    """At the border too, where other kernels lose some to the padding. Xiao et al. 2018: dynamical isometry."""
    net, x = build(init="delta-orthogonal"), torch.randn(4, 16, 8, 8)
    torch.testing.assert_close(middle(net)(x).square().sum(dim=(1, 2, 3)), 2 * x.square().sum(dim=(1, 2, 3)))
    widening = net.stages[1][0].transform.conv1
    torch.testing.assert_close(widening(x).square().sum(), 2 * x[:, :, ::2, ::2].square().sum())


def test_dirac_weights_pass_their_input_on() -> None:
    net, x = build(init="dirac"), torch.randn(4, 16, 8, 8)
    assert torch.equal(middle(net)(x), x)
    widening = net.stages[1][0].transform.conv1
    assert torch.equal(widening(x)[:, :16], x[:, :, ::2, ::2])
    assert float(widening.weight[16:].detach().std()) == pytest.approx(math.sqrt(2 / (9 * 16)), rel=0.05)


def test_a_net_that_looks_linear_is_linear_at_the_start() -> None:
    """Balduzzi et al. 2017, Sec. 4: f(a x + b y) = a f(x) + b f(y), without batch norm, whatever the depth."""
    net = build("plain20", init="looks-linear", activation="crelu", norm="none").double()
    x, y = X.double(), X.flip(0).double()
    torch.testing.assert_close(net(2 * x - 3 * y), 2 * net(x) - 3 * net(y))
    other = build("plain20", activation="crelu", norm="none").double()
    assert not torch.allclose(other(2 * x - 3 * y), 2 * other(x) - 3 * other(y))


# --- modules ----------------------------------------------------------------------------------------------------------


def by_hand(net: Any, x: Tensor, activation: Any, norm: Any) -> Tensor:
    """A plain net, layer by layer."""
    x = activation(norm(net.stem.bn, net.stem.conv(x)), net.stem.bn)
    for stage in net.stages:
        for block in stage:
            for conv, bn in (
                (block.transform.conv1, block.transform.bn1),
                (block.transform.conv2, block.transform.bn2),
            ):
                x = activation(norm(bn, F.conv2d(x, conv.weight, stride=conv.stride, padding=1)), bn)
    return net.head(x.mean(dim=(2, 3)))


def batch(bn: nn.Module, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, bn.weight, bn.bias, training=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("leaky-relu", lambda x, _: torch.where(x > 0, x, 0.25 * x)),
        ("prelu", lambda x, bn: torch.where(x > 0, x, bn.activation.weight.view(1, -1, 1, 1) * x)),
        ("crelu", lambda x, _: torch.cat((x.clamp(min=0), (-x).clamp(min=0)), dim=1)),
        ("tanh", lambda x, _: x.tanh()),
    ],
)
def test_an_activation_stands_after_every_batch_norm(name: str, formula: Any) -> None:
    net = build(activation=name).double().train()
    if name == "prelu":
        for module in net.modules():
            if isinstance(module, nn.PReLU):
                nn.init.uniform_(module.weight, 0.1, 0.4)
    torch.testing.assert_close(net(X.double()), by_hand(net, X.double(), formula, batch))


@pytest.mark.parametrize(
    ("layers", "right", "left"),  # what dks 0.1.2, the authors' library, makes of 1 and -1
    [
        (19, 1.39547165, -0.22947523),
        (31, 1.35016299, -0.42078487),
        (43, 1.31521079, -0.51982745),
        (55, 1.28875512, -0.58233172),
    ],
)
def test_a_tailored_relu_is_that_of_its_authors_at_every_depth(layers: int, right: float, left: float) -> None:
    """Zhang et al. 2022, with a cosine of 0.9."""
    net = build(f"plain{layers + 1}", activation="tailored-relu").double().train()
    activations = [module for module in net.modules() if isinstance(module, TailoredReLU)]
    assert len(activations) == layers
    ends = torch.tensor([right, left], dtype=torch.float64)
    torch.testing.assert_close(activations[0](torch.tensor([1.0, -1.0], dtype=torch.float64)), ends, atol=1e-6, rtol=0)
    expected = by_hand(net, X.double(), lambda x, _: torch.where(x > 0, right * x, -left * x), batch)
    torch.testing.assert_close(net(X.double()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.95])
def test_a_tailored_relu_keeps_the_size_of_normal_inputs_and_brings_them_together_as_the_formula_says(
    slope: float, cosine: float
) -> None:
    x, other = torch.randn(2, 1_000_000, generator=torch.Generator().manual_seed(0))
    activation = TailoredReLU(slope)
    a, b = activation(x), activation(cosine * x + math.sqrt(1 - cosine**2) * other)
    assert float(a.square().mean()) == pytest.approx(1, abs=0.01)
    assert float((a * b).mean()) == pytest.approx(_next_cosine(cosine, slope), abs=0.01)


def test_a_shallow_net_needs_no_slope() -> None:
    assert tailored_slope(1) == 0


@pytest.mark.parametrize("activation", ["tailored-relu", "tanh"])
def test_layers_between_activations_without_a_gain_keep_the_size_of_what_they_read(activation: str) -> None:
    weight = build("plain20", activation=activation).stages[2][0].transform.conv1.weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(1 / (9 * 32)), rel=0.03)
    net, x = build("plain20", activation=activation, init="delta-orthogonal"), torch.randn(4, 16, 8, 8)
    torch.testing.assert_close(middle(net)(x).square().sum(dim=(1, 2, 3)), x.square().sum(dim=(1, 2, 3)))


def test_with_linear_ends_only_the_first_convolution_of_a_block_has_a_relu_after_it() -> None:
    """Sandler et al. 2018, Sec. 3.2: none where the block ends."""
    net = build(activation="linear-ends").double().train()
    ends = {id(block.transform.bn2) for stage in net.stages for block in stage}
    expected = by_hand(net, X.double(), lambda x, bn: x if id(bn) in ends else x.clamp(min=0), batch)
    torch.testing.assert_close(net(X.double()), expected)


def test_a_net_without_batch_norm_has_a_bias_in_its_place() -> None:
    net = build(norm="none").double()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for module in net.modules():
        if hasattr(module, "activation"):
            nn.init.normal_(module.bias)
    expected = by_hand(net, X.double(), lambda x, _: F.relu(x), lambda shift, x: x + shift.bias.view(1, -1, 1, 1))
    torch.testing.assert_close(net(X.double()), expected)


def test_a_concatenated_relu_makes_half_of_the_channels_and_reads_all() -> None:
    net = build(activation="crelu")
    assert net.stem.conv.weight.shape == (8, 3, 3, 3) and middle(net).weight.shape == (8, 16, 3, 3)
    assert net.head.weight.shape == (10, 64)


def test_the_dirac_parametrisation_starts_near_the_identity_and_folds_into_a_plain_convolution() -> None:
    """Zagoruyko & Komodakis 2017, Eq. 3."""
    net = build(convolution="dirac").double()
    conv, x = middle(net), torch.randn(4, 16, 8, 8, dtype=torch.float64)
    assert isinstance(conv, DiracConv3x3)
    rows = conv.weight / conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(conv(x), x + 0.1 * F.conv2d(x, rows, padding=1))
    nn.init.normal_(conv.identity_scale)
    nn.init.normal_(conv.weight_scale)
    plain = nn.Conv2d(16, 16, 3, padding=1, bias=False).double()
    plain.weight.data.copy_(conv.folded())
    torch.testing.assert_close(conv(x), plain(x))


def test_a_smaller_scale_of_batch_norm_changes_nothing_before_the_classifier() -> None:
    """ReLU passes a factor on and the next batch norm takes it out: in a plain net with ReLU this is a control."""
    one, tenth = (build(norm_scale=scale).double().train() for scale in (1.0, 0.1))
    for net in (one, tenth):
        for module in net.modules():
            if isinstance(module, BatchNorm):
                module.eps = 1e-300
    torch.testing.assert_close(tenth(X.double()), 0.1 * one(X.double()))
    assert all(float(m.weight.detach().std()) == 0 for m in tenth.modules() if isinstance(m, BatchNorm))


# --- residual nets ----------------------------------------------------------------------------------------------------


def test_a_residual_net_whose_last_scales_are_zero_starts_as_its_shortcuts() -> None:
    net = build("resnet14", last_scale=0.0).train()
    block = net.stages[0][0]
    x = torch.randn(4, 16, 8, 8).relu()
    assert torch.equal(block(x), x)
    assert float(block.transform.bn1.weight.detach().min()) == 1.0


def test_skip_init_starts_as_its_shortcuts_and_learns_one_factor_a_block() -> None:
    """De & Smith 2020, Sec. 3: without batch norm."""
    net = build("resnet14", connection="skip-init", norm="none").train()
    block = net.stages[0][0]
    x = torch.randn(4, 16, 8, 8).relu()
    assert torch.equal(block(x), x)
    nn.init.constant_(block.connection.scale, 0.5)
    torch.testing.assert_close(block(x), (x + 0.5 * block.transform(x)).relu())
    F.cross_entropy(net(X), torch.tensor([0, 1, 2, 3])).backward()
    factors = [m.scale for m in net.modules() if isinstance(m, SkipInit)]
    assert len(factors) == 6 and all(float(factor.grad.abs()) > 0 for factor in factors)  # type: ignore[union-attr]


class Times(nn.Module):
    """F(x) = a x in place of a block's transform."""

    after, gate = "", None

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x


@pytest.mark.parametrize(
    ("paths", "factor"),
    [
        ("all", lambda a, n: (1 + a) ** n),  # 2^n paths, n over k of them of length k (Veit et al. 2016, Sec. 3)
        ("long", lambda a, n: a**n),
        ("short", lambda a, n: 1),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.5])
def test_gradients_take_the_paths_that_they_are_left_and_grow_by_the_factor_they_are_given(
    paths: str, factor: Any, scale: float
) -> None:
    a, n = 0.25, 6
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    options: Any = {"order": "full", "channels": 1, "gradient_scale": scale, "gradient_paths": paths}
    y = nn.Sequential(*(Block(Times(a), Add(nn.Identity()), **options) for _ in range(n)))(x)  # type: ignore[arg-type]
    torch.testing.assert_close(y, (1 + a) ** n * torch.ones_like(y))
    y.sum().backward()
    torch.testing.assert_close(x.grad, scale**n * factor(a, n) * torch.ones_like(x))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("plain20", {"gradient_scale": 0.8}),
        ("resnet20", {"gradient_scale": 1.3}),
        ("resnet20", {"gradient_paths": "long"}),
        ("resnet20", {"gradient_paths": "short"}),
    ],
)
def test_what_acts_on_the_gradient_alone_leaves_the_net_as_it_is(name: str, setting: dict[str, Any]) -> None:
    usual, other = build(name).double(), build(name, **setting).double()
    assert torch.equal(usual(X.double()), other(X.double()))
    before = usual.stages[2][2].transform.conv2.weight
    after = other.stages[2][2].transform.conv2.weight
    first, last = usual.stem.conv.weight, other.stem.conv.weight
    labels = torch.tensor([0, 1, 2, 3])
    wanted = torch.autograd.grad(F.cross_entropy(usual(X.double()), labels), [before, first])
    found = torch.autograd.grad(F.cross_entropy(other(X.double()), labels), [after, last])
    torch.testing.assert_close(found[0], wanted[0])  # the last F passes it on as ever
    assert not torch.allclose(found[1], wanted[1])
    if "gradient_scale" in setting:
        torch.testing.assert_close(found[1], setting["gradient_scale"] ** 9 * wanted[1])


def test_shortcuts_fade_by_the_schedule_until_the_net_is_a_plain_one() -> None:
    schedule = Schedule(base_lr=0.1, fade=[10, 20])
    assert [schedule.shortcut(step) for step in (0, 10, 15, 20, 99)] == [1, 1, 0.5, 0, 0]
    fading, whole, plain = build("resnet8", connection="fading"), build("resnet8", shortcut="A"), build("plain8")
    rest = {name: tensor for name, tensor in fading.state_dict().items() if not name.endswith("strength")}
    for net in (whole, plain):
        net.load_state_dict(rest)
    torch.testing.assert_close(fading(X), whole(X))
    for module in fading.modules():
        if isinstance(module, Fading):
            module.strength.zero_()
    torch.testing.assert_close(fading(X), plain(X))


def test_a_run_ends_without_the_shortcuts_that_faded(tmp_path: Path) -> None:
    words = ["model=resnet8", "model.connection=fading", "model.width=4", "protocol.steps=8", "protocol.fade=[2,6]"]
    words += ["protocol.lr_drops=[]", "tensorboard=false", f"output_dir={tmp_path}"]
    cfg = config.load(words)
    assert main(["train", *words]) == 0
    strengths = [m.strength for m in read_subject(read_run(cfg.run_dir)).net.modules() if isinstance(m, Fading)]
    assert len(strengths) == 3 and all(float(one) == 0 for one in strengths)


@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_a_residual_net_of_single_convolutions_folds_into_a_plain_one(option: str) -> None:
    residual = build("resnet8", transform="single", shortcut=option).double()
    residual.train()
    for _ in range(3):
        residual(torch.randn(16, 3, 16, 16, dtype=torch.float64))  # moves the running statistics
    for module in residual.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    plain = build("plain8", transform="single", norm="none").double()
    plain.load_state_dict(fold(residual))
    torch.testing.assert_close(plain(X.double()), residual(X.double()))


def test_only_what_a_kernel_can_do_is_folded() -> None:
    with pytest.raises(ValueError, match="only blocks of one convolution, batch norm and an added shortcut"):
        fold(build("resnet8"))
    with pytest.raises(ValueError, match="only blocks of one convolution"):
        fold(build("plain8", transform="single"))
    with pytest.raises(ValueError, match="batch norm"):
        fold(build("resnet8", transform="single", norm="none"))


def test_a_plain_net_is_deepened_into_one_that_computes_the_same_and_goes_on_from_there() -> None:
    """He et al. 2015, Sec. 1: the solution by construction."""
    shallow, deep = build("plain8").double(), build("plain20").double()
    images = torch.randn(64, 3, 16, 16, dtype=torch.float64)
    shallow.train()
    for _ in range(3):
        shallow(images)
    deep.load_state_dict(deepen(shallow, deep, images, batch=20))
    torch.testing.assert_close(deep.eval()(X.double()), shallow.eval()(X.double()))
    # In training the new blocks see the statistics of the batch: with the images all at once these are their own.
    block = deep.stages[1][1].train()
    x = deep.stages[1][0](deep.stages[0](deep.stem(images)))
    torch.testing.assert_close(block(x), x)


def test_only_plain_nets_are_deepened_and_only_to_more_layers() -> None:
    images = torch.randn(4, 3, 16, 16)
    for one, other, message in (
        (build("resnet8"), build("resnet20"), "only plain nets"),
        (build("plain8", norm="none"), build("plain20", norm="none"), "only plain nets"),
        (build("plain20"), build("plain8"), "stage 1 has 1 blocks and would need more than 3"),
        (build("plain8"), build("plain20", width=8), "differ in more than their depth"),
        (build("plain8", activation="crelu"), build("plain20", activation="crelu"), "only plain nets"),
    ):
        with pytest.raises(ValueError, match=message):
            deepen(one, other, images)


def test_a_run_goes_on_deeper_from_the_command_line(tmp_path: Path) -> None:
    short = ["protocol.steps=4", "protocol.lr_drops=[]", "tensorboard=false", f"output_dir={tmp_path}"]
    assert main(["train", "model=plain8", *short]) == 0
    run, file = config.load(["model=plain8", *short]).run_dir, tmp_path / "deep.safetensors"
    script = [sys.executable, str(ROOT / "scripts" / "remodel_weights.py"), str(run)]
    told = subprocess.run([*script, "--deepen-to", "14", "--to", str(file)], capture_output=True, text=True)
    assert told.returncode == 0 and "for model=plain14, width 16" in told.stdout
    again = ["model=plain14", f"init_from={file}", *short]
    assert main(["train", *again]) == 0
    assert main(["eval", *again[:1], f"weights={file}", f"output_dir={tmp_path}"]) == 0
    wrong = subprocess.run([*script, "--deepen-to", "9", "--to", str(file)], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("remodel_weights: error: depth=9 is not 6n+2")


# --- the update -------------------------------------------------------------------------------------------------------


def two_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(5, generator=generator)) for _ in range(2)]


@pytest.mark.parametrize("fused", [True, False])
def test_nesterov_is_torchs(fused: bool) -> None:
    ours, theirs = two_parameters(), two_parameters()
    optimizer = SGD(ours, momentum=0.9, weight_decay=0.01, nesterov=True, fused=fused)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, fused=fused)
    optimizer.lr = 0.1
    for _ in range(5):
        for parameters, one in ((ours, optimizer), (theirs, reference)):
            one.zero_grad()  # type: ignore[attr-defined]
            sum((p**3).sum() for p in parameters).backward()  # type: ignore[union-attr]
            one.step()  # type: ignore[attr-defined]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("fused", [True, False])
def test_a_longer_gradient_is_shortened_and_a_shorter_one_left(fused: bool) -> None:
    for clip, factor in ((2.5, 0.5), (10.0, 1.0)):
        weights = two_parameters()
        before = [w.detach().clone() for w in weights]
        optimizer = SGD(weights, momentum=0.0, weight_decay=0.0, clip_norm=clip, fused=fused)
        optimizer.lr = 0.1
        for weight in weights:
            weight.grad = torch.tensor([3.0, 0, 0, 0, 0]) if weight is weights[0] else torch.tensor([0, 0, 4.0, 0, 0])
        optimizer.step()  # the two together have the norm 5
        for weight, old in zip(weights, before, strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(weight.detach(), old - 0.1 * factor * weight.grad)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_parameters_that_do_not_decay_are_left_alone(kind: Any, fused: bool) -> None:
    weights = two_parameters()
    weights[1].decays = False  # type: ignore[attr-defined]
    before = [w.detach().clone() for w in weights]
    optimizer = kind(weights, weight_decay=0.1, fused=fused, **({"momentum": 0.9} if kind is SGD else {}))
    optimizer.lr = 0.1
    optimizer.step()  # without gradients
    torch.testing.assert_close(weights[0].detach(), 0.99 * before[0])
    assert torch.equal(weights[1].detach(), before[1])


def test_without_momentum_a_step_is_the_gradient_alone() -> None:
    """torch's fused operation refuses velocities then."""
    weights = two_parameters()
    before = weights[0].detach().clone()
    optimizer = SGD(weights, momentum=0.0, weight_decay=0.0, fused=True)
    optimizer.lr = 0.1
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.ones(5)
        optimizer.step()
    torch.testing.assert_close(weights[0].detach(), before - 0.2)


def test_slopes_and_the_scales_of_dirac_convolutions_have_no_decay() -> None:
    """He et al. 2015b, Sec. 2.1; Zagoruyko & Komodakis 2017, the authors' code."""
    cfg = config.load(["model=plain8", "model.activation=prelu", "model.convolution=dirac", "protocol=he2015-cifar"])
    net = build(activation="prelu", convolution="dirac")
    names = [name for name, _ in net.named_parameters()]
    free = [name for name, decay in zip(names, build_optimizer(cfg, net).decays, strict=True) if decay == 0]
    assert len(free) == 7 + 2 * 6
    assert all(name.endswith(("activation.weight", "identity_scale", "weight_scale")) for name in free)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=plain8", "model.init=looks-linear"], "model.init=looks-linear: needs model.activation=crelu"),
        (["model=resnet8", "model.activation=prelu"], "model.activation=prelu: resnet nets have no such knob"),
        (["model=plain8", "model.width=5", "model.activation=crelu"], "takes an even model.width"),
        (["model=plain8", "model.norm=none", "model.norm_scale=0.5"], "model.norm_scale=0.5: there is no batch norm"),
        (["model=resnet8", "model.norm=none", "model.last_scale=0"], "model.last_scale=0.0: there is no batch norm"),
        (
            ["model=preresnet8", "model.last_scale=0"],
            "model.last_scale=0.0: F ends without batch norm with model.order=full",
        ),
        (
            ["model=resnet8", "model.connection=fading"],
            "model.connection=fading: needs protocol.fade, as in protocol.fade=[0,640]",
        ),
        (
            ["model=resnet8", "protocol.fade=[0,9]"],
            "protocol.fade=[0, 9]: acts only with model.connection=fading; drop it",
        ),
        (["model=resnet8", "model.connection=fading", "protocol.fade=[9,9]"], "must be two growing steps below 1280"),
        (
            ["model=resnet8", "model.connection=fading", "protocol.fade=[0,1280]"],
            "must be two growing steps below 1280",
        ),
        (
            ["model=plain8", "model.activation=crelu", "model.init=dirac"],
            "needs convolutions that make as many channels",
        ),
        (["model=plain8", "model.convolution=dirac", "model.init=naive"], "takes only the directions of weights"),
        (["model=plain8", "model.convolution=dirac", "model.activation=crelu"], "half of the identity is cut off"),
        (["model=plain8", "model.transform=single", "model.activation=linear-ends"], "no ReLU is left; drop one"),
        (
            ["model=resnet8", "model.gradient_paths=long", "model.survival=0.5"],
            "only with model.connection=add and no model.survival",
        ),
        (
            ["model=resnet8", "model.gradient_paths=long", "model.connection=scaled"],
            "only with model.connection=add and no model.survival",
        ),
        (["model=plain8", "model.gradient_paths=long"], "plain nets have no such knob"),
        (["model=plain8", "model.gradient_scale=-1"], "model.gradient_scale=-1"),
        (["model=densenet40_k12", "model.init=looks-linear"], "dense nets have no use for it"),
        (["model=plain8", "protocol.nesterov=true", "protocol.momentum=0"], "needs sgd with momentum"),
        (["model=plain8", "protocol.clip_norm=0"], "protocol.clip_norm=0.0: must be above 0"),
        (["model=plain8", "protocol.clip_norm=1", "protocol.precision=fp16"], "not with fp16"),
        (["model=plain8", "protocol.nesterov=true", "protocol.optimizer=adamw"], "needs sgd with momentum; drop it"),
    ],
)
def test_what_cannot_be_had_or_does_nothing_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(words)
    assert message in str(error.value)


@pytest.mark.parametrize("depth", [20, 56])
def test_a_named_activation_is_after_batch_norm_alone_and_the_shape_of_all_else_stays(depth: int) -> None:
    usual, leaky = build(f"plain{depth}"), build(f"plain{depth}", activation="leaky-relu")
    assert usual.state_dict().keys() == leaky.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(usual.state_dict().values(), leaky.state_dict().values(), strict=True))
    assert sum(isinstance(m, NormThen) for m in leaky.modules()) == depth - 1


# --- what they do to the mechanisms -----------------------------------------------------------------------------------


def test_gradients_are_alike_in_a_linear_net_and_have_little_in_common_in_a_deep_one() -> None:
    images = torch.randn(16, 3, 16, 16)
    linear = build("plain56", init="looks-linear", activation="crelu", norm="none")
    assert likeness(linear, images) == pytest.approx(1, abs=1e-4)
    assert likeness(build("plain56"), images) < 0.2


def started(tmp_path: Path, *words: str) -> Trained:
    short = ["protocol.steps=2", "protocol.lr_drops=[]", "model.width=8", f"output_dir={tmp_path}", "tensorboard=false"]
    cfg = config.load([*words, *short])
    assert main(["train", *words, *short]) == 0
    return read_subject(read_run(cfg.run_dir))


def test_the_start_of_a_run_is_measured_by_its_own_first_step(tmp_path: Path) -> None:
    usual = measure_start(started(tmp_path, "model=plain20"), 64)
    assert usual.growth > 2 and 0 < usual.likeness < 1 and usual.dead < 0.1
    for words, factor in (
        (["protocol.lr=0.01"], 0.1),
        (["protocol.warmup_steps=1", "protocol.warmup_lr=0.001"], 0.01),
        (["protocol.nesterov=true"], 1.9),
    ):
        other = measure_start(started(tmp_path, "model=plain20", *words), 64)
        assert other.update == pytest.approx(factor * usual.update, rel=1e-4) and other.growth == usual.growth


def test_a_clipped_first_step_is_as_long_as_the_bound_allows(tmp_path: Path) -> None:
    clipped = started(tmp_path, "model=plain20", "protocol.clip_norm=0.5", "protocol.weight_decay=0")
    inputs, labels = clipped.images("train", 64)
    net = build_net(clipped.cfg, clipped.data).train()
    F.cross_entropy(net(inputs), labels).backward()
    norms = [float(p.grad.norm()) for p in net.parameters() if p.grad is not None]
    whole = math.sqrt(sum(norm**2 for norm in norms))
    expected = 0.1 * norms[0] * 0.5 / whole / float(net.stem.conv.weight.detach().norm())  # type: ignore[union-attr, operator, arg-type]
    assert whole > 0.5 and measure_start(clipped, 64).update == pytest.approx(expected, rel=1e-3)


def test_the_start_of_a_net_that_drops_blocks_and_units_is_measured_whole(tmp_path: Path) -> None:
    dropping = started(tmp_path, "model=resnet20", "model.survival=0.5", "model.dropout=0.3", "model.norm=none")
    one, two = (measure_start(dropping, 64) for _ in range(2))
    assert one == two and one.own == pytest.approx(1)
    whole = started(tmp_path, "model=resnet20", "model.dropout=0.3", "model.norm=none")
    assert one == pytest.approx(measure_start(whole, 64), rel=1e-6, nan_ok=True)


def test_where_f_starts_at_zero_its_gradient_has_no_growth(tmp_path: Path) -> None:
    start = measure_start(started(tmp_path, "model=resnet8", "model.last_scale=0"), 64)
    assert math.isnan(start.growth) and start.update > 0


def test_the_share_that_is_an_images_own_is_whole_without_batch_norm_and_falls_with_depth() -> None:
    """The mean of three seeds: a fresh plain-56 may have a tenth, or half."""

    def share(name: str, group: int | None = None, **settings: Any) -> float:
        found = []
        for seed in range(3):
            images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            net = build(name, seed=seed, **settings)
            if group:
                set_statistics(net, group=group, synced=False)
            found.append(own_share(net, images, 64, draws=4))
        return sum(found) / len(found)

    assert share("plain20", norm="none") == pytest.approx(1)
    assert share("plain8") > share("plain20") > 0.8 and share("plain56") < 0.5
    assert share("plain20", group=4) < 0.5 and share("resnet56") > 0.9  # and these two train: remedies-noise


def test_a_weaker_shortcut_is_more_chaotic_at_the_same_growth(tmp_path: Path) -> None:
    """The nets of remedies-chaos as they start, means of three seeds: its note and docs/why.md say so."""
    digits = started(tmp_path, "model=resnet8")
    inputs, labels = digits.images("train", 256)

    def start(words: list[str], seed: int) -> tuple[float, float]:
        net = build_net(config.load(["model=resnet56", "model.width=8", *words, f"seed={seed}"]), digits.data)
        return move(net, inputs), growth(layer_gradients(net, inputs, labels, "a net")[1])

    scaled = ["model.connection=scaled", "model.transform_scale=1"]
    for words, moved, near in (
        ([], 0.06, 0.02),
        ([*scaled, "model.skip_scale=0.7", "model.gradient_scale=0.9"], 0.5, 0.1),
        ([*scaled, "model.skip_scale=0.5", "model.gradient_scale=0.86"], 0.7, 0.1),
        ([*scaled, "model.skip_scale=0.3", "model.gradient_scale=0.83"], 0.8, 0.1),
    ):
        moves, growths = zip(*(start(words, seed) for seed in range(3)), strict=True)
        assert sum(moves) / 3 == pytest.approx(moved, abs=near), words
        assert min(growths) > 1.5 and max(growths) < 5.5, words


def test_a_single_batch_norm_leaves_what_the_normal_distribution_says() -> None:
    """(x - m) / s has the noise of m and of s x, 1 / b and x^2 / 2b, of the three quarters of the batch that change."""
    net = nn.Sequential(nn.BatchNorm1d(50, affine=False), nn.Linear(50, 2)).double()
    images = torch.randn(4000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for batch in (64, 256):
        assert 1 - own_share(net, images, batch, draws=64) == pytest.approx(1.5 * 0.75 / batch, rel=0.2)


def test_a_change_of_the_first_layer_moves_a_deep_plain_net_many_times_as_far() -> None:
    images = torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    moves = {depth: move(build(f"plain{depth}"), images) for depth in (8, 20, 56)}
    assert moves[8] < 0.05 < moves[20] < moves[56] / 2 and move(build("resnet56"), images) < 0.1
    assert move(build("plain56", gradient_scale=0.8), images) == moves[56]  # of the gradient it knows nothing


def test_a_change_of_a_linear_layer_moves_what_it_makes_by_as_much() -> None:
    net = nn.Sequential(nn.Conv2d(64, 32, 1, bias=False), nn.Flatten(), nn.Linear(32, 2)).double()
    images = torch.randn(500, 64, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = net[0].weight.detach().clone()  # type: ignore[union-attr, operator]
    assert move(net, images, 0.01) == pytest.approx(0.01, rel=0.1)
    assert torch.equal(net[0].weight.detach(), before)  # type: ignore[union-attr, operator, arg-type]


def test_features_that_vary_alike_have_all_dimensions_and_a_net_that_collapses_one() -> None:
    net = nn.Sequential(nn.Conv2d(10, 10, 1, bias=False), nn.Flatten(), nn.Linear(10, 2)).double()
    nn.init.dirac_(net[0].weight)  # type: ignore[arg-type]
    images = torch.randn(20_000, 10, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert dimensions(net, images) == pytest.approx(10, rel=0.01)
    images[:, 5:] = 0
    assert dimensions(net, images) == pytest.approx(5, rel=0.01)
    images[:, 1:] = images[:, :1]
    assert dimensions(net, images) == pytest.approx(1, rel=1e-6)


def test_rounding_alone_changes_the_gradient_of_a_fresh_deep_plain_net() -> None:
    """Why plain-56 is a lottery (docs/why.md): float32 against float64, the first convolution's gradient, eight seeds.

    One seed says little: a single unit that rounding turns on or off is a hundredth of ResNet-56's gradient.
    """
    data = load_data(config.load(["dataset=digits"]))
    images, labels = data.train.take(slice(0, 64)).views("centre", 64).__next__()
    inputs = images[0].double() / 255

    def error(name: str, seed: int) -> float:
        words = ["dataset=digits", f"model={name}", "model.width=8", "fast=false", f"seed={seed}"]
        net = build_net(config.load(words), data).train()
        gradients = []
        for dtype in (torch.float64, torch.float32):
            net = net.to(dtype)
            net.zero_grad()
            F.cross_entropy(net(inputs.to(dtype)), labels.long()).backward()
            gradients.append(next(net.parameters()).grad.double())  # type: ignore[union-attr]
        return float((gradients[1] - gradients[0]).norm() / gradients[0].norm())

    plain, residual = (sum(error(name, seed) for seed in range(8)) / 8 for name in ("plain56", "resnet56"))
    assert plain > 0.1 and residual < plain / 10


def test_the_images_of_a_deep_plain_net_differ_in_few_dimensions() -> None:
    images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = [dimensions(build(name), images) for name in ("plain8", "plain20", "plain56")]
    assert found == sorted(found, reverse=True) and found[-1] < 4 < dimensions(build("resnet56"), images)


def test_a_mechanism_goes_with_the_error_or_does_not() -> None:
    starts = [
        Start(growth=10.0**n, update=1.0, likeness=0.1 * n, dead=math.nan, own=-n, moved=n, spread=9 - n)
        for n in range(12)
    ]
    errors = [1.0, 2.0, 3.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 11.0, 10.0, 12.0]
    rows = {key: correlation_row(key, starts, errors) for key in Start._fields}
    assert rows["growth"].measured.startswith("0.99 (0.8") and rows["growth"].agrees is True
    assert rows["likeness"].measured.startswith("0.99 (") and rows["likeness"].agrees is False
    assert rows["own"].measured == rows["spread"].measured and rows["own"].measured.startswith("-0.99 (-1.00 to -0.8")
    assert rows["own"].agrees is True
    assert rows["update"].agrees is None and rows["dead"].agrees is None  # all alike; none known
    loose = correlation_row("growth", starts, [1.0, 2.0, 3.0, 12.0, 4.0, 6.0, 1.5, 8.0, 9.0, 2.5, 10.0, 7.0])
    assert loose.agrees is None and "to" in loose.measured  # the bound lies within its interval
    few = correlation_row("growth", starts[:5], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert few.measured == "1.00 (1.00 to 1.00)" and few.agrees is None  # every draw of so few is in order


def test_an_interval_over_nets_that_are_mostly_alike_holds_no_correlation_at_all() -> None:
    values = [0.0] * 9 + [1.0]
    rank, low, high = rank_interval(values, [float(n) for n in range(9, -1, -1)])
    assert low <= rank < high == 0


# --- what they close of the gap ---------------------------------------------------------------------------------------


def test_a_share_is_that_of_the_way_and_its_interval_that_of_welch() -> None:
    """With ends that have no spread, the interval is that of the middle, scaled."""
    found = share([70.0, 70.0], [20.0, 24.0, 28.0], [10.0, 10.0])
    middle = summarize([20.0, 24.0, 28.0])
    assert found.mean == pytest.approx((70 - 24) / 60)
    assert (found.low, found.high) == pytest.approx(((70 - middle.high) / 60, (70 - middle.low) / 60))
    assert share([70.0, 70.0], [40.0, 40.0], [10.0, 10.0]) == Difference(0.5, 0.5, 0.5)
    assert not share([70.0], [40.0], [10.0]).has_interval


@pytest.mark.parametrize(
    "sides",
    [
        ([12.0, 8.0, 11.0], [9.0, 10.0, 11.0], [7.0, 10.0, 12.0]),
        ([10.0, 12.0, 11.0], [5.0, 5.1, 4.9], [8.0, 12.0, 10.0]),
        ([10.0, 12.0, 11.0], [2.0, 2.1, 1.9], [9.5, 12.0, 10.6]),
    ],
)
def test_where_the_gap_itself_is_unsure_the_share_has_no_end(sides: tuple[list[float], ...]) -> None:
    found = share(*sides)
    assert found.high == math.inf and found.low == -math.inf


@pytest.mark.parametrize("sides", [([90.0] * 2, [0.078125] * 2, [0.0] * 2), ([76.0] * 3, [68.22] * 3, [37.85] * 3)])
def test_without_any_spread_the_share_is_exact(sides: tuple[list[float], ...]) -> None:
    found = share(*sides)
    assert found.low == found.mean == found.high


def test_the_interval_holds_the_true_share_in_19_of_20_cases() -> None:
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = share(draws.normal(70, 4, 3), draws.normal(25, 8, 3), draws.normal(1, 0.5, 3))
        hits += found.low <= 45 / 69 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_where_the_residual_net_is_the_worse_there_is_no_gap_to_close(tmp_path: Path) -> None:
    runs_of(tmp_path, ["model=plain56"], {0: 5.0, 1: 5.2, 2: 5.1})
    runs_of(tmp_path, ["model=resnet56"], {0: 20.0, 1: 20.2, 2: 20.1})
    runs_of(tmp_path, ["model=plain56", "model.init=dirac"], {0: 18.0, 1: 18.2, 2: 18.1})
    found = find_remedies(group_runs(find_runs(tmp_path)), {})
    assert shares(found) == {} and all(row[5:] == ["-", "-"] for row in remedy_rows(found))


def test_a_setting_of_more_seeds_does_not_win_by_their_number(tmp_path: Path) -> None:
    runs_of(tmp_path, ["model=plain56"], {0: 70.0, 1: 70.0, 2: 70.0, 3: 1.0, 4: 1.0})
    runs_of(tmp_path, ["model=plain56", "protocol.lr=0.01"], {0: 55.0, 1: 56.0, 2: 57.0})
    runs_of(tmp_path, ["model=plain56", "protocol.lr=0.03"], {0: 1.0})
    assert "0.01" in best_of(group_runs(find_runs(tmp_path)), "train_error").label


def test_every_remedy_of_the_study_has_its_explanation(tmp_path: Path) -> None:
    study, jobs = load_study("remedies-rates")
    for number, (words, _) in enumerate(jobs):
        write_run(tmp_path, list(words), train_error=float(number))
    found = find_remedies(group_runs(find_runs(tmp_path)), study.explanations)
    assert len(found) == 28 and all(len(remedy.others) >= 2 for remedy in found)
    assert sorted(remedy.name for remedy in found if not remedy.why) == ["plain", "resnet"]
    assert "width=16" in {remedy.name for remedy in found}


def runs_of(folder: Path, words: list[str], errors: dict[int, float]) -> None:
    for seed, error in errors.items():
        write_run(folder, [*words, f"seed={seed}"], train_error=error)


def test_each_remedy_is_judged_at_its_best_rate_by_the_share_it_closes(tmp_path: Path) -> None:
    for depth, plain in ((20, 5.0), (56, 70.0)):
        runs_of(tmp_path, [f"model=plain{depth}"], {0: plain, 1: plain + 2})
        runs_of(tmp_path, [f"model=resnet{depth}"], {0: 1.0, 1: 2.0})
        runs_of(tmp_path, [f"model=plain{depth}", "model.init=dirac"], {0: 30.0, 1: 60.0})
    runs_of(tmp_path, ["model=plain56", "model.init=dirac", "protocol.lr=0.01"], {0: 10.0, 1: 12.0})
    runs_of(
        tmp_path, ["model=plain56", "protocol.clip_norm=1", "protocol.lr=0.03"], {0: 1.0}
    )  # luck of one seed, perhaps
    runs_of(tmp_path, ["model=plain56", "protocol.clip_norm=1"], {0: 69.0, 1: 71.0})
    groups = group_runs(find_runs(tmp_path))
    found = find_remedies(groups, {"init=dirac": "the identity is hard to find"})
    assert [remedy.name for remedy in found] == ["resnet", "init=dirac", "clip_norm=1.0", "plain"]
    rows = {row[0]: row for row in remedy_rows(found)}
    assert rows["init=dirac"][1:4] == ["the identity is hard to find", "0.01", "56"]
    assert rows["init=dirac"][5].startswith("86 % (") and rows["init=dirac"][6] == "yes (in 2 of 2 seeds)"
    assert rows["clip_norm=1.0"][6] == "no (in 0 of 2 seeds)"
    assert rows["plain"][5:] == rows["resnet"][5:] == ["-", "-"]
    other = {"protocol.clip_norm=1.0", "protocol.lr=0.01"}
    usual = [run for group in groups if group.depth == 56 and not other & group.words for run in group.runs]
    more = group_runs([*usual, write_run(tmp_path / "more", ["model=plain56", "model.init=dirac", "seed=9"])])
    named = find_remedies(more, {"init=dirac": "why"})
    assert {remedy.name for remedy in named} == {"resnet", "plain", "init=dirac"}  # though most plain runs have it
    even = [group for group in groups if group.depth == 20]
    assert shares(find_remedies([g for g in even if g.family == "plain"], {})) == {}
    written = draw_remedies(groups, tmp_path / "figure", title="Remedies")
    assert [path.suffix for path in written] == [".png", ".svg"] and written[0].stat().st_size > 20_000


def test_with_tanh_normal_weights_lose_an_images_size_at_its_borders_and_delta_orthogonal_ones_do_not() -> None:
    """docs/why.md: from the stem to the last features of a fresh plain-56 on digits, without batch norm."""
    data = load_data(config.load(["dataset=digits"]))
    images = data.test.sample()[:128].float() / 255 - 0.5

    def shrinks(*words: str) -> float:
        cfg = config.load(["model=plain56", "model.width=8", "model.activation=tanh", "model.norm=none", *words])
        net = build_net(cfg, data)
        first = net.stem(images)
        return float(first.detach().std() / net.stages(first).detach().std())

    assert 1e4 < shrinks() < 1e6 and 2 < shrinks("model.init=delta-orthogonal") < 5
