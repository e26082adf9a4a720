"""What tests share: a tiny run's settings, runs without training, and what must be equal of two runs."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from resexp import checkpoint, config
from resexp.run.reader import CHECKPOINT, CONFIG, ENV, METRICS, SUMMARY, Run
from resexp.run.store import keep_runs

TINY = [
    "dataset=synthetic",
    "model=resnet8",
    "model.width=4",
    "protocol.steps=12",
    "protocol.batch_size=32",
    "protocol.eval_every=4",
    "protocol.log_every=3",
    "protocol.lr_drops=[6]",
    "tensorboard=false",
]


def write_run(root: Path, words: list[str], *, status: str = "finished", **numbers: float) -> Run:
    """A run folder as training leaves it, without the training."""
    cfg = config.load(words)
    folder = root / cfg.run_name
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(config.to_yaml(cfg))
    views = {"ten_crop_error": 1.5} if cfg.protocol.final_view == "ten-crop" else {}
    summary = {**views, "status": status, "step": cfg.protocol.steps, "train_error": 1.0, "test_error": 2.0, **numbers}
    (folder / SUMMARY).write_text(json.dumps(summary))
    (folder / ENV).write_text(json.dumps({"hardware": {"cpu": "a test"}}))
    lines = [
        {"step": step, "epoch": 0, "split": split, "loss": 1, "error": error, "lr": 0.1, "images_per_s": 100}
        for step in (10, 20)
        for split, error in (("train", summary["train_error"]), ("test", summary["test_error"]))
    ]
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(folder)


def write_reference(output_dir: Path, study: str, words: list[str], **numbers: float) -> Run:
    """A run as the line of a study's file of reference runs."""
    run = write_run(output_dir / "made", words, **numbers)  # type: ignore[arg-type]
    keep_runs([run], output_dir / "reference" / f"{study}.jsonl")
    return run


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 90) -> None:
    """Until it is ready; a process that ends before, or so long a time, is a failure."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process is None or process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def end_state(folder: Path) -> dict:
    """All that must be equal at the end of a run: the checkpoint and the log, but for times."""
    saved = checkpoint.load(folder / CHECKPOINT)
    for key in ("watch", "log_size", "log_crc32"):
        saved.pop(key, None)
    log = [{key: value for key, value in record.items() if key != "images_per_s"} for record in Run(folder).metrics]
    return {**saved, "log": log}


def differences(a: object, b: object, where: str = "") -> list[str]:
    """The paths at which two nested values differ, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys(), key=str)
        return [path for key in keys for path in differences(a.get(key), b.get(key), f"{where}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [path for index, (x, y) in pairs for path in differences(x, y, f"{where}/{index}")]
    return [] if a == b else [where]
