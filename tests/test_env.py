"""Where a run runs: what it says of it, and that it needs nothing that Linux alone has."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, differences, end_state

from resexp import config, system
from resexp.builder import build_state, load_data
from resexp.cli import main
from resexp.evaluate import evaluate
from resexp.run.env import write_env
from resexp.run.reader import Run
from resexp.training import train_step

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_run_of_a_checkout_names_its_commit(tmp_path: Path) -> None:
    write_env(tmp_path, step=0, device="cpu", threads=1, fast_paths=[])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Run(tmp_path).env["git_commit"].removesuffix("+") == head.stdout.strip()


# Imported by every Python that finds it on its path: what macOS and Windows do not have is gone.
WITHOUT_LINUX = """
import multiprocessing, os, pathlib, signal
for name in ("sched_getaffinity", "sched_setaffinity", "getuid", "getpgid"):
    vars(os).pop(name, None)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
    vars(signal).pop(name, None)
import psutil
del psutil.Process.cpu_affinity
real = pathlib.Path.read_text, pathlib.Path.is_file, pathlib.Path.exists
def is_hidden(path): return str(path).startswith(("/proc", "/dev/nvidia", "/sys"))
def read_text(self, *more, **settings):
    if is_hidden(self):
        raise FileNotFoundError(str(self))
    return real[0](self, *more, **settings)
pathlib.Path.read_text = read_text
pathlib.Path.is_file = lambda self: not is_hidden(self) and real[1](self)
pathlib.Path.exists = lambda self: not is_hidden(self) and real[2](self)
multiprocessing.set_start_method("spawn", force=True)
"""


@pytest.mark.slow
def test_a_run_its_resumption_a_sweep_and_a_study_need_nothing_that_linux_alone_has() -> None:
    Path("path").mkdir()
    (Path("path") / "sitecustomize.py").write_text(WITHOUT_LINUX)
    env = {**os.environ, "PYTHONPATH": "path", "PYTHONIOENCODING": "ascii"}  # nor a console of UTF-8

    def resexp(*words: str) -> str:
        command = [sys.executable, "-m", "resexp", *words]
        result = subprocess.run(command, capture_output=True, text=True, env=env)
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        return result.stdout + result.stderr

    whole, parts = [*TINY, "output_dir=whole"], [*TINY, "output_dir='ä parts (1)'"]
    assert "finished at step 12" in resexp("train", *whole)
    assert "interrupted at step 1" in resexp("train", *parts, "max_minutes=0.00001")
    assert "resuming at step 1 of 12" in resexp("train", *parts)
    folders = [config.load(words).run_dir for words in (whole, parts)]
    assert differences(*map(end_state, folders)) == []
    summary = Run(folders[0]).summary
    assert summary["peak_memory_bytes"] > 50_000_000 and Run(folders[0]).env["hardware"]["cores"] >= 1
    sweep = [word for word in TINY if not word.startswith("model=")]
    assert "2 runs; 2 side by side" in resexp("sweep", *sweep, "depth=8", "workers=2", "output_dir=sweep")
    (Path("committed") / "reference").mkdir(parents=True)  # apart from what a demo may have left in outputs/runs
    shutil.copy(ROOT / "outputs" / "reference" / "degradation.jsonl", Path("committed") / "reference")
    assert resexp("verify", "degradation", "output_dir=committed").count("holds") > 5


def test_text_files_say_their_encoding_and_linux_has_one_place() -> None:
    """Elsewhere the default is another one; and what differs between systems is asked of system.py alone."""
    alone = re.compile(r"fcntl|sched_getaffinity|/proc/|os\.getuid|getrusage|signal\.SIG(HUP|USR\d)\b|os\.fork|meminfo")
    cluster = {"slurm.py"}  # which is there on Linux alone
    for path in (ROOT / "resexp").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in {"system.py", *cluster}:
            assert not alone.search(text), f"{path}: {alone.search(text)}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else function.id
                of = function.value if isinstance(function, ast.Attribute) else None
                given = {keyword.arg for keyword in node.keywords}
                mode = next(
                    (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), "r"
                )
                texts = (of is not None and name in ("read_text", "write_text")) or (name == "open" and "b" not in mode)
                module = isinstance(of, ast.Name) and of.id in ("os", "Image", "webbrowser")
                if texts and not module and set(mode) <= set("rwax+"):
                    assert "encoding" in given, f"{path}:{node.lineno}"


def test_counters_of_float32_count_what_those_of_float64_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an Apple GPU has them, which has no float64."""
    cfg = config.load([*TINY, "device=cpu"])
    data = load_data(cfg)
    found = []
    for dtype in (torch.float64, torch.float32):
        monkeypatch.setattr("resexp.meter.counter_type", lambda device, dtype=dtype: dtype)
        monkeypatch.setattr("resexp.evaluate.counter_type", lambda device, dtype=dtype: dtype)
        state = build_state(cfg, data, torch.device("cpu"))
        assert state.counts.sums.dtype == dtype
        state.optimizer.lr = 0.1
        for step in range(1, 20):
            train_step(state, *next(state.batches))
            state.counts.close_epoch(step)
        window = state.counts.read(19)
        tested = evaluate(state.net, data.test, state.batches.normalization, precision="fp32")
        found.append((*window, state.counts.train_error(), *tested))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_gpu_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    assert main(["train", *TINY, "device=mps"]) == 2
    assert "device=mps: this machine has no Apple GPU that torch can use; take device=cpu" in capsys.readouterr().err


def test_windows_asks_a_process_to_stop_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "WINDOWS", True)
    monkeypatch.setattr(system.signal, "CTRL_BREAK_EVENT", 1, raising=False)
    monkeypatch.setattr(system.subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    sent: list[int] = []

    class Process:
        def send_signal(self, number: int) -> None:
            sent.append(number)

    system.ask_to_stop(Process(), 15)  # type: ignore[arg-type]
    assert sent == [1] and system.own_group() == {"creationflags": 512}
    assert system.signal_numbers("SIGINT", "SIGNOTHING") == (2,)
