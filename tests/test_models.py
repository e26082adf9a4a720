"""The nets are the papers' nets."""

import pytest
import torch
import torchvision

from resexp import UserError, catalog
from resexp.models import build_model, count_macs, count_parameters
from resexp.models.shortcuts import ZeroPad
from resexp.published import published


def shortcut_of(family: str, option: str = "A") -> str | None:
    return None if family == "plain" else option


@pytest.mark.parametrize("net", catalog.NAMED, ids=lambda net: net.name)
def test_golden_counts_are_recounted_from_the_built_net(net: catalog.Net) -> None:
    side, classes = catalog.PAPER_IMAGE[net.layout]
    with torch.device("meta"):
        built = build_model(
            family=net.family, depth=net.depth, shortcut=shortcut_of(net.family), image_shape=(3, side, side),
            classes=classes,
        )  # fmt: skip
    assert count_parameters(built) == net.parameters
    assert count_macs(built, (3, side, side)) == net.macs


def test_golden_counts_round_to_the_published_column() -> None:
    for net in catalog.NAMED:
        known = published(net.name, "params")
        if known and known.source.startswith("He et al. 2015"):
            millions = float(str(known.value).removesuffix("M"))
            digits = len(str(known.value).removesuffix("M").partition(".")[2])
            assert abs(net.parameters / 1e6 - millions) < 0.6 * 10**-digits, net.name


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_option_b_adds_2752_parameters(depth: int) -> None:
    counts = [count_parameters(build_model(family="resnet", depth=depth, shortcut=option)) for option in "AB"]
    assert counts[1] - counts[0] == 2752


@pytest.mark.parametrize("depth", [18, 34])
def test_option_b_is_torchvisions_resnet(depth: int) -> None:
    with torch.device("meta"):
        ours = build_model(family="resnet", depth=depth, shortcut="B", image_shape=(3, 224, 224), classes=1000)
        theirs = {18: torchvision.models.resnet18, 34: torchvision.models.resnet34}[depth]()
    assert count_parameters(ours) == count_parameters(theirs)
    assert count_macs(ours, (3, 224, 224)) == count_macs(theirs, (3, 224, 224))
    with torch.device("meta"):
        shapes = sorted(tuple(p.shape) for p in ours.parameters()), sorted(tuple(p.shape) for p in theirs.parameters())
    assert shapes[0] == shapes[1]


def test_option_c_projects_every_shortcut() -> None:
    net = build_model(family="resnet", depth=20, shortcut="C")
    assert all(isinstance(block.shortcut, torch.nn.Sequential) for stage in net.stages for block in stage)


def test_depth_counts_the_layers_with_weights_outside_shortcuts() -> None:
    for name in ("plain20", "resnet56", "plain18", "resnet34"):
        family, depth = catalog.parse_name(name)
        net = build_model(family=family, depth=depth, shortcut=shortcut_of(family), width=4)
        weighted = [m for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        assert len(weighted) == depth


def test_zero_padding_subsamples_and_adds_empty_channels() -> None:
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    y = ZeroPad(2, 4, stride=2)(x)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert torch.equal(y[:, 2:], torch.zeros(1, 2, 2, 2))


def test_a_residual_block_with_a_dead_transform_is_the_identity_and_a_plain_one_is_not() -> None:
    x = torch.rand(2, 3, 8, 8)
    outputs = {}
    for family in ("plain", "resnet"):
        net = build_model(family=family, depth=8, width=4, shortcut=shortcut_of(family)).eval()
        block = net.stages[0][0]
        torch.nn.init.zeros_(block.transform.bn2.weight)
        inputs = net.stem(x)
        outputs[family] = (block(inputs), inputs)
    assert torch.equal(*outputs["resnet"])
    assert torch.equal(outputs["plain"][0], torch.zeros_like(outputs["plain"][1]))


def test_initialisation_has_he_variance_and_follows_the_seed() -> None:
    net = build_model(family="resnet", depth=20, shortcut="A", width=64, seed=3)
    weight = net.stages[2][1].transform.conv1.weight
    assert weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    again, other = (build_model(family="resnet", depth=20, shortcut="A", width=64, seed=seed) for seed in (3, 4))
    assert torch.equal(again.head.weight, net.head.weight)
    assert not torch.equal(other.head.weight, net.head.weight)


@pytest.mark.parametrize(
    ("depth", "side", "stem", "before_head"), [(20, 32, "auto", 8), (18, 32, "auto", 4), (18, 224, "auto", 7),
                                                (18, 64, "7x7", 2), (20, 8, "auto", 2)]
)  # fmt: skip
def test_the_stem_fits_the_image(depth: int, side: int, stem: str, before_head: int) -> None:
    net = build_model(family="plain", depth=depth, width=2, stem=stem, image_shape=(1, side, side))
    assert net.stages(net.stem(torch.zeros(1, 1, side, side))).shape[2:] == (before_head, before_head)


def test_activation_checkpointing_changes_memory_and_nothing_else() -> None:
    results = []
    for on in (False, True):
        torch.manual_seed(0)
        net = build_model(family="resnet", depth=20, shortcut="A", width=4, activation_checkpointing=on)
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = net(torch.rand(8, 3, 16, 16)).square().mean()
        loss.backward()
        results.append((net, kept))
    (plain, plain_kept), (frugal, frugal_kept) = results
    for (name, a), b in zip(plain.state_dict().items(), frugal.state_dict().values(), strict=True):
        assert torch.equal(a, b), name  # running statistics: a recomputed batch must not count twice
    for (name, a), b in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    assert frugal_kept < plain_kept / 2


@pytest.mark.parametrize(
    ("depth", "layout", "words"), [(57, "auto", "56 or 62"), (5, "auto", "8"), (50, "auto", "bottleneck"),
                                   (20, "imagenet", "18, 34"), (1001, "auto", "bottleneck")]
)  # fmt: skip
def test_an_illegal_depth_is_answered_with_legal_ones(depth: int, layout: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        catalog.stages(depth, layout)


def test_a_depth_of_the_other_layout_builds_when_asked() -> None:
    assert catalog.stages(50, "cifar") == (8, 8, 8)
    assert catalog.stages(26) == (4, 4, 4)
