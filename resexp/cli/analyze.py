"""``analyze``: the mechanisms, measured on trained nets."""

import argparse

from resexp.cli.show import write_finding
from resexp.cli.words import add_words


def analyze_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="ANALYSIS", help="none lists them")
    add_words(
        parser,
        "words",
        "RUN | STUDY | weights=FILE | key=value",
        "run folders, a study, or a state dict and its net; settings of the analysis",
    )
    parser.add_argument("--nets", metavar="NET,NET", help="of a study only these")
    parser.add_argument("--name", help="of the figure and its numbers (default: the analysis')")


def analyze(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.analysis.runner import ANALYSES, run_analysis
    from resexp.console import print_table
    from resexp.figures.study import slug
    from resexp.studies.finding import COLUMNS, table

    if args.kind is None:
        print_table(("analysis", "what it measures"), [list(row) for row in ANALYSES.items()])
        return 0
    config.check_folder(args.config_dir)
    nets = args.nets.split(",") if args.nets else []
    found = run_analysis(args.kind, args.words, nets=nets, output_dir=args.output_dir, config_dir=args.config_dir)
    print_table(COLUMNS, table(found), found.title)
    write_finding(found, args.output_dir / "analysis" / slug(args.name or args.kind))
    return 0
