"""Progress: the small curve, and how it looks on a terminal, in a notebook and in a file."""

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from resexp.run import progress
from resexp.run.progress import ProgressLine, ReadingProgress, draw_curve

SHOWN = {"loss": 1.5, "train_error": 50.0, "test_error": None, "rate": 1234.0}


def test_a_curve_falls_as_its_errors_do_and_leaves_room_for_what_is_to_come() -> None:
    assert draw_curve({}) == "·" * 20
    assert draw_curve({0: 80.0, 5: 80.0, 10: 40.0, 19: 0.0}) == "██████▅▅▅▅▅▁▁▁▁▁▁▁▁▁"
    assert draw_curve({18: 5.0, 19: 4.0}) == "·" * 18 + "█▇"  # a run that resumed: what was before is not known
    assert draw_curve({0: 0.0}) == "▁" + "·" * 19


def test_however_often_it_is_shown_the_curve_keeps_one_error_a_place() -> None:
    line = ProgressLine(step=0, steps=1000)
    for step in range(1, 1001):
        line.show(step, loss=1.0, train_error=step / 10, test_error=None, rate=1.0)
    assert len(line.errors) == 20 and line.errors[19] == 100.0


def lines(monkeypatch: pytest.MonkeyPatch, **console: object) -> str:
    stream = io.StringIO()
    made = Console(file=stream, legacy_windows=False, **console)  # type: ignore[arg-type]
    monkeypatch.setattr(progress, "Console", lambda **_: made)
    line = ProgressLine(step=0, steps=100)
    line.show(50, **SHOWN)  # type: ignore[arg-type]
    line.close()
    return stream.getvalue()


@pytest.mark.parametrize("step", [1, 7, 500, 1024])
def test_reading_tells_of_every_tenth_whatever_the_steps(step: int, capsys: pytest.CaptureFixture[str]) -> None:
    told = ReadingProgress()
    for what in ("train", "test"):
        for done in (*range(step, 10_000, step), 10_000):
            told(what, done, 10_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (20 if step < 1000 else 2 * 10)
    assert lines[-1] == "test: 10,000 of 10,000"


def test_a_narrow_terminal_keeps_the_curve_and_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = lines(monkeypatch, force_terminal=True, width=80)
    assert "··········█·········  step 50/100  train 50.00%  test -" in narrow and "images/s" not in narrow
    assert "loss 1.500  train 50.00%  test -  1,234 images/s" in lines(monkeypatch, force_terminal=True, width=120)


def test_a_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines(monkeypatch, width=80).splitlines()
    assert line.startswith("step 50/100  loss 1.500  train 50.00%  test -  1,234 images/s")


def test_a_notebook_shows_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def display(content: dict[str, str], **_: object) -> SimpleNamespace:
        shown.append(("display", content["text/plain"]))
        return SimpleNamespace(update=lambda content, **_: shown.append(("update", content["text/plain"])))

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    console = Console(file=io.StringIO(), force_jupyter=True)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    line = ProgressLine(step=0, steps=100)
    line.show(50, **SHOWN)  # type: ignore[arg-type]
    line.show(100, **SHOWN)  # type: ignore[arg-type]
    assert [how for how, _ in shown] == ["display", "update"]
    assert shown[1][1].startswith("··········██████████  step 100/100  loss 1.500")
