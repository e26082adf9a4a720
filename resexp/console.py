"""What a person reads: results on stdout, progress and messages on stderr, tables that survive a pipe."""

import codecs
import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

FIRST_TO_GO = ("source", "image, classes", "parameters", "width", "seeds", "asked")  # never what was published
VERY_WIDE = 10_000  # characters
LEAST_WIDTH = 14  # characters of a column of text, if it has so many
_NUMBER = r"[+\-<>]?\d[\d,.]*%?"
# Lines that are not broken: a number, one with its spread, one with its interval.
WHOLE = re.compile(rf"{_NUMBER}( ± {_NUMBER})?|.*?{_NUMBER} \({_NUMBER} to {_NUMBER}\)|paired: {_NUMBER} to {_NUMBER}")
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


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table, without the columns that say nothing; those whose cells look like numbers are set flush right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    kept = _telling(columns, rows)
    for index in kept:
        cells = [row[index] for row in rows if row[index] not in ("", "-")]
        numeric = bool(cells) and all(cell[:1].isdigit() or cell[:1] in "+-<>" for cell in cells)
        # In a narrow terminal text folds: a number that is broken in two reads as two.
        lines = [line for cell in cells for line in cell.splitlines()]
        whole = bool(cells) and all(map(WHOLE.fullmatch, lines))
        words = [*columns[index].split(), *lines]
        least = max(map(len, words)) if whole else min(LEAST_WIDTH, max(map(len, words), default=0))
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(columns[index], justify=justify, overflow="fold", no_wrap=whole, min_width=least)
    for row in rows:
        table.add_row(*(printable(row[index]) for index in kept))
    return table


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """To stdout; in a terminal that is too narrow for all columns, without some, which are named then.

    The title is a line of its own: as part of the table it would break at the width of its columns.
    """
    console = stdout()
    shown, left_out = _telling(columns, rows), []

    def table() -> Table:
        return make_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])

    while len(shown) > 1 and _least_width(table()) > console.width:
        left_out.append(min(shown, key=lambda i: (_rank(columns[i]), -i)))
        shown.remove(left_out[-1])
    if title:
        console.print(title, style="bold")
    console.print(table())
    if left_out:
        console.print(f"not shown, as the terminal is too narrow: {', '.join(columns[i] for i in sorted(left_out))}")


def _telling(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which some row has more than a dash."""
    return [index for index in range(len(columns)) if not rows or any(row[index] != "-" for row in rows)]


def _rank(column: str) -> int:
    """Those with the lowest are the first to be left out of a narrow table; of equals the last."""
    return FIRST_TO_GO.index(column) if column in FIRST_TO_GO else len(FIRST_TO_GO)


def _least_width(table: Table) -> int:
    """Below which its columns could not keep theirs."""
    return Console(width=VERY_WIDE).measure(table).minimum


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
