"""The bench measures what it says, and its counts are right."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TINY

from resexp import config
from resexp.bench.limits import measure_limits, step_bytes
from resexp.bench.loops import PHASES, Ours, Usual
from resexp.bench.measure import bench, growth
from resexp.builder import load_data
from resexp.cli import main
from resexp.models.build import build_model, count_macs
from resexp.models.kernels import load_kernels

Resexp = Callable[..., subprocess.CompletedProcess]
CPU = torch.device("cpu")


def test_bytes_are_counted_by_hand_for_one_block() -> None:
    net = build_model(family="resnet", depth=8, width=4, shortcut="A", image_shape=(3, 8, 8))
    stem = 3 * (3 * 64 + 4 * 64) + 8 * 4 * 64
    first = 2 * (3 * (256 + 256) + 8 * 256) + 3 * 256  # two convolutions, two norms, a join; maps of 4 x 8 x 8
    second = 3 * (256 + 128) + 3 * (128 + 128) + 2 * 8 * 128 + 3 * 128  # maps of 8 x 4 x 4 from here
    third = 3 * (128 + 64) + 3 * (64 + 64) + 2 * 8 * 64 + 3 * 64
    head = 3 * (16 + 10)
    weights = sum(parameter.numel() for parameter in net.parameters())
    assert step_bytes(net, (3, 8, 8), 10, element=2) == 10 * 2 * (stem + first + second + third + head) + 32 * weights
    assert net.training


def test_the_limits_are_those_of_this_machine() -> None:
    limits = measure_limits(CPU, "fp32")
    assert 1e9 < limits["matmul_flops_per_s"] < 1e15
    assert 1e8 < limits["copy_bytes_per_s"] < 1e13


def test_our_loop_trains_and_splits_and_counts() -> None:
    cfg = config.load(TINY)
    loop = Ours(cfg, load_data(cfg), CPU)
    before = [weight.detach().clone() for weight in loop.state.net.parameters()]
    loop.steps(2)
    assert any(not torch.equal(*pair) for pair in zip(before, loop.state.net.parameters(), strict=True))
    assert loop.state.counts.sums[0, 2] == 2 * 32
    split = loop.split(2)
    assert tuple(split) == PHASES and all(seconds > 0 for seconds in split.values())
    assert loop.state.counts.sums[0, 2] == 4 * 32
    assert loop.costs()["flops_per_step"] == 6 * 32 * count_macs(loop.state.net, (3, 8, 8))


@pytest.mark.skipif(load_kernels() is None, reason="installed without a C compiler")
def test_the_phases_of_a_step_in_fp16_take_steps_of_the_usual_size() -> None:
    """The loss is scaled by 65,536, and the update must know it."""
    cfg = config.load([*TINY, "protocol.precision=fp16", "protocol.weight_decay=0"])
    loop = Ours(cfg, load_data(cfg), CPU)
    before = [weight.detach().clone() for weight in loop.state.net.parameters()]
    loop.split(2)
    moved = [float((w.detach() - b).abs().max()) for w, b in zip(loop.state.net.parameters(), before, strict=True)]
    assert 0 < max(moved) < 1


def test_the_fast_path_calls_fewer_operations() -> None:
    words = [word for word in TINY if "width" not in word] + ["model.width=8"]
    counts = []
    for fast in ("true", "false"):
        cfg = config.load([*words, f"fast={fast}"])
        counts.append(Ours(cfg, load_data(cfg), CPU).operations()["operations"])
    assert counts[0] < 0.6 * counts[1]


def test_the_usual_loop_learns_the_same_net() -> None:
    cfg = config.load([*TINY, "fast=true"])
    loop = Usual(cfg, load_data(cfg), CPU, workers=0)
    before = copy.deepcopy(loop.net.state_dict())
    ours = Ours(cfg, load_data(cfg), CPU).state.net.state_dict()
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in ours.items()}
    loop.steps(3)
    assert not any(torch.equal(before[name], value) for name, value in loop.net.named_parameters())
    inputs, _ = next(loop.batches)
    assert inputs.shape == (32, 3, 8, 8) and inputs.is_contiguous() and inputs.dtype == torch.float32
    assert isinstance(loop.optimizer, torch.optim.SGD)
    assert not any(getattr(module, "fast", False) for module in loop.net.modules())


@pytest.mark.slow
def test_a_bench_against_the_plain_loop_gives_a_ratio_and_a_chart(resexp: Resexp) -> None:
    result = resexp("bench", *TINY, "--against", "plain", "--rounds", "2", "--steps", "1", "--json", "bench.json")
    assert result.returncode == 0, result.stderr
    written = json.loads(Path("bench.json").read_text())["fp32"]
    assert written["ratio"] > 0 and written["reference"] == "resexp, fast=false"
    assert len(written["rounds"]["resexp"]) == 2 and set(written["split"]) == set(PHASES)
    assert written["peak_memory_bytes"] > 1e6 and 0 < written["share_of_matmul_rate"] < 10
    assert written["hardware"]["cores"] >= 1 and written["versions"]["torch"]
    assert "ms of a step" in result.stdout and "this machine's" in result.stdout
    assert list(Path("outputs/figures").glob("bench-*.png"))


@pytest.mark.slow
def test_two_precisions_stand_in_one_table_each_with_its_own_limit(resexp: Resexp) -> None:
    words = ["bench", *TINY, "--precision", "fp32,bf16", "--against", "plain", "--rounds", "1", "--steps", "1"]
    result = resexp(*words, "--json", "bench.json")
    assert result.returncode == 0, result.stderr
    written = json.loads(Path("bench.json").read_text())
    assert list(written) == ["fp32", "bf16"]
    fp32, bf16 = written.values()
    assert fp32["bytes_per_step"] > 1.5 * bf16["bytes_per_step"] and fp32["flops_per_step"] == bf16["flops_per_step"]
    assert bf16["ratio_to_first"] == pytest.approx(bf16["images_per_s"] / fp32["rounds"]["resexp, fast=false"][0])
    bound = [line.split()[0] for line in result.stdout.splitlines() if line.rstrip().endswith("yes")]
    assert bound == ["fp32", "bf16"]
    assert "bf16: peak memory" in result.stdout and "times the one in fp32" in result.stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--precision", "fp32,half"], "protocol.precision=half: choose from fp32, bf16, fp16"),
        (["--precision", "bf16", "--growth"], "--precision bf16: a table of both is of one net's training; drop it"),
    ],
)
def test_a_wrong_list_of_precisions_is_one_line(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *TINY, *words]) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.slow
def test_a_bench_that_cannot_write_says_so_in_one_line(resexp: Resexp) -> None:
    Path("file").write_text("not a folder")
    result = resexp("bench", *TINY, "--rounds", "1", "--steps", "1", "output_dir=file")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("resexp: error: cannot write file")


@pytest.mark.slow
def test_the_reference_is_the_fastest_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resexp.bench.measure.WORKERS", {"cpu": (0, 1), "cuda": (0,)})
    [result] = bench([config.load(TINY)], against="reference", rounds=1, steps=1)
    others = {name: rates[0] for name, rates in result["rounds"].items() if name != "resexp"}
    assert set(others) == {"reference, 0 workers", "reference, 1 workers"}
    assert result["reference"] == max(others, key=others.__getitem__)
    assert result["ratio"] == pytest.approx(result["images_per_s"] / max(others.values()))


@pytest.mark.slow
def test_growth_measures_every_point_and_continues_past_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "resexp.bench.measure.AXES",
        {
            "batch": [(4, ["protocol.batch_size=4"], 1), (8, ["protocol.batch_size=8"], 1)],
            "runs side by side": [(2, ["threads=1"], 2)],
            "depth": [(20, ["device=cuda:77"], 1)],
        },
    )
    result = growth(["model=plain8", "model.width=2", "dataset.image_size=8"], steps=1)
    assert [point["value"] for point in result["axes"]["batch"]] == [4, 8]
    assert all(point["images_per_s"] > 0 for point in result["axes"]["batch"])
    assert result["axes"]["runs side by side"][0]["peak_memory_bytes"] > 1e6
    assert "this machine has" in result["axes"]["depth"][0]["failed"]


@pytest.mark.slow
def test_a_study_is_projected_from_the_measured_speed_of_its_nets() -> None:
    words = [
        "dataset=synthetic",
        "dataset.examples=64",
        "dataset.image_size=8",
        "protocol.batch_size=8",
        "protocol=he2015-cifar",
        "protocol.val_size=0",
        "model=plain8,resnet8",
        "model.width=4",
    ]
    command = [sys.executable, str(Path(__file__).parent.parent / "scripts" / "project_study.py"), "he2015-fig6"]
    options = ["--steps", "1", "--side-by-side", "2", "--json", "projection.json"]
    result = subprocess.run([*command, *words, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    written = json.loads(Path("projection.json").read_text())
    assert [net["net"] for net in written["nets"]] == ["plain8", "resnet8"]
    total = sum(net["steps"] * 8 / net["images_per_s"] for net in written["nets"])
    assert written["seconds_one_after_another"] == pytest.approx(total)
    assert written["seconds_side_by_side"] == pytest.approx(total / max(1.0, written["gain"]))
    bad = subprocess.run([*command, "model=plain9"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_ways_to_read_images_are_measured_side_by_side(resexp: Resexp, make_tree: Callable[..., Path]) -> None:
    tree = make_tree({part: {"n1": 40, "n2": 40} for part in ("train", "val")}, side=20)
    words = ["dataset=imagenet", f"dataset.root={tree}", "dataset.image_size=16", "protocol.batch_size=32"]
    result = resexp("bench", "--images", "--rounds", "1", "--steps", "2", "--json", "found.json", *words)
    assert result.returncode == 0 and "second start" in result.stdout, result.stderr
    found = json.loads(Path("found.json").read_text())
    assert found["images"] == 160 and found["pack_bytes"] > 160 * 3 * 20 * 20
    assert {"crops from the pack", "streamed crops, 1 workers"} <= set(found["images_per_s"])
    assert not list(Path("cache").glob("tmp*"))
    other = resexp("bench", "--images", "dataset=digits")
    assert other.returncode == 2 and "this is for those of dataset=imagenet" in other.stderr
    usual = resexp("bench", "--against", "reference", *words)
    assert usual.returncode == 2 and "the usual loop takes decoded images" in usual.stderr
