#!/usr/bin/env python
"""The results of a study's finished runs, from one place to another that lacks them.

    scripts/copy_results.py he2015-cifar outputs/runs outputs/reference/he2015-cifar.jsonl    to keep them
    scripts/copy_results.py he2015-cifar outputs/reference/he2015-cifar.jsonl outputs/runs    to have run folders
    scripts/copy_results.py analysis outputs/analysis outputs/reference/analysis              findings, with pictures

A place is a folder of run folders, or a .jsonl file with one run per line. Settings, environment, log and summary are
copied, checkpoints are not. --unfinished also copies runs that were interrupted, as far as they are.
"""

import argparse
import shutil
import sys
from pathlib import Path

from resexp import UserError, config
from resexp.console import count
from resexp.run.reader import CHECKPOINT, DONE, Run, Status
from resexp.run.store import SUFFIX, keep_runs, runs_at, unpack_run
from resexp.studies import finding
from resexp.studies.find import runs_of
from resexp.studies.popular import ANALYSIS


def is_new(run: Run, there: dict[str, Run]) -> bool:
    """Whether the target lacks it: neither has it ended there, nor can it resume there from a checkpoint."""
    other = there.get(run.path.name)
    return other is None or not (other.status in DONE or (other.path / CHECKPOINT).is_file())


def copy_findings(source: Path, target: Path) -> int:
    """Into the one file that keeps findings, and their pictures beside it."""
    found = finding.findings_in(source)
    for name in found:
        shutil.copyfile(source / f"{name}.png", target / f"{name}.png")
        print(target / f"{name}.png")
    finding.keep(found, target)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="only its runs, in any seed")
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO")
    parser.add_argument("--unfinished", action="store_true", help="also runs that were interrupted")
    args = parser.parse_args()
    wanted = (*DONE, Status.INTERRUPTED) if args.unfinished else DONE
    try:
        if args.study == ANALYSIS:
            return copy_findings(args.source, args.target)
        if not args.source.exists():
            raise UserError(f"{args.source}: no such folder or file; name a place of runs")
        jobs = [cfg for _, cfg in config.load_study(args.study)[1]]
        there = runs_at(args.target)
        copied = [run for run in runs_of(jobs, runs_at(args.source)) if run.status in wanted and is_new(run, there)]
        if args.target.suffix == SUFFIX:
            keep_runs(copied, args.target)
        else:
            for run in copied:
                unpack_run(run, args.target / run.path.name)
    except (UserError, OSError) as error:
        print(f"copy_results: error: {error}", file=sys.stderr)
        return 2
    for run in copied:
        print(args.target / run.path.name)
    print(f"{count(len(copied), 'run')} of {args.study} copied", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
