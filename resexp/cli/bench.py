"""``bench``: how fast a net trains here."""

import argparse
import statistics
from pathlib import Path
from typing import Any

from resexp import UserError


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        choices=["reference", "plain"],
        help="alternate with the usual DataLoader loop, or with ours without its fast paths",
    )
    parser.add_argument("--precision", metavar="fp32,bf16", help="in one table (default: the protocol's)")
    parser.add_argument("--growth", action="store_true", help="cost against depth, batch, image side, runs at once")
    parser.add_argument("--images", action="store_true", help="decoding, packing and streaming of dataset=imagenet")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each loop (default: 5)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each measurement (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there; /dev/stdout prints it")


def bench(args: argparse.Namespace) -> int:
    import json

    from resexp import config
    from resexp.console import print_table

    for key in ("rounds", "steps"):
        config.check(getattr(args, key) >= 1, f"--{key}", getattr(args, key), "must be at least 1")
    if args.growth and args.against:
        raise UserError(f"--growth --against {args.against}: growth measures our loop alone; drop one of the two")
    if args.images and (args.growth or args.against):
        raise UserError("--images measures no training; drop --growth and --against")
    if args.precision and (args.growth or args.images):
        raise UserError(f"--precision {args.precision}: a table of both is of one net's training; drop it")
    cfg = config.load(args.overrides, args.config_dir)
    words = [[f"protocol.precision={one}"] for one in args.precision.split(",")] if args.precision else [[]]
    cfgs = [config.load([*args.overrides, *word], args.config_dir) for word in words]
    from resexp.run.files import check_target

    check_target("--json", args.json)
    from resexp.bench.measure import bench, growth
    from resexp.figures.cost import draw_bench, draw_growth
    from resexp.figures.study import slug

    if args.images:
        from resexp.bench.images import bench_images

        result = bench_images(cfg, rounds=args.rounds, steps=args.steps)
    elif args.growth:
        result = growth(args.overrides, config_dir=args.config_dir, steps=args.steps)
    else:
        results = bench(cfgs, against=args.against, rounds=args.rounds, steps=args.steps)
        result = {one["precision"]: one for one in results}
    figures = Path(cfg.output_dir) / "figures"
    failed, written = None, []
    try:  # the files first: a closed pipe ends the printing
        if args.json:
            args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if args.growth:
            written = draw_growth(result, figures / "growth")
        elif not args.images:
            written = draw_bench(results, figures / slug(f"bench {cfg.model.name} {cfg.dataset.name}"))
    except OSError as error:
        failed = f"cannot write {error.filename}: {error.strerror}; set another file or output_dir="
    if args.images:
        _print_images(result)
    elif args.growth:
        for axis, points in result["axes"].items():
            print_table((axis, "images/s, median", "least", "most", "peak memory"), _growth_rows(points))
    else:
        _print_bench(results)
    if failed:
        raise UserError(failed)  # what was measured has been said
    if written:
        print("figure: " + ", ".join(map(str, written)))
    return 0


def _print_bench(results: list[dict[str, Any]]) -> None:
    """Every table has a row or a group of rows for each precision."""
    from resexp.console import print_table

    first = results[0]
    title = (
        f"{first['net']}, {first['dataset']}, batch {first['batch_size']}, {first['hardware']['device']}, "
        f"threads {first['threads']}"
    )
    rows = []
    for one in results:
        for name, rates in one["rounds"].items():
            called = ", ".join(f"{n:,} {what}" for what, n in one["operations_per_step"].get(name, {}).items())
            spread = [f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates))]
            rows.append([one["precision"], name, *spread, called or "-"])
    print_table(("precision", "loop", "images/s, median", "least", "most", "in one step"), rows, title)
    rows = []
    for one in results:
        total = sum(one["split"].values())
        shares = [f"{1000 * t:.1f} ({100 * t / total:.0f} %)" for t in one["split"].values()]
        rows.append([one["precision"], *shares])
    print_table(("ms of a step", *first["split"]), rows)
    print_table(LIMIT_COLUMNS, [row for one in results for row in _limit_rows(one)])
    for one in results:
        said = [f"{one['precision']}: peak memory {one['peak_memory_bytes'] / 1e9:.2f} GB"]
        if "ratio" in one:
            said.append(f"{one['ratio']:.2f} times the {one['reference']}")
        if "ratio" in one and one is not first:
            said.append(f"{one['ratio_to_first']:.2f} times the one in {first['precision']}")
        print("; ".join(said))


LIMIT_COLUMNS = ("precision", "limit", "a step needs", "reached", "this machine's, measured now", "share", "binds")


def _limit_rows(result: dict[str, Any]) -> list[list[str]]:
    """Arithmetic and memory; the one of which more is used binds."""
    seconds, limits = result["seconds_per_step"], result["limits"]
    arithmetic, memory = result["share_of_matmul_rate"], result["share_of_copy_bandwidth"]
    return [
        [
            result["precision"],
            name,
            f"{work / 1e9:,.2f} {unit}",
            f"{work / seconds / 1e9:,.1f} {unit}/s",
            f"{limit / 1e9:,.1f} {unit}/s",
            f"{100 * share:.0f} %",
            "yes" if share == max(arithmetic, memory) else "",
        ]
        for name, unit, work, limit, share in (
            (
                "arithmetic (matrix product)",
                "GFLOP",
                result["flops_per_step"],
                limits["matmul_flops_per_s"],
                arithmetic,
            ),
            ("memory (copy)", "GB", result["bytes_per_step"], limits["copy_bytes_per_s"], memory),
        )
    ]


def _print_images(result: dict[str, Any]) -> None:
    from resexp.console import print_table

    rows = [
        [name, *(f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates)))]
        for name, rates in result["images_per_s"].items()
    ]
    title = (
        f"{result['dataset']}, {result['images']:,} images, crops of {result['image_size']}, "
        f"batch {result['batch_size']}, {result['hardware']['device']}"
    )
    print_table(("path", "images/s, median", "least", "most"), rows, title)
    if "pack_bytes" in result:
        first, second = result["first_start_seconds"], result["second_start_seconds"]
        print(
            f"pack: {result['pack_bytes'] / 1e6:,.0f} MB; first start {first:.1f} s, {result['images'] / first:,.0f} "
            f"images/s; second start {second:.2f} s"
        )


def _growth_rows(points: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            f"{p['value']:,}",
            *(f"{p[key]:,.1f}" for key in ("images_per_s", "least", "most")),
            f"{p['peak_memory_bytes'] / 1e9:.2f} GB",
        ]
        if "images_per_s" in p
        else [f"{p['value']:,}", p["failed"], "-", "-", "-"]
        for p in points
    ]
