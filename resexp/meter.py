"""What is measured while a net trains: errors and losses on the device, time, and what is due after a step."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resexp.config import ProtocolConfig
from resexp.parallel import World
from resexp.runtime import Stop, counter_type, synchronize

LOSS, WRONG, SEEN, FINITE = range(4)  # columns of the counts: sums over images, and batches with a finite loss
WINDOW, PLATEAU, EPOCH = range(3)  # rows: since the last log line, the last window of a plateau, the last epoch


class Diverged(Exception):
    """The loss, or a weight, was not finite after ``step``."""

    def __init__(self, step: int) -> None:
        super().__init__(f"not finite at step {step}")
        self.step = step


class Window(NamedTuple):
    """Means over the images since the last log line: loss, and error in percent."""

    loss: float
    error: float


class Counts:
    """Losses and errors, summed on the device, so that a step never waits for it.

    :param size: training images; the training error of a run is that of its last full epoch.
    """

    def __init__(self, device: torch.device, *, batch_size: int, size: int, world: World) -> None:
        self.batch_size, self.size, self.world = batch_size, size, world
        self.dtype = counter_type(device)
        self.batch = torch.zeros(4, dtype=self.dtype, device=device)
        self.sums = torch.zeros(3, 4, dtype=self.dtype, device=device)
        self.last_epoch = torch.zeros(4, dtype=self.dtype, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: its mean loss, its logits (N, classes), its labels (N,)."""
        wrong = (logits.argmax(dim=1) != labels).sum()
        count = torch.full((), len(labels), dtype=self.dtype, device=labels.device)
        share = len(labels) / self.batch_size  # of the whole batch, so that any number of processes can go on counting
        parts = (loss.to(self.dtype) * count, wrong, count, loss.isfinite() * share)
        self.batch = torch.stack([part.to(self.dtype) for part in parts])
        self.sums.add_(self.batch)

    def close_epoch(self, step: int) -> None:
        """Keep the counts of an epoch that ended with this step."""
        if step * self.batch_size // self.size > (step - 1) * self.batch_size // self.size:
            self.last_epoch.copy_(self.sums[EPOCH])
            self.sums[EPOCH].zero_()

    def read(self, step: int) -> Window:
        """The means since the last log line. Waits for the device. Raises Diverged."""
        sums = self.world.sum(self.sums[WINDOW]).tolist()
        batches = round(sums[SEEN] / self.batch_size)
        finite = int(sums[FINITE] + 1e-3)  # thirds of a batch come to a little less than one
        if batches > finite:
            raise Diverged(step - batches + finite + 1)
        return Window(sums[LOSS] / sums[SEEN], 100 * sums[WRONG] / sums[SEEN])

    def open_window(self) -> None:
        """Begin the next window of the log."""
        self.sums[WINDOW].zero_()

    def batch_error(self) -> float:
        """Error of the last batch, in percent. Waits for the device."""
        return 100 * float(self.world.sum(self.batch)[WRONG]) / self.batch_size

    def plateau_error(self) -> float:
        """Error since the last call, in percent. Waits for the device."""
        sums = self.world.sum(self.sums[PLATEAU]).tolist()
        self.sums[PLATEAU].zero_()
        return 100 * sums[WRONG] / sums[SEEN]

    def train_error(self) -> float | None:
        """Error of the last full epoch, or of the first, unfinished one, in percent; None before the first step."""
        full, current = self.world.sum(torch.stack((self.last_epoch, self.sums[EPOCH])))
        sums = full if full[SEEN] else current
        return 100 * float(sums[WRONG] / sums[SEEN]) if sums[SEEN] else None

    def state_dict(self) -> dict[str, Tensor]:
        """Summed over all processes."""
        return {"sums": self.world.sum(self.sums), "last_epoch": self.world.sum(self.last_epoch)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rank 0 takes the sums over, the others begin at zero, whatever the number of processes was."""
        if self.world.is_first:
            self.sums.copy_(state["sums"])
            self.last_epoch.copy_(state["last_epoch"])


class Stopwatch:
    """Time spent training, without evaluations and checkpoints; it waits for the device before it stops."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.train_seconds = 0.0  # of this run, over all its processes
        self.earlier_seconds = 0.0  # of processes before this one, all they did
        self.lap = 0.0
        self.images = 0
        self.started = self.began = time.perf_counter()

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self) -> None:
        synchronize(self.device)
        passed = time.perf_counter() - self.began
        self.lap += passed
        self.train_seconds += passed

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()

    @property
    def seconds(self) -> float:
        """All time since the start of the run, evaluations and checkpoints included."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def rate(self) -> float:
        """Images/s of this lap."""
        return self.images / self.lap

    def next_lap(self) -> None:
        self.images, self.lap = 0, 0.0

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds, "train_seconds": self.train_seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.earlier_seconds, self.train_seconds = state["seconds"], state["train_seconds"]


@dataclass(frozen=True)
class Due:
    """What is to be done after a step."""

    log: bool
    evaluate: bool
    save: bool
    show: bool
    stop: bool

    def __bool__(self) -> bool:
        return self.log or self.evaluate or self.save or self.show or self.stop


class Clock:
    """Decides what is due after a step, with one answer on every rank.

    Steps decide when to log and to evaluate. Clocks and signals, which differ between processes, decide when to save,
    to show progress and to stop. All ranks agree on these about every ``AGREE_SECONDS``, at a step that they know in
    advance, so that the steps in between need no collective for it.

    :param stop: the signal that asked this process to stop, if one did.
    :param started: when this process began, by ``time.perf_counter``; reading the data counts too.
    :param show_seconds: between two updates of the progress.
    :param max_minutes: after which the run stops cleanly.
    """

    AGREE_SECONDS = 0.5

    def __init__(
        self,
        p: ProtocolConfig,
        world: World,
        *,
        stop: Stop,
        started: float,
        show_seconds: float,
        max_minutes: float | None,
    ) -> None:
        self.p, self.world, self.stop, self.show_seconds = p, world, stop, show_seconds
        self.deadline = started + max_minutes * 60 if max_minutes else float("inf")
        self.saved = self.shown = self.agreed = time.perf_counter()
        self.agreed_step: int | None = None  # the step of the last agreement
        self.next_step = 0  # the step of the next one

    def due(self, step: int) -> Due:
        last = step == self.p.steps
        log, evaluate = last or step % self.p.log_every == 0, last or step % self.p.eval_every == 0
        if self.world.size > 1 and not (log or evaluate) and step < self.next_step:
            return Due(log=False, evaluate=False, save=False, show=False, stop=False)
        now = time.perf_counter()
        stop, save, show, ahead = self.world.max(
            int(self.stop.signal is not None or now > self.deadline),
            int(now - self.saved > self.p.save_seconds),
            int(now - self.shown >= self.show_seconds),
            self._steps_ahead(step, now),
        )
        self.next_step = step + ahead
        due = Due(log=log, evaluate=evaluate, save=bool(save or stop or last), show=bool(show or last), stop=bool(stop))
        if due.show:
            self.shown = now
        return due

    def _steps_ahead(self, step: int, now: float) -> int:
        """How many steps take ``AGREE_SECONDS``, by the time since the last agreement; at least one."""
        before, self.agreed_step = self.agreed_step, step
        passed, self.agreed = now - self.agreed, now
        if before is None or passed <= 0:
            return 1
        return max(1, int((step - before) * self.AGREE_SECONDS / passed))

    def save_done(self) -> None:
        """The next checkpoint is due ``save_seconds`` from now."""
        self.saved = time.perf_counter()


def summary_of(counts: Counts, watch: Stopwatch, step: int, *, diverged: bool) -> dict[str, Any]:
    """The part of a run's summary that was measured in training: error in percent, seconds, images/s."""
    images = step * counts.batch_size
    return {
        "train_error": None if diverged else counts.train_error(),
        "seconds": watch.seconds,
        "images_per_s": images / watch.train_seconds if watch.train_seconds else None,
    }
