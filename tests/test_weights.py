"""Weights of others: what fits a net, what is refused, and what a file may hold beside them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TINY
from torch import Tensor

from resexp import UserError, config
from resexp.builder import build_net, load_data
from resexp.cli import main
from resexp.data.normalize import normalization_of
from resexp.data.registry import build_data
from resexp.models.build import build_model
from resexp.run_folder import open_run
from resexp.runtime import stop_signals
from resexp.studies.published import published_like
from resexp.training import train
from resexp.weights import CONTAINERS, load_weights


def build_net_of(words: list[str]) -> torch.nn.Module:
    cfg = config.load(words)
    return build_net(cfg, load_data(cfg))


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


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    "change",
    [lambda t: t.to(torch.complex64), lambda t: t.to(torch.int64), lambda t: t.to_sparse(), lambda t: t.to("meta")],
    ids=["complex", "whole", "sparse", "meta"],
)
def test_weights_of_a_kind_that_would_lose_something_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    net, state = net_and_state()
    state["head.weight"] = change(state["head.weight"])
    torch.save(state, "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.pt: head\.weight has no plain numbers"):
        load_weights(net, Path("theirs.pt"))


def test_a_file_of_tensors_without_names_is_no_state() -> None:
    torch.save({0: torch.zeros(3)}, "theirs.pt")
    with pytest.raises(UserError, match=r"theirs\.pt: holds no state dict"):
        load_weights(net_and_state()[0], Path("theirs.pt"))


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


def test_a_convolution_over_the_whole_image_is_taken_as_the_linear_layer_that_it_is() -> None:
    """timm's VGG keeps its first linear layers so."""
    net, state = net_and_state()
    head = state["head.weight"]
    torch.save({**state, "head.weight": head.view(10, 4, 2, 2)}, "timm.pt")
    load_weights(net, Path("timm.pt"))
    assert torch.equal(net.state_dict()["head.weight"], head)
    torch.save({**state, "head.weight": head.view(10, 2, 2, 2, 2)}, "timm.pt")
    with pytest.raises(UserError, match="does not fit"):
        load_weights(net, Path("timm.pt"))


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


def test_a_run_starts_from_the_weights_of_a_file(capsys: pytest.CaptureFixture) -> None:
    state = build_net_of(TINY).state_dict()
    torch.save({name: torch.full_like(value, 0.5) for name, value in state.items()}, "theirs.pt")
    words = [*TINY, "init_from=theirs.pt", "protocol.lr=0"]
    assert main(["train", *words]) == 0
    assert "starting at step 0 of 12 from the weights of" in capsys.readouterr().err
    cfg = config.load(words)
    saved = torch.load(cfg.run_dir / "checkpoint.pt", weights_only=True)["net"]
    assert bool((saved["head.weight"] == 0.5).all())


def test_the_content_of_the_file_names_the_run_and_its_path_does_not() -> None:
    Path("other").mkdir()
    for path, text in (("a.pt", b"a"), ("other/b.pt", b"a"), ("c.pt", b"c")):
        Path(path).write_bytes(text)
    names = [config.load([*TINY, f"init_from={path}"]).run_name for path in ("a.pt", "other/b.pt", "c.pt")]
    assert names[0] == names[1] != names[2] != config.load(TINY).run_name
    with pytest.raises(UserError, match=r"init_from=gone\.pt: No such file or directory; name a weights file"):
        config.load([*TINY, "init_from=gone.pt"])


def test_a_run_that_started_from_weights_resumes_without_their_file() -> None:
    torch.save(build_net_of(TINY).state_dict(), "theirs.pt")
    words = [*TINY, "init_from=theirs.pt"]
    assert main(["train", *words, "max_minutes=1e-9"]) == 0
    cfg = config.load_file(config.load(words).run_dir / "config.yaml")
    Path("theirs.pt").unlink()
    with stop_signals() as stop, open_run(cfg, cfg.run_dir) as run:
        assert train(dataclasses.replace(cfg, max_minutes=None), run, stop)["status"] == "finished"


def test_a_classifier_for_other_classes_starts_fresh(capsys: pytest.CaptureFixture) -> None:
    torch.save(build_model(family="resnet", depth=8, width=4, classes=7, seed=1).state_dict(), "theirs.pt")
    assert main(["train", *TINY, "init_from=theirs.pt"]) == 0
    assert "theirs.pt, with a fresh classifier" in capsys.readouterr().err
    assert main(["eval", "weights=theirs.pt", *TINY]) == 2  # whose classes must be these
    assert "head.weight (7, 16), does not fit head.weight (10, 16)" in capsys.readouterr().err


def test_a_run_that_starts_from_weights_has_no_published_number_beside_it() -> None:
    Path("theirs.pt").write_bytes(b"anything")
    words = ["dataset=cifar10", "model=resnet56", "protocol=he2015-cifar"]
    fresh, from_file = (dataclasses.asdict(config.load([*words, *more])) for more in ([], ["init_from=theirs.pt"]))
    assert published_like(fresh) and not published_like(from_file)
