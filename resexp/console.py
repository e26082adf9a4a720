"""What a person reads: results on stdout, progress and messages on stderr, tables that survive a pipe."""

import codecs
import contextlib
import io
import sys
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 160  # columns of a table in a file or a pipe, where there is no terminal to ask


def stdout() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, markup=False)


PLAIN = {"±": "+-", "─": "-", "━": "-", "…": "...", "×": "x"}  # what a console without UTF-8 gets


def any_console() -> None:
    """Print to consoles of any encoding: a letter that one does not have becomes a plainer one, and never an error."""

    def plainer(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        letters = error.object[error.start : error.end]
        return "".join(PLAIN.get(letter, "?") for letter in letters), error.end

    codecs.register_error("plainer", plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="plainer")


def printable(text: str) -> str:
    """Text from elsewhere for a terminal: no control characters but line ends, no bytes that are not text."""
    whole = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in whole)


def message(text: str) -> None:
    """A line on stderr. A terminal that has been closed does not matter."""
    with contextlib.suppress(OSError):
        print(printable(text).replace("\n", "\\n"), file=sys.stderr, flush=True)


def count(number: int, noun: str) -> str:
    """``count(1, "run")`` -> ``"1 run"``, ``count(1200, "run")`` -> ``"1,200 runs"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tally(words: Sequence[str]) -> str:
    """``tally(["holds", "open", "holds"])`` -> ``"2 holds, 1 open"``."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).items())


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A table; columns whose cells look like numbers are set flush right."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        cells = [row[index] for row in rows if row[index] not in ("", "-")]
        numeric = bool(cells) and all(cell[:1].isdigit() or cell[:1] in "+-<>" for cell in cells)
        # A number that is broken in two reads as two.
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    stdout().print(make_table(columns, rows, title))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
