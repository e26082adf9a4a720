"""The nets are the papers' nets."""

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from resexp import UserError, catalog, config
from resexp.models.blocks import ORDERS, Paths
from resexp.models.build import build_model, builder_of, count_macs, count_parameters
from resexp.models.connections import Add, Gated
from resexp.models.conv1x1 import Conv1x1
from resexp.models.shortcuts import ZeroPad
from resexp.models.stages import stages
from resexp.studies.published import published
from resexp.weights import load_weights

MODELS = Path(catalog.__file__).parent / "models"


def build(name: str, **options: Any) -> Any:
    return build_model(**catalog.parse_name(name) | options)


def on_meta(name: str, **options: Any) -> Any:
    shape, classes = catalog.Net(name, 0, 0).image
    with torch.device("meta"):
        return build(name, image_shape=shape, classes=classes, **options)


# --- all nets ---------------------------------------------------------------------------------------------------------


def test_there_are_over_60_named_nets_of_all_families() -> None:
    assert len(catalog.NAMED) > 60
    assert {net.settings["family"] for net in catalog.NAMED} == set(catalog.FAMILIES)
    assert all(callable(builder_of(family)) for family in catalog.FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("net", catalog.NAMED, ids=lambda net: net.name)
def test_golden_counts_are_recounted_from_the_built_net(net: catalog.Net) -> None:
    built = on_meta(net.name)
    assert (count_parameters(built), count_macs(built, net.image[0])) == (net.parameters, net.macs)
    assert catalog.net_name(net.settings) == net.name


@pytest.mark.parametrize("net", catalog.NAMED, ids=lambda net: net.name)
def test_every_named_net_learns_from_a_small_image(net: catalog.Net) -> None:
    """Forward and backward: finite logits, and a gradient at every parameter. The largest nets are narrowed."""
    options: dict[str, Any] = {}
    if net.settings["family"] == "vgg":
        options["pools"] = 3
    if "width" in catalog.FAMILIES[net.settings["family"]].knobs and net.parameters > 5e6:
        options["width"] = 16 if net.settings["family"] != "transformer" else 48
    if net.settings["family"] == "resnext":
        options |= {"group_width": 2}
    shape = (1, 8, 8) if net.settings["family"].endswith("mlp") else (3, 8, 8)
    built = build(net.name, image_shape=shape, classes=5, **options)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    logits = built.to(memory_format=torch.channels_last)(x)
    assert logits.shape == (2, 5) and bool(logits.isfinite().all())
    nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
    finite = net.name != "plain1202"  # whose gradient grows from block to block beyond what float32 holds
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) >= finite for p in built.parameters())


def rounds_to(value: float, printed: str) -> bool:
    """Whether ``value`` is what a table prints as ``printed``, rounded or cut off."""
    digits = len(printed.partition(".")[2])
    return abs(value - float(printed)) < 1.01 * 10**-digits


@pytest.mark.parametrize("fast", [True, False])
def test_counting_sees_every_convolution_of_a_net_with_kernels_too(fast: bool) -> None:
    net = build_model(family="resnet", depth=20, fast=fast)
    golden = next(net for net in catalog.NAMED if net.name == "resnet20")
    assert count_macs(net, (3, 32, 32)) == golden.macs and net.training


@pytest.mark.parametrize("net", catalog.NAMED, ids=lambda net: net.name)
def test_golden_counts_are_the_published_ones(net: catalog.Net) -> None:
    for key, value in (("params", net.parameters / 1e6), ("gmacs", net.macs / 1e9)):
        known = published(net.name, key)
        if known is None or "(B)" in str(known):
            continue
        printed = str(known).removesuffix("M")
        if key == "gmacs":  # the tables cut digits off, and differ in what they count besides
            assert abs(value / float(printed) - 1) < 0.016, (value, printed)
        elif net.name in ("resnet1001", "preresnet1001"):
            assert printed == "10.2" and round(value, 2) == 10.33  # the paper's column; its own description counts more
        else:
            assert rounds_to(value, printed), (value, printed)


def test_depth_counts_the_layers_with_weights_outside_shortcuts_and_gates() -> None:
    for name in (
        "plain20",
        "resnet56",
        "plain18",
        "resnet34",
        "resnet164",
        "preresnet110",
        "resnext29_8x64d",
        "densenet40_k12",
        "densenet121",
        "vgg_d",
        "vgg_b_5x5",
        "googlenet",
        "mlp10",
        "highway_mlp20",
        "highway32",
        "se_resnet50",
    ):
        weighted = [n for n, m in on_meta(name).named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        outside = [n for n in weighted if "shortcut" not in n and "gate" not in n]
        if name == "googlenet":  # 9 modules of two layers each, their branches side by side
            outside = [n for n in outside if "inception" not in n or n.endswith(("branch2.0.conv", "branch2.1.conv"))]
        assert len(outside) == catalog.parse_name(name)["depth"], name


# --- torchvision's nets -----------------------------------------------------------------------------------------------


TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {"shortcut": "B"}),
    "resnet34": ("resnet34", {"shortcut": "B"}),
    "resnet50": ("resnet50", {"stride_in": "3x3"}),
    "resnet101": ("resnet101", {"stride_in": "3x3"}),
    "resnet152": ("resnet152", {"stride_in": "3x3"}),
    "resnext50_32x4d": ("resnext50_32x4d", {}),
    "resnext101_64x4d": ("resnext101_64x4d", {}),
    "resnext50_1x128d": ("wide_resnet50_2", {}),
    "vgg_a": ("vgg11", {}),
    "vgg_b_bn": ("vgg13_bn", {}),
    "vgg_d": ("vgg16", {}),
    "vgg_e_bn": ("vgg19_bn", {}),
    "densenet121": ("densenet121", {}),
    "densenet161": ("densenet161", {}),
    "densenet169": ("densenet169", {}),
    "densenet201": ("densenet201", {}),
    "googlenet": ("googlenet", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_weights_carried_over_in_order_give_torchvisions_logits(name: str) -> None:
    """float64, so that only a difference of the nets can show; one image of 96 pixels in evaluation mode."""
    twin, options = TWINS[name]
    theirs = getattr(torchvision.models, twin)(
        **({"aux_logits": False, "init_weights": False} if twin == "googlenet" else {})
    )
    ours = build(name, image_shape=(3, 96, 96), classes=1000, **options)
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert mine.shape == other.shape
            mine.copy_(other)
        x = torch.rand(1, 3, 96, 96, dtype=torch.float64, generator=generator)
        expected = theirs.double().eval()(x)
        assert torch.allclose(ours.double().eval()(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (twin, _) in TWINS.items() if twin != "googlenet"])
def test_timms_weights_of_the_same_name_give_timms_logits(name: str, tmp_path: Path) -> None:
    """Where timm is installed; its VGG has convolutions in place of the first linear layers."""
    timm = pytest.importorskip("timm")
    twin, options = TWINS[name]
    theirs = timm.create_model(twin, pretrained=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pt")
    ours = build(name, image_shape=(3, 224, 224), classes=1000, **options).eval()
    load_weights(ours, tmp_path / "timm.pt")
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_torchvisions_strides_cost_more_than_the_papers() -> None:
    ours = count_macs(on_meta("resnet50", stride_in="3x3"), (3, 224, 224))
    with torch.device("meta"):
        theirs = torchvision.models.resnet50()
    assert ours == count_macs(theirs, (3, 224, 224)) == 4_089_184_256 > on_meta_macs("resnet50")


def on_meta_macs(name: str) -> int:
    return count_macs(on_meta(name), catalog.Net(name, 0, 0).image[0])


# --- residual nets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_option_b_adds_2752_parameters(depth: int) -> None:
    counts = [count_parameters(on_meta(f"resnet{depth}", shortcut=option)) for option in "AB"]
    assert counts[1] - counts[0] == 2752


def test_option_c_projects_every_shortcut() -> None:
    net = build("resnet20", shortcut="C")
    assert all(isinstance(block.connection.shortcut, nn.Sequential) for stage in net.stages for block in stage)


def test_basic_blocks_are_the_default_of_few_layers_and_bottlenecks_of_many() -> None:
    kinds = {name: catalog.Net(name, 0, 0).settings for name in ("resnet34", "resnet50", "resnet110", "resnet164")}
    assert [settings["transform"] for settings in kinds.values()] == ["basic", "bottleneck"] * 2
    assert [settings["shortcut"] for settings in kinds.values()] == ["A", "B"] * 2


def test_zero_padding_subsamples_and_adds_empty_channels() -> None:
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    y = ZeroPad(2, 4, stride=2)(x)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert torch.equal(y[:, 2:], torch.zeros(1, 2, 2, 2))


def test_a_residual_block_with_a_dead_transform_is_the_identity_and_a_plain_one_is_not() -> None:
    x = torch.rand(2, 3, 8, 8)
    outputs = {}
    for family in ("plain", "resnet"):
        net = build(f"{family}8", width=4).eval()
        block = net.stages[0][0]
        nn.init.zeros_(block.transform.bn2.weight)
        inputs = net.stem(x)
        outputs[family] = (block(inputs), inputs)
    assert torch.equal(*outputs["resnet"])
    assert torch.equal(outputs["plain"][0], torch.zeros_like(outputs["plain"][1]))


def test_initialisation_has_he_variance_and_follows_the_seed() -> None:
    net = build("resnet20", width=64, seed=3)
    weight = net.stages[2][1].transform.conv1.weight
    assert weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    again, other = (build("resnet20", width=64, seed=seed) for seed in (3, 4))
    assert torch.equal(again.head.weight, net.head.weight)
    assert not torch.equal(other.head.weight, net.head.weight)


@pytest.mark.parametrize(
    ("depth", "side", "stem", "before_head"),
    [(20, 32, "auto", 8), (18, 32, "auto", 4), (18, 224, "auto", 7), (18, 64, "7x7", 2), (20, 8, "auto", 2)],
)
def test_the_stem_fits_the_image(depth: int, side: int, stem: str, before_head: int) -> None:
    net = build(f"plain{depth}", width=2, stem=stem, image_shape=(1, side, side))
    assert net.stages(net.stem(torch.zeros(1, 1, side, side))).shape[2:] == (before_head, before_head)


@pytest.mark.parametrize("name", ["resnet20", "preresnet20", "densenet_bc40_k4"])
def test_activation_checkpointing_changes_memory_and_nothing_else(name: str) -> None:
    options = {"dropout": 0.3} | ({"width": 4} if "resnet" in name else {})
    results = []
    for on in (False, True):
        net = build(name, activation_checkpointing=on, **options)
        torch.manual_seed(0)
        kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = net(x).square().mean()
        loss.backward()
        results.append((net, kept))
    (plain, plain_kept), (frugal, frugal_kept) = results
    for (key, a), b in zip(plain.state_dict().items(), frugal.state_dict().values(), strict=True):
        assert torch.equal(a, b), key  # running statistics: a recomputed batch must not count twice
    for (key, a), b in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key
    assert frugal_kept < plain_kept / 2


# --- activation orders and connections --------------------------------------------------------------------------------


def by_hand(block: Any, order: str, x: Tensor) -> Tensor:
    """He et al. 2016, Fig. 4 (a) to (e), written out with the block's own modules."""
    t, relu = block.transform, torch.relu
    match order:
        case "original":
            return relu(x + t.bn2(t.conv2(relu(t.bn1(t.conv1(x))))))
        case "bn-after-addition":
            return relu(block.joined.bn(x + t.conv2(relu(t.bn1(t.conv1(x))))))
        case "relu-before-addition":
            return x + relu(t.bn2(t.conv2(relu(t.bn1(t.conv1(x))))))
        case "relu-only":
            return x + t.bn2(t.conv2(relu(t.bn1(t.conv1(relu(x))))))
    return x + t.conv2(relu(t.bn1(t.conv1(relu(t.before.bn(x))))))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("training", [True, False])
def test_each_activation_order_is_that_of_the_paper(order: str, training: bool) -> None:
    net = build("resnet20", order=order, width=4)
    block = net.stages[1][1].train(training)
    x = torch.randn(5, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block(x), by_hand(block, order, x), atol=1e-6)
    assert tuple(ORDERS) == catalog.CHOICES["order"]


def test_a_pre_activation_net_is_a_sum_of_its_transforms() -> None:
    """He et al. 2016, Eq. 4: within a stage x_L = x_l + sum of F; the stem's activation is the first block's own."""
    net = build("preresnet20", width=4).eval()
    x = net.stem(torch.rand(2, 3, 8, 8))
    stage, total = net.stages[0], x
    for block in stage:
        total = total + block.transform(total)
    assert torch.allclose(stage(x), total)
    assert not hasattr(stage[0].transform, "before") and hasattr(stage[1].transform, "before")
    first = net.stages[1][0]  # where the shape changes both paths start from the activation
    assert first.before is not None and not hasattr(first.transform, "before")
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 19  # one a convolution


SHORTCUTS = {  # He et al. 2016, Table 1
    "scaled": ({"skip_scale": 0.5, "transform_scale": 0.25}, lambda x, fx, g: 0.5 * x + 0.25 * fx),
    "exclusive-gate": ({"gate_bias": -6.0}, lambda x, fx, g: (1 - g) * x + g * fx),
    "shortcut-gate": ({"gate_bias": -6.0}, lambda x, fx, g: (1 - g) * x + fx),
}


@pytest.mark.parametrize("connection", SHORTCUTS)
def test_each_connection_is_that_of_the_paper(connection: str) -> None:
    options, expected = SHORTCUTS[connection]
    block = build("resnet20", connection=connection, width=4, **options).stages[0][1]
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    gate = block.connection.gate(x).sigmoid() if "gate" in connection else None
    assert torch.allclose(block(x), torch.relu(expected(x, block.transform(x), gate)), atol=1e-6)
    if gate is not None:
        assert bool((block.connection.gate.bias == -6).all())


def test_a_dropped_out_shortcut_is_scaled_in_training_and_whole_in_evaluation() -> None:
    shortcut = Add(nn.Identity(), dropout=0.5)
    x, fx = torch.ones(1, 1, 100, 100), torch.zeros(1, 1, 100, 100)
    y = shortcut(x, fx)
    assert set(y.unique().tolist()) == {0.0, 2.0} and 0.4 < float((y == 0).float().mean()) < 0.6
    assert torch.equal(shortcut.eval()(x, fx), x)


def test_concatenated_skips_contain_the_sum() -> None:
    block = build("resnet20", connection="concatenate", width=4).stages[0][1].eval()
    with torch.no_grad():
        block.connection.mix[0].weight.copy_(torch.cat((torch.eye(4), torch.eye(4)), dim=1)[:, :, None, None])
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.relu((x + block.transform(x)) / (1 + block.connection.mix[1].eps) ** 0.5)
    assert torch.allclose(block(x), expected, atol=1e-6)


def test_concatenated_skips_at_15_channels_have_about_the_parameters_of_sums_at_16() -> None:
    counts = [
        count_parameters(on_meta("resnet56", **options))
        for options in ({"width": 16}, {"width": 15, "connection": "concatenate"})
    ]
    assert 0.97 < counts[1] / counts[0] < 1


def test_highway_layers_are_gated_convolutions_and_plain_where_the_size_changes() -> None:
    net = build("highway20", width=4)
    blocks = [block for stage in net.stages for block in stage]
    assert [isinstance(block.connection, Gated) for block in blocks] == [i not in (6, 12) for i in range(18)]
    block, t = blocks[1], blocks[1].transform
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    gate = block.connection.gate(x).sigmoid()
    assert float(gate.detach().mean()) < 0.3 and bool((block.connection.gate.bias == -3).all())
    h = torch.relu(t.bn1(t.conv1(x)))
    assert torch.allclose(block(x), gate * h + (1 - gate) * x, atol=1e-6)


def test_plain_and_highway_mlps_have_5000_parameters_a_layer() -> None:
    for name in ("mlp20", "highway_mlp20"):
        layer = on_meta(name).layers[0]
        assert 5000 < count_parameters(layer) < 5150, name


def test_stochastic_depth_drops_blocks_in_training_and_scales_them_in_evaluation() -> None:
    net = build("resnet20", survival=0.5, width=4)
    blocks = [block for stage in net.stages for block in stage]
    expected = [1 - number / 9 * 0.5 for number in range(1, 10)]  # Huang et al. 2016, Eq. 4
    assert [block.survival for block in blocks] == pytest.approx(expected)
    block = blocks[2]
    x = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    dropped = [bool(torch.equal(block(x), x)) for _ in range(400)]
    assert 0.08 < sum(dropped) / 400 < 0.26  # 1 - 5 / 6
    block.eval()
    assert torch.allclose(block(x), torch.relu(x + block.survival * block.transform(x)), atol=1e-6)


# --- ResNeXt, DenseNet, VGG, SE ---------------------------------------------------------------------------------------


def test_the_three_forms_of_a_resnext_block_are_one_function() -> None:
    """Xie et al. 2017, Fig. 3: paths that are summed, concatenated early, or one grouped convolution."""
    nets = {form: build("resnext29_4x4d", width=8, form=form).double() for form in catalog.CHOICES["form"]}
    reference = nets["grouped"].state_dict()
    for form, net in nets.items():
        if form == "grouped":
            continue
        for name, module in net.named_modules():
            if isinstance(module, Paths):  # cut the whole convolution's weight into those of the paths
                dim = 1 if module.splits and module.joins == "sum" else 0
                parts = reference[f"{name}.weight"].chunk(len(module.paths), dim=dim)
                for path, part in zip(module.paths, parts, strict=True):
                    path.weight.data.copy_(part)
        kept = {key: value for key, value in reference.items() if key in net.state_dict()}
        assert not net.load_state_dict(kept, strict=False).unexpected_keys
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = nets["grouped"](x)
    for form in ("concatenated", "summed"):
        assert torch.allclose(nets[form](x), expected, atol=1e-10), form
        assert count_parameters(nets[form]) == count_parameters(nets["grouped"])


def test_resnext_blocks_of_equal_cost_have_the_published_weights() -> None:
    """Xie et al. 2017, Table 2: about 70,000 weights whatever the cardinality."""
    expected = {(1, 64): 69_632, (2, 40): 69_760, (4, 24): 69_888, (8, 14): 71_456, (32, 4): 70_144}
    for (paths, width), count in expected.items():
        block = build(f"resnext50_{paths}x{width}d").stages[0][1]
        assert sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d)) == count


def wide_net_by_second_reading(weights: Sequence[Tensor], x: Tensor, *, depth: int, widened: bool) -> Tensor:
    """Zagoruyko & Komodakis 2016, Table 1 and Fig. 1 (d), as in their code: logits, by batch statistics.

    :param weights: of all convolutions and batch norms in our order, then the classifier's.
    :param widened: the first stage has more channels than the stem.
    """
    rest = iter(weights)

    def activated(x: Tensor) -> Tensor:
        scale, shift = next(rest), next(rest)
        mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, correction=0)
        whitened = (x - mean) / (variance + 1e-5).sqrt()
        return (whitened * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    x = F.conv2d(x, next(rest), padding=1)
    for group in range(3):
        for block in range((depth - 4) // 6):
            stride = 2 if group > 0 and block == 0 else 1
            changes = block == 0 and (group > 0 or widened)
            first = activated(x)
            y = F.conv2d(first, next(rest), stride=stride, padding=1)
            y = F.conv2d(activated(y), next(rest), padding=1)
            x = y + (F.conv2d(first, next(rest), stride=stride) if changes else x)
    return activated(x).mean(dim=(2, 3)) @ next(rest).T + next(rest)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["wrn10_2", "wrn16_3", "wrn16_1"])
def test_a_wide_residual_net_is_that_of_a_second_reading(name: str, fast: bool) -> None:
    net = build(name, width=4, init="torch7", fast=fast).double()
    for number, parameter in enumerate(net.parameters()):
        generator = torch.Generator().manual_seed(number)
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    depth, widen = (catalog.parse_name(name)[key] for key in ("depth", "widen"))
    wanted = wide_net_by_second_reading(list(net.parameters()), x, depth=depth, widened=widen > 1)
    torch.testing.assert_close(net(x), wanted, rtol=1e-9, atol=1e-9)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == depth - (
        widen == 1
    )  # as the paper counts: with the projections, without the classifier
    assert [stage[-1].transform.conv2.out_channels for stage in net.stages] == [4 * widen * 2**i for i in range(3)]


def test_a_dense_layer_adds_its_growth_to_all_that_came_before() -> None:
    net = build("densenet_bc40_k4")
    stage = net.stages[0]
    x = net.stem(torch.rand(2, 3, 8, 8))
    assert x.shape[1] == 8  # 2k
    for number, layer in enumerate(stage, start=1):
        y = layer(x)
        assert torch.equal(y[:, : x.shape[1]], x) and y.shape[1] == 8 + 4 * number
        x = y
    assert net.stages[1].conv.weight.shape[:2] == (16, 32)  # half of 8 + 6 * 4


def test_densenets_dropout_follows_each_convolution() -> None:
    net = build("densenet_bc40_k4", dropout=0.2)
    layer = net.stages[0][0].transform
    assert [type(m) for m in layer.conv1] == [Conv1x1, nn.Dropout]
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == 36 + 2  # two a layer of 18, and the transitions


def test_without_a_connection_a_net_is_plain() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build("resnet20", connection="none", width=4)(x), build("plain20", width=4)(x))


def test_a_net_is_the_papers_if_it_has_all_its_settings() -> None:
    for name, options, expected in (
        ("resnet20", {}, True),
        ("resnet20", {"stem": "7x7"}, True),  # that follows the images
        ("resnet20", {"width": 4}, False),
        ("resnet20", {"order": "full"}, False),
        ("densenet121", {}, True),
        ("densenet121", {"compression": 1.0}, False),
        ("vgg_d", {"reduction": 16}, False),
        ("se_vgg_d", {}, True),
    ):
        settings = catalog.resolve(catalog.parse_name(name) | options)
        assert catalog.is_papers(settings) == expected, (name, options)
    projected = catalog.resolve(catalog.parse_name("resnet20") | {"shortcut": "B"})
    assert catalog.is_papers(projected, but={"shortcut": "B"}) and not catalog.is_papers(projected)
    assert catalog.is_papers(catalog.parse_name("plain20"), but={"shortcut": "B"})  # a plain net has none
    assert catalog.net_name(catalog.resolve({"family": "densenet", "depth": 121, "growth": 12})) == "densenet121_k12"


def test_vgg_follows_the_papers_table() -> None:
    kernels = [m.kernel_size[0] for m in on_meta("vgg_c").modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]
    assert sum(isinstance(m, nn.LocalResponseNorm) for m in on_meta("vgg_a_lrn").modules()) == 1
    assert not any(isinstance(m, nn.BatchNorm2d) for m in on_meta("vgg_d").modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in on_meta("vgg_d_bn").modules()) == 13


def test_squeeze_and_excitation_adds_the_papers_parameters() -> None:
    """Hu et al. 2018, Eq. 5: (2 / r) times the sum over stages of blocks times squared channels."""
    for depth, expected in ((50, 2_514_944), (101, 4_743_168), (152, 6_578_176)):
        added = count_parameters(on_meta(f"se_resnet{depth}")) - count_parameters(on_meta(f"resnet{depth}"))
        blocks = stages(catalog.Net(f"resnet{depth}", 0, 0).settings)
        formula = 2 * sum(n * (256 * 2**i) ** 2 for i, n in enumerate(blocks)) // 16
        assert added == formula == expected
    halved = count_parameters(on_meta("se_resnet50", reduction=32)) - count_parameters(on_meta("resnet50"))
    assert halved == 2_514_944 // 2


def test_a_gate_weighs_each_channel_by_one_number() -> None:
    block = build("se_preresnet20", width=16).stages[0][1]
    x = torch.rand(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    with_gate = block.transform(x)
    ratio = with_gate / block.transform.convolve(x)[0]
    assert torch.allclose(ratio.amin(dim=(2, 3)), ratio.amax(dim=(2, 3)), atol=1e-5)
    assert bool((ratio > 0).all()) and bool((ratio < 1).all())


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", catalog.CHOICES["residual"])
@pytest.mark.parametrize("layer_norm", catalog.CHOICES["layer_norm"])
@pytest.mark.parametrize("position", catalog.CHOICES["norm_position"])
def test_each_sub_layer_has_its_residual_and_norm_or_not(residual: str, layer_norm: str, position: str) -> None:
    net = build("transformer2", width=12, residual=residual, layer_norm=layer_norm, norm_position=position)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    for name, sub in zip(("attention", "mlp"), net.layers[0], strict=True):
        norm = sub.norm if layer_norm in ("both", name) else nn.Identity()
        skip = x if residual in ("both", name) else 0
        expected = skip + sub.transform(norm(x)) if position == "pre" else norm(skip + sub.transform(x))
        assert torch.allclose(sub(x), expected, atol=1e-6)


def test_attention_is_that_of_torch() -> None:
    net = build("transformer1", width=12)
    ours = net.layers[0][0].transform
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-5)


def test_patches_tile_the_image() -> None:
    assert build("transformer2", image_shape=(3, 32, 32)).position.shape[1] == 64
    assert build("transformer2", image_shape=(1, 8, 8)).position.shape[1] == 16
    with torch.device("meta"):
        assert build("transformer2", image_shape=(3, 224, 224)).position.shape[1] == 196


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet57", {}, "nearest are 56 or 62"),
        ("resnet5", {}, "nearest are 8"),
        ("resnet20", {"layout": "imagenet"}, "18, 34"),
        ("resnext30_4x4d", {}, "9n.2, .* 29 or 38"),
        ("densenet41_k12", {}, "6n.4|3n.4.*40 or 43"),
        ("resnet47", {}, "nearest are 44 or 56"),
        ("vgg12", {}, "no VGG net; choose from 8, 11, 13, 16, 19"),
        ("resnext20_4x4d", {"transform": "basic"}, "are those of a bottleneck"),
        ("wrn27_2", {}, "6n.4, .* 22 or 28"),
        ("wrn9_2", {}, "nearest are 10"),
        ("wrn28_0", {}, "model.widen=0: must be at least 1"),
        ("wrn28_2", {"layout": "imagenet"}, "drop it .*model=resnext50_1x128d"),
        ("wrn50_2", {}, "is model=resnext50_1x128d"),
        ("resnet20", {"init": "torch7", "last_scale": 0}, "torch7 draws the scales of batch norm"),
        ("wrn28_2", {"transform": "bottleneck"}, "three stages of basic blocks"),
        ("resnet20", {"widen": 2}, "resnet nets have no such knob"),
        ("resnet20", {"dropout": float("nan")}, "at least 0.0"),
        ("densenet_bc40_k4", {"compression": 0.02}, "leaves none of 32 channels"),
        ("resnet20", {"survival": 0.5, "connection": "dropout"}, "only with model.connection=add"),
        ("googlenet", {"image_shape": (3, 3, 3)}, "vanish in the pooling after the third stage"),
        ("vgg_d", {"cardinality": 32}, "vgg nets have no such knob; theirs: batch_norm"),
        ("plain20", {"shortcut": "A"}, "take model=resnet20"),
        ("resnet20", {"skip_scale": 0.5}, "acts only with model.connection=scaled"),
        ("resnet20", {"order": "ful"}, "did you mean full"),
        ("resnet20", {"survival": 1.5}, "at most 1"),
        ("transformer2", {"width": 10}, "does not divide model.width=10"),
        ("transformer2", {"patch": 5}, "does not divide images of 32x32"),
        ("vgg_d", {"image_shape": (3, 8, 8)}, "after stage 4 .* set model.pools=3"),
        ("densenet121", {"image_shape": (3, 4, 4)}, "transition after stage 3"),
        ("se_resnet20", {"width": 8}, "above the first stage's 8 channels"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(name, **options)


@pytest.mark.parametrize("name", ["vgg_f", "se_densenet121", "resnet", "resnext29", "densnet121", "se_mlp10"])
def test_an_unknown_name_is_answered_with_a_known_one(name: str) -> None:
    if name == "resnext29":
        assert catalog.net_name(catalog.resolve(catalog.parse_name(name))) == "resnext29_32x4d"
        return
    with pytest.raises(UserError, match=r"did you mean|drop se_|model="):
        catalog.parse_name(name)


def test_zeros_on_both_sides_are_the_same_net_up_to_the_order_of_its_channels() -> None:
    """Weights of the one, their channels permuted, give the outputs of the other."""
    ours, theirs = (
        build_model(family="resnet", depth=8, width=4, zero_padding=padding, image_shape=(3, 8, 8)).eval()
        for padding in ("end", "both")
    )
    state = ours.state_dict()
    # Where a stage doubles its channels from c to 2c, the first c of "end" are the middle ones of "both".
    order = {1: list(range(4))}
    for stage, channels in ((2, 4), (3, 8)):
        quarter = channels // 2
        before = order[stage - 1]
        new = [channels + i for i in range(channels)]
        order[stage] = new[:quarter] + before + new[quarter:]
    moved = {}
    for name, value in state.items():
        if not name.startswith("stages"):
            moved[name] = value[:, order[3]] if name == "head.weight" else value
            continue
        stage = int(name.split(".")[1]) + 1
        value = value[order[stage]] if value.dim() else value
        if value.dim() == 4:
            into = order[stage - 1] if "conv1" in name and name.split(".")[2] == "0" and stage > 1 else order[stage]
            value = value[:, into]
        moved[name] = value
    theirs.load_state_dict(moved)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
        theirs.load_state_dict(state)
        assert not torch.allclose(ours(x), theirs(x), atol=1e-2)  # weights of the other placement give another net


def test_zero_padding_is_for_option_a_and_changes_no_name_of_a_run() -> None:
    with pytest.raises(UserError, match=r"model.zero_padding=both: only with model.shortcut=A"):
        config.load(["model=resnet20", "model.shortcut=B", "model.zero_padding=both"])
    names = {config.load(["model=resnet20", *words]).run_name for words in ([], ["model.zero_padding=end"])}
    assert len(names) == 1 and config.load(["model=resnet20", "model.zero_padding=both"]).run_name not in names


def test_lrn_acts_on_our_activations_as_on_the_papers() -> None:
    """Krizhevsky's alpha for pixels to 255 and weights of deviation 0.01; ours for pixels to 1 and He's weights."""
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    net = build_model(family="vgg", depth=11, variant="a_lrn", width=64, pools=4, image_shape=(3, 16, 16))
    conv, lrn = net.stages[0][0].conv, net.stages[0][1]
    papers = torch.nn.LocalResponseNorm(5, alpha=5 * 1e-4, k=2)
    with torch.no_grad():
        ours = F.relu(F.conv2d(x, conv.weight, padding=1))
        theirs = F.relu(F.conv2d(255 * x, conv.weight * 0.01 / (2 / 27) ** 0.5, padding=1))
        assert torch.allclose(lrn(ours) / ours.clamp(min=1e-9), papers(theirs) / theirs.clamp(min=1e-9), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and people use it
@pytest.mark.parametrize("way", ["compile", "trace", "export"])
def test_a_trained_net_can_be_followed_by_torchs_compilers(way: str) -> None:
    """They cannot follow a kernel, and would compute with memory that nobody has written."""
    net = build_model(family="resnet", depth=8, width=8, fast=True).eval().to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = net(x)
        follow: dict[str, Callable[[], Any]] = {
            "compile": lambda: torch.compile(net, backend="eager"),
            "trace": lambda: torch.jit.trace(net, x),
            "export": lambda: torch.export.export(net, (x,)).module(),
        }
        torch.testing.assert_close(follow[way]()(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "register",
    [
        nn.Module.register_forward_hook,
        nn.Module.register_forward_pre_hook,
        nn.Module.register_full_backward_hook,
        nn.Module.register_full_backward_pre_hook,
        lambda _, hook: nn.modules.module.register_module_forward_hook(hook),
    ],
    ids=["forward", "forward-pre", "backward", "backward-pre", "global"],
)
def test_hooks_reach_every_convolution(register: Any) -> None:
    net = build_model(family="resnet", depth=8, width=8, fast=True).train()
    seen: list[nn.Module] = []
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]

    def keep(module: nn.Module, *_: Any) -> None:
        seen.append(module)

    handles = [register(module, keep) for module in convolutions[: 1 if register.__name__ == "<lambda>" else None]]
    try:
        net(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    found = [module for module in seen if isinstance(module, nn.Conv2d)]
    assert len(found) == len(set(found)) == len(convolutions) == 7


@pytest.mark.parametrize("family", [{"family": "vgg", "depth": 11}, {"family": "densenet", "depth": 40}])
def test_the_shorter_side_decides_whether_an_image_vanishes(family: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="vanish"):
        build_model(**family, image_shape=(3, 32, 2))


def test_copies_of_a_net_decay_what_it_decays() -> None:
    net = build_model(family="plain", depth=8, activation="prelu", convolution="dirac")
    flags = [getattr(p, "decays", True) for p in net.parameters()]
    stored = io.BytesIO()
    torch.save(net, stored)
    stored.seek(0)
    for other in (copy.deepcopy(net), torch.load(stored, weights_only=False)):
        assert [getattr(p, "decays", True) for p in other.parameters()] == flags and not all(flags)


@pytest.mark.parametrize("words", [{"shortcut": "B"}, {"transform": "bottleneck", "shortcut": "B"}], ids=str)
def test_narrow_nets_that_project_train(words: dict[str, Any]) -> None:
    """torch's own gradient of a strided 1x1 convolution of few channels ends the process, now and then."""
    code = f"""
import torch
from resexp.models.build import build_model
net = build_model(family="resnet", depth=11 if "transform" in {words} else 8, width=4, **{words}).train()
net = net.to(memory_format=torch.channels_last)
for _ in range(20):
    net(torch.randn(64, 3, 16, 16).to(memory_format=torch.channels_last)).sum().backward()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_a_strided_convolution_of_few_channels_is_the_same_as_torchs() -> None:
    for channels in (4, 8):
        conv = Conv1x1(channels, 6, 2)
        x = torch.randn(2, channels, 7, 8)
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, stride=2))
