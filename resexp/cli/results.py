"""``figures``, ``verify``, ``report`` and ``export``: from what was written, without training."""

import argparse
import contextlib
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resexp import UserError
from resexp.cli.show import draw, show_verdicts, write_finding
from resexp.cli.words import add_words

if TYPE_CHECKING:
    from resexp.studies.find import StudyRuns


def log_arguments(parser: argparse.ArgumentParser) -> None:
    add_words(parser, "studies", "STUDY", "by name; none: all that have runs")


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    log_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines, to stdout")
    parser.add_argument("--popular", action="store_true", help="what articles say about residual networks, answered")


def report_arguments(parser: argparse.ArgumentParser) -> None:
    add_words(parser, "words", "", "")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the output folder)")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write them there (default: to stdout)")


EXPORTED = ("step", "epoch", "split", "loss", "error", "lr", "images_per_s")  # of a line of the log


def export(args: argparse.Namespace) -> int:
    """A line of each run's log is a row."""
    from resexp.run.reader import read_run

    runs = [read_run(path) for path in args.runs]
    try:
        target = args.csv.open("w", newline="", encoding="utf-8") if args.csv else contextlib.nullcontext(sys.stdout)
        with target as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("run", *EXPORTED))
            for run in runs:
                table.writerows([run.path.resolve().name, *map(line.get, EXPORTED)] for line in run.metrics)
    except OSError as error:
        if args.csv is None:  # whoever read our output is gone
            raise
        raise UserError(f"--csv {args.csv}: cannot be written ({error.strerror}); name another file") from None
    return 0


def figures(args: argparse.Namespace) -> int:
    from resexp.studies import finding

    for found in _studies_with_runs(args):
        path = args.output_dir / "figures" / found.study.name
        draw(found.groups, path, title=found.study.title, note=found.note, study=found.study)
    for path in () if args.studies else sorted((args.output_dir / "analysis").glob("*.json")):
        write_finding(finding.read(path), path.with_suffix(""))
    return 0


def verify(args: argparse.Namespace) -> int:
    """Exit code 1 if a claim fails, or if evidence for an answer to a popular one is missing or speaks against it."""
    from resexp import config

    config.check_folder(args.config_dir)
    if args.popular:
        return _verify_popular(args)
    from resexp.console import tally
    from resexp.studies.claims import Outcome, judge
    from resexp.studies.verdicts import verdict_data

    studies = _studies_with_runs(args)
    if args.json:
        data = []
        for found in studies:
            verdicts = judge(found.study.claims, found.groups)
            data += verdict_data(found.study, verdicts, reference=found.reference)
        _print_json(data)
        return int(any(entry["verdict"] == Outcome.FAILS for entry in data))
    words = []
    for found in studies:
        print(found.note)
        words += [verdict.word for verdict in show_verdicts(found.study, found.groups)]
    print(f"{len(words)} claims: {tally(words)}")
    return int(Outcome.FAILS in words)


def _verify_popular(args: argparse.Namespace) -> int:
    from resexp.console import print_table, tally
    from resexp.studies.popular import COLUMNS, answer_all, answer_rows

    if args.studies:
        raise UserError(f"verify --popular {args.studies[0]}: it answers all claims; drop {args.studies[0]}")
    answers = answer_all(args.output_dir)
    if args.json:
        _print_json([dict(zip(COLUMNS, row, strict=True)) for row in answer_rows(answers)])
    else:
        print_table(COLUMNS, answer_rows(answers), f"{len(answers)} popular claims")
        testable = [one.agrees for one in answers if one.agrees]
        untestable = f"{len(answers) - len(testable)} cannot be tested"
        print(f"{len(answers)} answers, of which {untestable}; does the evidence agree? {tally(testable)}")
    return int(not all(one.stands for one in answers))


def _print_json(data: object) -> None:
    import json

    print(json.dumps(data, indent=1))


def _studies_with_runs(args: argparse.Namespace) -> "list[StudyRuns]":
    """Those named, or all that have runs. UserError if none has, or a named one has not."""
    from resexp import config
    from resexp.studies.find import find_study

    config.check_folder(args.config_dir)
    known = config.names("study", args.config_dir)
    found = [one for name in args.studies or known if (one := find_study(name, args.output_dir, args.config_dir))]
    with_runs = {one.study.name for one in found}
    if missing := [name for name in args.studies if name not in with_runs]:
        name = missing[0]
        raise UserError(f"study {name}: no runs under {args.output_dir}; start them with: resexp study {name}")
    if not found:
        raise UserError(f"no runs of any study under {args.output_dir}; start with: resexp study degradation")
    return found


def report(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import count
    from resexp.report.page import FILE, write_report

    config.check_folder(args.config_dir)
    if args.words:
        raise UserError(f"report {args.words[0]}: it shows all that has been run; drop {args.words[0]}")
    path = args.out or args.output_dir / FILE
    runs = write_report(args.output_dir, path, args.config_dir)
    print(f"{path}: {count(runs, 'run')}, {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return 0
