#!/usr/bin/env python
"""How long a study would take on this machine: each net's measured speed, alone and side by side.

    scripts/project_study.py he2015-fig6 protocol.precision=bf16 --json outputs/fig6-projection.json

Every net of the study trains for --steps steps, three times. Then --side-by-side runs of the study's middle net train
at once, which gives the gain over one after another. Nothing is written but the table and the JSON file.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from resexp import UserError, config, system
from resexp.bench.measure import measure_together
from resexp.console import message, print_table
from resexp.run.env import versions
from resexp.run.files import check_target
from resexp.run.progress import duration


def project(study_name: str, overrides: list[str], *, steps: int, together: int) -> dict[str, Any]:
    """Seconds that the study's runs need, one after another and side by side. Raises UserError."""
    jobs = [cfg for _, cfg in config.load_study(study_name, overrides)[1]]
    nets: list[dict[str, Any]] = []
    for cfg in jobs:
        point = _measure(cfg, 1, steps)
        rate = point["images_per_s"] / cfg.protocol.batch_size
        nets.append(
            {
                "net": cfg.model.name,
                "seed": cfg.seed,
                "steps": cfg.protocol.steps,
                "steps_per_s": rate,
                "seconds": cfg.protocol.steps / rate,
                **point,
            }
        )
        message(f"{cfg.model.name}: {rate:,.2f} steps/s, {duration(nets[-1]['seconds'])} for {cfg.protocol.steps:,}")
    middle = sorted(range(len(jobs)), key=lambda index: nets[index]["seconds"])[len(jobs) // 2]
    at_once = _measure(jobs[middle], together, steps)["images_per_s"] if together > 1 else nets[middle]["images_per_s"]
    alone = sum(net["seconds"] for net in nets)
    gain = at_once / nets[middle]["images_per_s"]
    return {
        "study": study_name,
        "settings": overrides,
        "nets": nets,
        "side_by_side": together,
        "measured_side_by_side": jobs[middle].model.name,
        "gain": gain,
        "seconds_one_after_another": alone,
        "seconds_side_by_side": alone / max(gain, 1.0),
        "versions": versions(),
    }


def _measure(cfg: config.Config, together: int, steps: int) -> dict[str, Any]:
    point = measure_together(cfg, together, steps)
    if "failed" in point:
        raise UserError(f"{cfg.model.name}, {together} at once: {point['failed']}")
    return point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="resexp studies lists them")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for all runs")
    parser.add_argument("--steps", type=int, default=20, help="of each measurement (default: 20)")
    parser.add_argument("--side-by-side", type=int, default=min(4, system.cores()), help="runs at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    args = parser.parse_intermixed_args()
    try:
        for flag, number in (("--steps", args.steps), ("--side-by-side", args.side_by_side)):
            config.check(number >= 1, flag, number, "must be at least 1")
        check_target("--json", args.json)
        result = project(args.study, args.overrides, steps=args.steps, together=args.side_by_side)
    except UserError as error:
        print(f"project_study: error: {error}", file=sys.stderr)
        return 2
    rows = []
    for net in result["nets"]:
        rates = [f"{net['images_per_s']:,.0f}", f"{net['steps_per_s']:,.2f}"]
        memory = f"{net['peak_memory_bytes'] / 1e9:.2f} GB"
        rows.append([net["net"], str(net["seed"]), *rates, memory, duration(net["seconds"])])
    print_table(("net", "seed", "images/s", "steps/s", "peak memory", "whole run"), rows, args.study)
    print(
        f"one after another {duration(result['seconds_one_after_another'])}; {result['side_by_side']} side by side, "
        f"{result['gain']:.2f} times: {duration(result['seconds_side_by_side'])}"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
