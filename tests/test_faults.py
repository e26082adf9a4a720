"""What a run survives, at any of its file operations: a disk that fails, a kill, a power cut (make test-faults)."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import ERRORS, KILLED, KINDS, Disk, train_on
from helpers import TINY, differences, end_state

from resexp import UserError, config
from resexp.cli import main
from resexp.run.reader import read_run

POINTS = int(os.environ.get("FAULT_POINTS", "60"))  # of each kind, spread over all operations
NAMES = {
    "kill": "SIGKILL",
    "short": "a write cut short, then an error",
    "torn": "a write cut short, then a kill",
    "lost": "power cut: all that was not synced is lost",
}
WORDS = [*TINY, "protocol.save_seconds=0", "threads=1", "device=cpu"]


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_operation_loses_nothing(kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)  # a forked process has no other threads
    whole = [*WORDS, f"output_dir={tmp_path}/whole"]
    code, operations = train_on(Disk(tmp_path / "whole"), whole, tmp_path / "said")
    assert code == 0 and operations > POINTS, (tmp_path / "said").read_text()
    expected = end_state(config.load(whole).run_dir)
    words = [*WORDS, f"output_dir={tmp_path}/faulty"]
    folder = config.load(words).run_dir
    for point in range(POINTS):
        at = 1 + point * (operations - 1) // (POINTS - 1)
        shutil.rmtree(tmp_path / "faulty", ignore_errors=True)
        code, _ = train_on(Disk(tmp_path / "faulty", kind, at), words, tmp_path / "said")
        said = (tmp_path / "said").read_text()
        assert "Traceback" not in said, f"{kind} at operation {at} of {operations}: {said}"
        if kind in (*ERRORS, "short"):
            assert code in (0, 2), f"{kind} at {at}: exit code {code}: {said}"
        else:
            assert code == KILLED
        code, _ = train_on(Disk(tmp_path / "faulty"), words, tmp_path / "said")
        said = (tmp_path / "said").read_text()
        assert code == 0 and "Traceback" not in said, f"after {kind} at {at}: {said}"
        assert differences(end_state(folder), expected) == [], f"after {kind} at operation {at} of {operations}"
    report(
        NAMES.get(kind, kind), POINTS, f"bit-identical after a repeat, at points spread over {operations} operations"
    )


IMAGES = {  # whose first reading leaves a file behind, below the folder of the faulty disk
    "pack": ["dataset=imagenet", "protocol=tiny-imagenet", "protocol.scales=[]", "dataset.image_size=8"],
    "cache": ["dataset=imagefolder", "dataset.name=birds"],
}


@pytest.mark.faults
@pytest.mark.parametrize("kept", IMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_while_images_are_packed_or_cached_loses_nothing(
    kind: str, kept: str, tmp_path: Path, make_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    tree = make_tree({"train": {"cat": 9, "dog": 9}, "val": {"cat": 3, "dog": 3}})
    small = ["model=resnet8", "model.width=4", "protocol.steps=2", "protocol.batch_size=6", "tensorboard=false"]
    own = ["protocol.val_size=0", "device=cpu", "threads=1", f"dataset.root={tree}"]
    words = [*IMAGES[kept], *small, *own, f"output_dir={tmp_path}/faulty/out"]
    folder = config.load(words).run_dir
    monkeypatch.setenv("RESEXP_CACHE", str(tmp_path / "faulty" / "cache"))
    code, operations = train_on(Disk(tmp_path / "faulty" / "cache"), words, tmp_path / "said")
    assert code == 0 and operations > 3, (tmp_path / "said").read_text()
    expected, points = end_state(folder), min(operations, max(3, POINTS // 3))
    for point in range(points):
        at = 1 + point * (operations - 1) // (points - 1)
        shutil.rmtree(tmp_path / "faulty")
        for disk in (Disk(tmp_path / "faulty" / "cache", kind, at), Disk(tmp_path / "faulty" / "cache")):
            code, _ = train_on(disk, words, tmp_path / "said")
            said = (tmp_path / "said").read_text()
            assert "Traceback" not in said and code in (0, 2, KILLED), f"{kind} at {at} of {operations}: {said}"
        assert code == 0, f"after {kind} at {at}: {said}"
        assert differences(end_state(folder), expected) == [], f"after {kind} at {at} of {operations}"
    what = f"{NAMES.get(kind, kind)}, while the images are {'packed' if kept == 'pack' else 'cached'}"
    report(what, points, f"bit-identical after a repeat, at points spread over {operations} operations")


FLIPS = 5 * POINTS // 6
OF_A_RUN = ("config.yaml", "env.json", "metrics.jsonl", "summary.json", "checkpoint.pt")


@pytest.mark.faults
@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_flipped_bit_is_noticed_or_harmless(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On resume, and, but for the checkpoint, when a finished run is read."""
    whole = [*WORDS, "protocol.log_every=1", f"output_dir={tmp_path}/whole"]
    assert main(["train", *whole]) == 0
    expected = end_state(config.load(whole).run_dir)
    words = [*WORDS, "protocol.log_every=1", f"output_dir={tmp_path}/flipped"]
    folder = config.load(words).run_dir
    assert main(["train", *words, "max_minutes=0.00001"]) == 0
    partial = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    finished = (config.load(whole).run_dir / name).read_bytes()
    random = np.random.default_rng(0)
    noticed = 0
    for _ in range(FLIPS):
        shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for other, content in partial.items():
            (folder / other).write_bytes(flip(content, random) if other == name else content)
        capsys.readouterr()
        code = main(["train", *words])
        said = capsys.readouterr().err
        assert "Traceback" not in said and (code == 0 or (code == 2 and name in said.splitlines()[-1])), said
        noticed += code == 2
        assert code == 2 or differences(end_state(folder), expected) == []
        if name != "checkpoint.pt":
            (config.load(whole).run_dir / name).write_bytes(flip(finished, random))
            with pytest.raises(UserError, match=name):
                read_run(config.load(whole).run_dir)
    read = "" if name == "checkpoint.pt" else f"; {FLIPS} noticed when a finished run is read"
    report(f"bit flips in {name}", FLIPS, f"{noticed} noticed on resume, the others without effect{read}")


def flip(content: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[random.integers(len(changed))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def report(what: str, tried: int, outcome: str) -> None:
    """For docs/reliability.md: FAULT_REPORT names a file of JSON lines."""
    if path := os.environ.get("FAULT_REPORT"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"fault": what, "tried": tried, "outcome": outcome}) + "\n")
