"""What a run says of where it ran."""

import subprocess
from pathlib import Path

import pytest

from resexp.run.env import write_env
from resexp.run.reader import Run

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_run_of_a_checkout_names_its_commit(tmp_path: Path) -> None:
    write_env(tmp_path, step=0, device="cpu", threads=1, fast_paths=[])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Run(tmp_path).env["git_commit"].removesuffix("+") == head.stdout.strip()
