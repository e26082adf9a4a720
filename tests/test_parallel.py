"""One run in two processes: the same as in one, and what happens when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TINY

from resexp import UserError, config
from resexp.models.build import build_model
from resexp.models.norm_relu import BatchNorm, set_statistics
from resexp.parallel import World, check_shares
from resexp.run.reader import CHECKPOINT, ENV, Run

SCRIPT = Path(__file__).parent / "two_processes.py"
WORDS = [
    "dataset=synthetic",
    "model=resnet8",
    "model.width=8",
    "protocol.batch_size=32",
    "protocol.lr=0.05",
    "protocol.steps=10",
    "fast=false",
]


def torchrun(*words: str, processes: int = 2) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]


def steps_in(processes: int, *words: str) -> dict:
    out = Path(f"{processes}-{len(list(Path().iterdir()))}.pt")
    command = [sys.executable] if processes == 1 else torchrun(processes=processes)
    subprocess.run([*command, str(SCRIPT), str(out), *WORDS, *words], check=True, capture_output=True, timeout=300)
    return torch.load(out, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["protocol.norm_group=16"], [], ["protocol.norm_group=8"]],
    ids=["groups-of-a-process", "synchronised", "groups-within-a-process"],
)
def test_two_processes_take_the_steps_of_one(words: list[str]) -> None:
    """Gradients, then ten steps, in float64 to 1e-9; batch norm over groups of images, or over the whole batch."""
    one, two = steps_in(1, *words), steps_in(2, *words)
    assert two["seen"] == one["seen"]  # the same images in the same order, each once
    assert torch.equal(two["batch"][1:3], one["batch"][1:3]) and abs(float(two["batch"][0] - one["batch"][0])) < 1e-9
    for ours, theirs in zip(two["gradients"], one["gradients"], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert any(not torch.equal(a, b) for a, b in zip(two["gradients"], one["gradients"], strict=True))  # not a copy
    for name, value in one["net"].items():
        assert torch.allclose(two["net"][name], value, rtol=1e-9, atol=1e-9), name
    assert two["evaluation"] == pytest.approx(one["evaluation"], rel=1e-5)


def test_grouped_batch_norm_is_that_of_each_group_and_its_running_statistics_their_mean() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 8, 5, 5) * 3 + 1
    grouped, plain = BatchNorm(8), BatchNorm(8)
    set_statistics(grouped, group=4, synced=False)
    norms = [BatchNorm(8) for _ in range(3)]
    expected = torch.cat([norm(part) for norm, part in zip(norms, x.split(4), strict=True)])
    assert torch.allclose(grouped(x), expected, atol=1e-6)
    assert not torch.allclose(plain(x), expected, atol=1e-3)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(norm, name) for norm in norms]).mean(dim=0)
        assert torch.allclose(getattr(grouped, name), mean, atol=1e-6), name
    assert grouped.num_batches_tracked == 1 and grouped.momentum == 0.1
    assert torch.allclose(grouped.relu(x, x), torch.relu(expected + x), atol=1e-5)


def test_every_batch_norm_of_every_family_knows_groups() -> None:
    for name in ("resnet", "preresnet", "highway", "resnext", "densenet", "googlenet"):
        depth = {"resnext": 29, "densenet": 40, "googlenet": 22}.get(name, 8)
        knobs = {"shortcut": "C"} if name == "resnet" else {}
        net = build_model(family=name, depth=depth, **knobs)
        norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms and all(isinstance(norm, BatchNorm) for norm in norms), name


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_cover_every_image_once_at_any_number_of_processes(size: int) -> None:
    drawn, images = torch.arange(24), list(range(37))
    worlds = [World(rank, size, rank) for rank in range(size)]
    assert torch.equal(torch.cat([world.share(drawn) for world in worlds]), drawn)
    assert sorted(image for world in worlds for image in images[world.evaluated()]) == images


@pytest.mark.parametrize(
    ("size", "batch", "group", "message"),
    [
        (3, 32, None, "protocol.batch_size=32: 3 processes cannot share it evenly"),
        (4, 32, 16, "protocol.norm_group=16: 4 processes have 8 images each"),
        (32, 32, None, "protocol.batch_size=32: 32 processes leave one image to each"),
    ],
)
def test_shares_that_do_not_fit_are_named(size: int, batch: int, group: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_shares(size, batch, group)


@pytest.mark.slow
def test_only_one_process_writes_and_any_number_can_resume(tmp_path: Path) -> None:
    """Two processes, killed by a time box; one resumes; the same numbers as one alone, up to rounding."""
    words = [*TINY, "protocol.norm_group=16", "protocol.steps=24"]
    alone = subprocess.run([sys.executable, "-m", "resexp", "train", *words, "output_dir=alone"], capture_output=True)
    assert alone.returncode == 0, alone.stderr
    first = subprocess.run(
        torchrun("-m", "resexp", "train", *words, "max_minutes=0.0001"), capture_output=True, text=True, timeout=120
    )
    run = Run(config.load(words).run_dir)
    assert first.returncode == 0 and run.status == "interrupted" and run.env["world_size"] == 2, first.stderr
    assert first.stdout.count("interrupted at step") == 1 and first.stderr.count("starting at step") == 1
    second = subprocess.run([sys.executable, "-m", "resexp", "train", *words], capture_output=True, text=True)
    assert second.returncode == 0 and "resuming at step" in second.stderr, second.stderr
    run = Run(run.path)
    whole = Run(config.load([*words, "output_dir=alone"]).run_dir)
    assert run.env["resumed"][0]["world_size"] == 1 and run.status == "finished"
    ours, theirs = ([record["loss"] for record in r.metrics if record["split"] == "train"] for r in (run, whole))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert [r["step"] for r in run.metrics] == [r["step"] for r in whole.metrics]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_resumes_from_the_checkpoint() -> None:
    words = [
        *TINY,
        "protocol.norm_group=16",
        "protocol.steps=3000",
        "protocol.save_seconds=0.2",
        "protocol.eval_every=1000",
        "protocol.log_every=100",
    ]
    folder = config.load(words).run_dir
    process = subprocess.Popen(
        torchrun("-m", "resexp", "train", *words), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 60
    while not (folder / CHECKPOINT).is_file() or Run(folder).step < 200:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode != 0
    line = next(line for line in errors.splitlines() if "lost another one" in line)
    assert "resumes from the checkpoint of step" in line and "process 0 of 2" in line
    assert Run(folder).status == "failed"
    resumed = subprocess.run(torchrun("-m", "resexp", "train", *words), capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0 and "resuming at step" in resumed.stderr, resumed.stderr
    assert Run(folder).status == "finished" and json.loads((folder / ENV).read_text())["resumed"][0]["step"] > 0


def rank_of(parent: int, rank: int) -> int:
    """The process id of a rank below torchrun."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            environ = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status[1]) == parent and f"RANK={rank}".encode() in environ:
            return int(entry.name)
    raise AssertionError(f"no rank {rank} below {parent}")


@pytest.mark.slow
def test_a_port_in_use_and_a_batch_that_cannot_be_shared_are_one_line(resexp: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        where = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        taken = resexp("train", *TINY, env={**os.environ, **where})
    assert taken.returncode == 2 and "the port is in use" in taken.stderr, taken.stderr
    assert "Traceback" not in taken.stderr
    odd = resexp("train", *TINY, env={**os.environ, **where, "WORLD_SIZE": "3"})
    assert odd.returncode == 2 and odd.stderr.count("\n") == 1 and "3 processes cannot share" in odd.stderr


@pytest.mark.slow
def test_processes_drop_the_same_blocks() -> None:
    """Their batch norms share statistics: a block that one of them left out would leave the others waiting."""
    words = ["model=resnet8", "model.width=4", "model.survival=0.5", "protocol.steps=40", "protocol.batch_size=16"]
    words += ["protocol.lr_drops=[]", "device=cpu", "threads=1", "tensorboard=false"]
    command = torchrun("-m", "resexp", "train", *words)
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "finished at step 40" in result.stdout
