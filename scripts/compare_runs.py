#!/usr/bin/env python
"""The errors of the same runs in two folders, as a Markdown table: what a change of speed has changed in the results.

    resexp study degradation seed=0,1,2,3,4 output_dir=/tmp/fast
    resexp study degradation seed=0,1,2,3,4 output_dir=/tmp/plain fast=false
    scripts/compare_runs.py /tmp/fast/runs /tmp/plain/runs

Exits with 1 if a mean difference is larger than the seeds' own spread (the larger standard deviation of the two).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from resexp import UserError
from resexp.console import markdown_table
from resexp.runs.reader import Run, find_runs
from resexp.stats import summarize
from resexp.study import group_runs

COLUMNS = (
    "net",
    "seeds",
    "error",
    "first folder %",
    "second folder %",
    "mean difference",
    "the seeds' spread",
    "within",
)


def pairs(first: Path, second: Path) -> list[tuple[Run, Run]]:
    """The runs that have finished in both folders. Raises UserError if there are none."""
    known = {run.path.name: run for run in find_runs(second) if run.status == "finished"}
    both = [
        (run, known[run.path.name]) for run in find_runs(first) if run.status == "finished" and run.path.name in known
    ]
    if not both:
        raise UserError(f"{first} and {second} have no finished run in common")
    return both


def compare(both: Sequence[tuple[Run, Run]]) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether all differences are within the seeds' spread."""
    partner = {a.path.name: b for a, b in both}
    rows, ok = [], True
    for group in group_runs([a for a, _ in both]):
        for metric in ("train_error", "test_error"):
            ours, theirs = (
                [run.summary[metric] for run in runs]
                for runs in (group.runs, [partner[run.path.name] for run in group.runs])
            )
            a, b = summarize(ours), summarize(theirs)
            difference = a.mean - b.mean
            spread = max(a.std, b.std)
            within = abs(difference) <= spread if a.count > 1 else None
            ok = ok and within is not False
            rows.append(
                [
                    group.label,
                    ",".join(map(str, group.seeds)),
                    metric.replace("_", " "),
                    str(a),
                    str(b),
                    f"{difference:+.2f}",
                    f"{spread:.2f}" if a.count > 1 else "-",
                    {True: "yes", False: "NO", None: "-"}[within],
                ]
            )
    return rows, ok


def main(words: Sequence[str]) -> int:
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        rows, ok = compare(pairs(*map(Path, words)))
    except UserError as error:
        print(f"compare_runs: error: {error}", file=sys.stderr)
        return 2
    print(markdown_table(COLUMNS, rows), end="")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
