"""Weights of others: what fits a net, what is refused, and what a file may hold beside them."""

from pathlib import Path

import pytest
import torch
from helpers import TINY

from resexp import UserError, config
from resexp.build import build_net, load_data
from resexp.cli import main
from resexp.data.normalize import normalization_of
from resexp.data.registry import build_data
from resexp.models.build import build_model
from resexp.weights import CONTAINERS, load_weights


def net_and_state() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    net = build_model(family="resnet", depth=8, width=4, seed=1)
    return build_model(family="resnet", depth=8, width=4, seed=2), dict(net.state_dict())


@pytest.mark.parametrize("key", CONTAINERS)
def test_a_state_dict_is_found_where_training_programs_put_it(key: str) -> None:
    net, state = net_and_state()
    torch.save({key: state, "epoch": 3, "best_acc": 91.0}, "theirs.pt")
    load_weights(net, Path("theirs.pt"))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items() if "tracked" not in name)


def test_counters_of_profilers_and_averaged_models_are_passed_over() -> None:
    net, state = net_and_state()
    counters = {"total_ops": torch.zeros(1), "head.total_params": torch.zeros(1), "n_averaged": torch.tensor(3)}
    torch.save({**counters, **{f"module.{name}": value for name, value in state.items()}}, "theirs.pt")
    load_weights(net, Path("theirs.pt"))
    assert torch.equal(net.state_dict()["head.weight"], state["head.weight"])


def test_a_tensor_of_another_kind_does_not_fit_though_its_shape_does() -> None:
    """A bias in the place of a running mean is a net that computes something else."""
    net, state = net_and_state()
    names = list(state)
    first = next(index for index, name in enumerate(names) if name.endswith(".bias"))
    mean = next(index for index, name in enumerate(names) if name.endswith("running_mean"))
    names[first], names[mean] = names[mean], names[first]
    torch.save({name: state[name] for name in names}, "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.pt: tensor 3, .*running_mean \(4,\), does not fit .*bias \(4,\)"):
        load_weights(net, Path("theirs.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    net, state = net_and_state()
    state["head.weight"] = state["head.weight"].clone()
    state["head.weight"][0, 0] = value
    torch.save(state, "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.pt: head\.weight has values that are not finite"):
        load_weights(net, Path("theirs.pt"))


def test_a_whole_pickled_program_is_answered_with_what_to_do() -> None:
    net, _ = net_and_state()
    torch.save(net, "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.pt: holds other Python objects beside tensors; save its state_dict"):
        load_weights(net, Path("theirs.pt"))


def test_a_result_near_guessing_says_what_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    cfg = config.load(TINY)
    torch.save(build_net(cfg, load_data(cfg)).state_dict(), "fresh.pt")
    assert main(["eval", "weights=fresh.pt", *TINY]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("weights=fresh.pt: near guessing; check how images are normalised")
    assert "model.zero_padding=both" in lines[0]
    assert lines[1].startswith("normalisation pixel-mean, by protocol")
    assert main(["eval", "weights=fresh.pt", *TINY, "protocol.mean=[0.5,0.5,0.5]", "protocol.std=[0.2,0.2,0.2]"]) == 0
    assert "normalisation" not in capsys.readouterr().err


def test_torchvisions_bottlenecks_are_recognised_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    import torchvision

    torch.save(torchvision.models.resnet50(num_classes=10).state_dict(), "tv.pt")
    words = ["eval", "weights=tv.pt", "dataset=synthetic", "dataset.examples=40", "model=resnet50"]
    assert main([*words, "model.stem=7x7", "dataset.image_size=32"]) == 0
    assert "whose bottlenecks have their stride in the 3x3; if these are such, add model.stride_in=3x3" in (
        capsys.readouterr().err
    )


def test_given_means_and_deviations_take_the_place_of_a_rule() -> None:
    source = build_data("synthetic", examples=40).train
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    pixels = source.sample()[:4]
    found = normalization_of(source, "pixel-mean", mean, std)(pixels)
    wanted = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(
        normalization_of(source, "none", mean)(pixels), pixels / 255 - torch.tensor(mean)[:, None, None]
    )
    with pytest.raises(UserError, match=r"protocol\.mean: has 1 channels, and these images have 3"):
        normalization_of(source, "none", (0.5,))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["protocol.std=[0.2]"], "needs protocol.mean"),
        (["protocol.mean=[0.5]", "protocol.std=[0]"], "must be above 0"),
    ],
)
def test_deviations_that_cannot_be_are_refused(words: list[str], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        config.load(words)
