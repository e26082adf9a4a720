#!/usr/bin/env python
"""The small files of a study's finished runs, from one folder of runs to another that lacks them.

    scripts/copy_results.py he2015-cifar outputs/runs outputs/reference/he2015-cifar     to keep them with the project
    scripts/copy_results.py he2015-cifar outputs/reference/he2015-cifar outputs/runs     so that none is repeated

Configuration, environment, log and summary, without checkpoints. --unfinished copies also how far the others are.
"""

import argparse
import sys
from pathlib import Path

import yaml

from resexp import UserError, config
from resexp.runs.files import write_json, write_text
from resexp.runs.reader import CHECKPOINT, CONFIG, ENV, METRICS, SUMMARY, Run
from resexp.study import runs_in

ENDED = ("finished", "diverged")
MACHINES = ("dataset.root=", "output_dir=", "--config-dir=")  # words of a command that name folders


def copy_run(run: Run, target: Path) -> None:
    """Without the folders of the machine that it ran on."""
    target.mkdir(parents=True, exist_ok=True)
    env = {**run.env, "command": " ".join(w for w in run.env.get("command", "").split() if not w.startswith(MACHINES))}
    settings = {**run.config, "dataset": {**run.config["dataset"], "root": None}, "output_dir": "outputs"}
    write_json(target / ENV, env)
    write_text(target / METRICS, (run.path / METRICS).read_text())
    write_text(target / CONFIG, yaml.safe_dump(settings, sort_keys=False))
    write_text(target / SUMMARY, (run.path / SUMMARY).read_text())  # last, as in training


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="only its runs, in any seed")
    parser.add_argument("source", type=Path, metavar="FROM", help="a folder of run folders")
    parser.add_argument("target", type=Path, metavar="TO")
    parser.add_argument("--unfinished", action="store_true", help="also runs that were interrupted")
    args = parser.parse_args()
    wanted = (*ENDED, "interrupted") if args.unfinished else ENDED
    try:
        jobs = [cfg for _, cfg in config.load_study(args.study)[1]]
        copied = []
        for run in runs_in(args.source, jobs):
            there = Run(args.target / run.path.name)
            if run.status in wanted and there.status not in ENDED and not (there.path / CHECKPOINT).is_file():
                copy_run(run, there.path)
                copied.append(run.path.name)
    except (UserError, OSError) as error:
        print(f"copy_results: error: {error}", file=sys.stderr)
        return 2
    for name in copied:
        print(args.target / name)
    print(f"{len(copied)} runs of {args.study} copied", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
