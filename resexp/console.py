"""What a person reads: results on stdout, progress and messages on stderr, tables that survive a pipe."""

import codecs
import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

# Of the columns of a narrow table; never what was published.
FIRST_TO_GO = ("source", "image, classes", "parameters", "width", "seeds", "asked", "weights")
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


@dataclass
class FittedTable:
    """A table that keeps to the width it is given: text folds, and then columns are left out, which are named below it.

    Columns that say nothing are left out, and those whose cells look like numbers are set flush right. Title and
    caption are lines of their own: as parts of the table they would break at the width of its columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None
    caption: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = self.columns, [[printable(cell) for cell in row] for row in self.rows]
        cells = [[row[i] for row in rows if row[i] not in ("", "-")] for i in range(len(columns))]
        least, fair = zip(*map(_narrowest, columns, cells), strict=True)
        shown, left_out = [i for i in range(len(columns)) if not rows or any(row[i] != "-" for row in rows)], []
        while len(shown) > 1 and sum(least[i] for i in shown) > options.max_width - _between(shown):
            left_out.append(min(shown, key=lambda i: (_rank(columns[i]), -i)))
            shown.remove(left_out[-1])
        widths = {i: max(map(cell_len, _lines([columns[i], *cells[i]]))) for i in shown}
        while sum(widths.values()) > options.max_width - _between(shown):
            widths[max(shown, key=lambda i: (widths[i] > fair[i], widths[i] > least[i], widths[i]))] -= 1
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i in shown:
            numeric = bool(cells[i]) and all(cell[:1].isdigit() or cell[:1] in "+-<>" for cell in cells[i])
            table.add_column(columns[i], justify="right" if numeric else "left", overflow="fold", width=widths[i])
        for row in rows:
            table.add_row(*(row[i] for i in shown))
        if self.title:
            yield Text(self.title, style="bold")
        yield table
        if left_out:
            yield f"not shown, as the terminal is too narrow: {', '.join(columns[i] for i in sorted(left_out))}"
        if self.caption:
            yield self.caption


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    stdout().print(FittedTable(columns, rows, title))


def _lines(cells: Sequence[str]) -> list[str]:
    return [line for cell in cells for line in cell.splitlines()] or [""]


def _narrowest(column: str, cells: Sequence[str]) -> tuple[int, int]:
    """How many characters it must have, and how many it should: a broken number reads as two, a name is to be typed."""
    lines = _lines(cells)
    whole = bool(cells) and all(map(WHOLE.fullmatch, lines))
    widest = max(map(cell_len, (*column.split(), *(lines if whole else " ".join(lines).split()))), default=1)
    least = widest if whole else min(LEAST_WIDTH, widest)
    return least, least if any(" " in line for line in lines) else widest


def _between(shown: Sequence[int]) -> int:
    """The width of what is not text: a space at either edge, three between columns."""
    return 3 * (len(shown) - 1) + 2


def _rank(column: str) -> int:
    """Those with the lowest are the first to be left out of a narrow table; of equals the last."""
    return FIRST_TO_GO.index(column) if column in FIRST_TO_GO else len(FIRST_TO_GO)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
