#!/usr/bin/env python
"""Overlay the curves of any runs: scripts/plot_curves.py outputs/runs/plain* --out curves

Draws from the logs alone, without training: curves.png, curves.svg, and the table of final errors on stdout.
"""

import argparse
import sys
from pathlib import Path

from resexp import UserError
from resexp.console import print_table
from resexp.figures.study import draw_curves
from resexp.run.reader import Run, read_run
from resexp.run.store import SUFFIX, runs_at
from resexp.studies.groups import group_runs
from resexp.studies.tables import TABLE_COLUMNS, table_rows


def read(path: Path) -> list[Run]:
    return list(runs_at(path).values()) if path.suffix == SUFFIX and path.is_file() else [read_run(path)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or .jsonl files of runs")
    parser.add_argument("--out", type=Path, default=Path("curves"), help="file without a suffix (default: curves)")
    parser.add_argument("--title", default="Training and test error")
    args = parser.parse_args()
    try:
        groups = group_runs([run for path in args.runs for run in read(path)])
        written = draw_curves(groups, args.out, title=args.title)
    except (UserError, OSError) as error:
        print(f"plot_curves: error: {error}", file=sys.stderr)
        return 2
    print_table(TABLE_COLUMNS, table_rows(groups))
    print("figure: " + ", ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
