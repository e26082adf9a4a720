"""The log of a run: ``metrics.jsonl``, and beside it what TensorBoard and Weights & Biases read."""

import contextlib
import json
import os
import zlib
from pathlib import Path

from resexp import UserError
from resexp.run.reader import EVENTS, METRICS, Run
from resexp.run.tensorboard import TensorBoardEvents
from resexp.run.wandb import WandbRun


class MetricsLog:
    """Appends to ``metrics.jsonl``, and writes what other programs read where that is wanted.

    :param size: bytes of the log that belong to the resumed checkpoint; what a killed run wrote past them is cut off.
    :param crc32: the checksum of these bytes; None: unknown.
    :param step: the step at which this process starts; TensorBoard hides what an earlier one wrote past it.
    """

    def __init__(
        self, run_dir: Path, *, size: int, crc32: int | None, step: int, tensorboard: bool, wandb: bool
    ) -> None:
        path = run_dir / METRICS
        path.touch()
        if path.stat().st_size < size:
            raise UserError(f"{path}: shorter than its checkpoint says; remove {run_dir} to start the run again")
        os.truncate(path, size)
        if crc32 is not None and zlib.crc32(path.read_bytes()) != crc32:
            raise UserError(f"{path}: damaged since its checkpoint; restore it, or remove {run_dir} to start again")
        self.path = path
        self.file = path.open("a", encoding="utf-8", newline="\n")  # the same bytes on every system
        self.others: list[TensorBoardEvents | WandbRun] = []
        if tensorboard:
            self.others.append(TensorBoardEvents(Run(run_dir), run_dir / EVENTS, step=step))
        if wandb:
            self.others.append(WandbRun(Run(run_dir), run_dir))

    def write(
        self, *, step: int, epoch: float, split: str, loss: float, error: float, lr: float, images_per_s: float
    ) -> None:
        """One line. ``split`` is train, val or test; ``error`` in percent; ``lr`` that of the last update."""
        values = {"loss": loss, "error": error, "lr": lr, "images_per_s": round(images_per_s, 1)}
        self.file.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **values}) + "\n")
        self.file.flush()
        for other in self.others:
            other.write(split, values, step=step)

    def size(self) -> int:
        """Bytes written so far, on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def crc32(self) -> int:
        """Of what has been written so far."""
        self.file.flush()
        return zlib.crc32(self.path.read_bytes())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported by the write that met it
            self.file.close()
        for other in self.others:
            with contextlib.suppress(OSError):
                other.close()
