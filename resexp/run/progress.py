"""Progress on stderr: of training, and of reading data."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from resexp.console import printable

WIDTH = 20  # characters of the curve
WIDE = 108  # characters of a terminal that takes all of it
HEIGHTS = "▁▂▃▄▅▆▇█"


class ProgressLine:
    """Progress on stderr: on a terminal and in a notebook one line that changes, elsewhere a line every ten seconds.

    The line that changes begins with the curve of the training error.
    """

    PLAIN_SECONDS = 10.0  # between two updates
    LIVE_SECONDS = 0.5

    def __init__(self, *, step: int, steps: int) -> None:
        self.in_notebook = Console().is_jupyter
        self.console = Console(stderr=True, force_jupyter=False)
        self.first, self.steps = step, steps
        self.started = self.shown = time.monotonic()
        self.errors: dict[int, float] = {}  # the last one at each place of the curve
        self.live: Progress | None = None
        self.cell: Any = None  # the notebook's, once there is something to show
        if self.console.is_terminal and not self.in_notebook:
            columns = (
                TextColumn("{task.fields[curve]}  step {task.completed}/{task.total}  {task.fields[text]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("left"),
            )
            self.live = Progress(*columns, console=self.console, transient=True)
            self.task = self.live.add_task("", total=steps, completed=step, text="", curve="")
            self.live.start()

    @property
    def seconds(self) -> float:
        """Between two updates."""
        return self.LIVE_SECONDS if self.live or self.in_notebook else self.PLAIN_SECONDS

    def show(self, step: int, *, loss: float, train_error: float, test_error: float | None, rate: float) -> None:
        """:param rate: images/s."""
        self.shown = time.monotonic()
        self.errors[min(WIDTH - 1, step * WIDTH // self.steps)] = train_error
        test = f"{test_error:.2f}%" if test_error is not None else "-"
        errors = f"train {train_error:.2f}%  test {test}"
        text = f"loss {loss:.3f}  {errors}  {rate:,.0f} images/s"
        if self.live:
            text = text if self.console.width >= WIDE else errors
            self.live.update(self.task, completed=step, text=text, curve=self._curve())
            return
        left = (self.shown - self.started) / max(1, step - self.first) * (self.steps - step)
        line = f"step {step}/{self.steps}  {text}  {duration(left)} left"
        if self.in_notebook:
            self._show_in_notebook(f"{self._curve()}  {line}")
        else:
            self.note(line)

    def _curve(self) -> str:
        return "" if self.console.options.ascii_only else draw_curve(self.errors)

    def _show_in_notebook(self, line: str) -> None:
        from IPython.display import display

        content = {"text/plain": line}
        if self.cell:
            self.cell.update(content, raw=True)
        else:
            self.cell = display(content, raw=True, display_id=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        with contextlib.suppress(OSError):  # a terminal that has been closed must not end a run
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self.live:
            self.live.stop()


def draw_curve(errors: Mapping[int, float]) -> str:
    """``errors`` by place as a line of text, from the first that is known: ``"█▆▄▃▂▂▁▁············"``.

    The highest error fills its place. A place that was passed between two others has the error of the next.
    """
    top = max(errors.values(), default=0) or 1
    line, shown = ["·"] * WIDTH, min(errors, default=0)
    for place, error in sorted(errors.items()):
        height = HEIGHTS[min(len(HEIGHTS) - 1, int(error / top * len(HEIGHTS)))]
        line[shown : place + 1] = height * (place + 1 - shown)
        shown = place + 1
    return "".join(line)


class ReadingProgress:
    """Progress of reading data: one changing line on a terminal, one line for every tenth elsewhere; on stderr."""

    def __init__(self) -> None:
        self.shown = ("", 0)  # what, and its last tenth

    def __call__(self, what: str, done: int, total: int) -> None:
        before = self.shown[1] if self.shown[0] == what else 0
        self.shown = what, 10 * done // max(1, total)
        if sys.stderr.isatty():
            print(f"\r{what}: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif self.shown[1] > before:
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``duration(4000)`` -> ``"67 min"``, ``duration(7000)`` -> ``"1 h 57 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
