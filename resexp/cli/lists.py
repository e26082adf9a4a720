"""What there is: ``models``, ``datasets``, ``protocols``, ``studies``, and ``config`` for one run."""

import argparse
import sys

from resexp import UserError


def model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", action="store_true", help="what blocks cost, side by side, with the arithmetic")


def protocol_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="PROTOCOL", help="none lists them, two shows where they differ")


def models(args: argparse.Namespace) -> int:
    from resexp.catalog import FAMILIES, NAMED
    from resexp.console import print_table
    from resexp.studies.published import published

    if args.explain:
        from resexp.explain import print_explanation

        print_explanation()
        return 0
    rows = []
    for net in NAMED:
        (_, height, side), classes = net.image
        family, depth = net.settings["family"], net.settings["depth"]
        known = [published(net.name, key) for key in ("params", "gmacs")]
        theirs = f"{float(known[1].value) * 1000:,.0f}" if known[1] else "-"  # published in thousands of millions
        counts = [f"{net.parameters:,}", str(known[0] or "-"), f"{net.macs / 1e6:,.2f}", theirs]
        source = "; ".join(dict.fromkeys(one.source for one in known if one)) or FAMILIES[family].paper
        rows.append([net.name, str(depth), *counts, f"{height}x{side}, {classes}", source])
    columns = ("net", "layers", "parameters", "published", "M multiply-adds", "published", "image, classes", "source")
    others = "any other legal depth, width or cardinality is a name too (plain26, wrn22_8, resnext38_4x16d)"
    title = f"{len(rows)} named nets; {others}"
    print_table(columns, rows, title)
    return 0


def datasets(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    rows = []
    for name in config.names("dataset", args.config_dir):
        cfg = config.load([f"dataset={name}"], args.config_dir)
        rows.append([name, cfg.protocol.name, config.about("dataset", name, args.config_dir)])
    print_table(("data set", "protocol", "what"), rows)
    return 0


def protocols(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    if len(args.names) not in (0, 2):
        raise UserError("resexp protocols takes none (a list) or two names (where they differ)")
    if not args.names:
        known = config.names("protocol", args.config_dir)
        rows = [[name, config.about("protocol", name, args.config_dir)] for name in known]
        print_table(("protocol", "what"), rows)
        return 0
    first, second = (config.protocol_settings(name, args.config_dir) for name in args.names)
    differing = [key for key in first if first[key] != second[key] and key not in ("name", "about")]
    rows = [[key, *("null" if its[key] is None else str(its[key]) for its in (first, second))] for key in differing]
    if not rows:
        print(f"{args.names[0]} and {args.names[1]} differ in nothing")
        return 0
    print_table(("setting", *args.names), rows)
    return 0


def studies(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    rows = []
    for name in config.names("study", args.config_dir):
        study, jobs = config.load_study(name, config_dir=args.config_dir)
        datasets = dict.fromkeys(cfg.dataset.name for _, cfg in jobs)
        steps = dict.fromkeys(f"{cfg.protocol.steps:,}" for _, cfg in jobs)
        rows.append([name, str(len(jobs)), " ".join(datasets), " ".join(steps), study.title, study.source or "-"])
    print_table(("study", "runs", "data set", "steps", "title", "source"), rows)
    return 0


def show_config(args: argparse.Namespace) -> int:
    from resexp import config

    cfg = config.load(args.overrides, args.config_dir)
    print(config.to_yaml(cfg), end="")
    print(f"run folder: {cfg.run_dir}", file=sys.stderr)
    return 0
