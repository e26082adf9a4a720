"""What a run will need is estimated well enough to admit it to a machine."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from resexp import config
from resexp.bench.measure import GROWTH_BASE
from resexp.models.families import FAMILIES
from resexp.sweep.plan import Job, Sweep, available_bytes, needed_bytes


def load(*words: str) -> config.Config:
    return config.load(["dataset=cifar10", *words])


def test_resnet1202_needs_more_than_most_machines_have_and_a_tenth_of_it_with_recomputation() -> None:
    assert needed_bytes(load("model=resnet1202")) > 10e9
    assert needed_bytes(load("model=resnet1202", "activation_checkpointing=true")) < 4e9


def test_the_estimate_grows_with_depth_batch_and_side_and_halves_with_bf16() -> None:
    base = needed_bytes(load("model=resnet20"))
    assert base < needed_bytes(load("model=resnet56")) < needed_bytes(load("model=resnet110"))
    assert base < needed_bytes(load("model=resnet20", "protocol.batch_size=1024"))
    synthetic = ["dataset=synthetic", "model=resnet20"]
    small, large = (needed_bytes(config.load([*synthetic, f"dataset.image_size={side}"])) for side in (8, 224))
    assert large > 10 * small
    assert needed_bytes(load("model=resnet110", "protocol.precision=bf16")) < needed_bytes(load("model=resnet110"))


def test_the_estimate_knows_the_patches_and_the_pooling_of_a_net() -> None:
    def floats(*words: str) -> float:
        cfg = config.load(["dataset=synthetic", *words])
        return FAMILIES[cfg.model.family].floats(dataclasses.asdict(cfg.model), cfg.dataset.image_size or 8, False)

    small, large = (
        floats("model=transformer4", "dataset.image_size=64"),
        floats("model=transformer4", "dataset.image_size=224"),
    )
    assert large == pytest.approx(small * (224 // 16) ** 2 / 8**2)
    unpooled, pooled = (floats("model=vgg_a", "dataset.image_size=32", f"model.pools={pools}") for pools in (0, 5))
    assert unpooled > 5 * pooled


def test_a_run_that_does_not_fit_waits_and_a_smaller_one_goes_first() -> None:
    jobs = [Job([], load(f"model={name}")) for name in ("resnet110", "resnet1202", "resnet20")]
    sweep = Sweep(jobs, workers=3, memory=5_000_000_000)
    assert sweep.next_job() is jobs[0]
    jobs[0].outcome = "running"
    assert sweep.next_job() is jobs[2]  # resnet1202 does not fit beside resnet110
    jobs[2].outcome = "running"
    assert sweep.next_job() is None
    jobs[0].outcome = jobs[2].outcome = "finished"
    assert sweep.next_job() is jobs[1]  # alone it may try
    jobs[1].outcome = "waiting"
    sweep.memory = None
    jobs[0].outcome = "running"
    assert sweep.next_job() is jobs[1]  # nothing known, nothing refused


def test_free_memory_is_asked_of_the_machine_or_of_the_gpus_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < (available_bytes("cpu") or 0) <= total
    asked: list[list[str]] = []

    def driver(command: list[str], **_options: object) -> subprocess.CompletedProcess:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="81000\n")

    monkeypatch.setattr(subprocess, "run", driver)
    assert available_bytes("cuda:1") == 81_000 * 2**20
    assert asked[0][0] == "nvidia-smi" and "--id=1" in asked[0]
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert available_bytes("cuda") is None


def test_the_estimate_is_near_the_peaks_that_were_measured() -> None:
    """outputs/reference/figures/growth.json: 20 points from 0.6 to 8 GB on a CPU."""
    reference = Path(__file__).parent.parent / "outputs" / "reference" / "figures" / "growth.json"
    axes = json.loads(reference.read_text())["axes"]
    points = [point for points in axes.values() for point in points]
    assert len(points) == 20
    for point in points:
        words = {word.partition("=")[0]: word for word in (*GROWTH_BASE, *point["settings"])}
        estimate = needed_bytes(config.load(list(words.values())))
        assert 0.95 < estimate / point["peak_memory_bytes"] < 1.4, point
