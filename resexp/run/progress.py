"""Progress on stderr: of training, and of reading data."""

import contextlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resexp.console import printable


class ProgressLine:
    """Live progress on a terminal, a plain line every ten seconds elsewhere; both on stderr."""

    PLAIN_SECONDS = 10.0  # between two updates
    LIVE_SECONDS = 0.5

    def __init__(self, *, step: int, steps: int) -> None:
        self.console = Console(stderr=True)
        self.first, self.steps = step, steps
        self.started = self.shown = time.monotonic()
        self.live: Progress | None = None
        if self.console.is_terminal:
            columns = (
                BarColumn(bar_width=20),
                TextColumn("step {task.completed}/{task.total}  {task.fields[text]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("left"),
            )
            self.live = Progress(*columns, console=self.console, transient=True)
            self.task = self.live.add_task("", total=steps, completed=step, text="")
            self.live.start()

    @property
    def seconds(self) -> float:
        """Between two updates."""
        return self.LIVE_SECONDS if self.live else self.PLAIN_SECONDS

    def show(self, step: int, *, loss: float, train_error: float, test_error: float | None, rate: float) -> None:
        """:param rate: images/s."""
        self.shown = time.monotonic()
        test = f"{test_error:.2f}%" if test_error is not None else "-"
        text = f"loss {loss:.3f}  train {train_error:.2f}%  test {test}  {rate:,.0f} images/s"
        if self.live:
            self.live.update(self.task, completed=step, text=text)
        else:
            left = (self.shown - self.started) / max(1, step - self.first) * (self.steps - step)
            self.note(f"step {step}/{self.steps}  {text}  {duration(left)} left")

    def note(self, text: str) -> None:
        """A line that stays."""
        with contextlib.suppress(OSError):  # a terminal that has been closed must not end a run
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self.live:
            self.live.stop()


def print_progress(what: str, done: int, total: int) -> None:
    """Progress of reading data: one changing line on a terminal, one line for every tenth elsewhere; on stderr."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done * 10 // total > (done - 500) * 10 // total:
        print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``duration(4000)`` -> ``"1 h 07 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
