"""What a run survives, at any of its file operations: a disk that fails, a kill, a power cut (make test-faults)."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from faults import ERRORS, KILLED, KINDS, Disk, train_on
from helpers import TINY, differences, end_state

from resexp import config

POINTS = int(os.environ.get("FAULT_POINTS", "60"))  # of each kind, spread over all operations
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
