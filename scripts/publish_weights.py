#!/usr/bin/env python
"""The trained weights of finished runs as safetensors in half precision, with the test error that they then have.

    scripts/publish_weights.py outputs/runs/RUN [RUN ...] --to outputs/reference/weights

A file is named after its run, without the hash; its metadata name net, data set, protocol, seed, run and test error.

    resexp eval weights=FILE model=plain20 dataset=cifar10
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from resexp import UserError, config
from resexp.run.reader import CONFIG, read_run
from resexp.trained import evaluate_net, load_trained
from resexp.weights import SAFETENSORS

MOST_LOST = 0.5  # points of test error, by rounding


def smaller(value: torch.Tensor) -> torch.Tensor:
    """A tensor in half precision, or as it is where a number is too large for that, as a variance can be."""
    half = value.half()
    return half if half.isfinite().all() else value


def publish(folder: Path, target: Path) -> Path:
    """Raises UserError for a run that has not finished, or has no checkpoint."""
    run = read_run(folder)
    if run.status != "finished":
        raise UserError(f"{folder}: {run.status}; only finished runs are published")
    path = target / (folder.name.rpartition("-")[0] + SAFETENSORS)
    if path.is_file() and (other := _run_of(path)) != folder.name:
        raise UserError(f"{folder}: {path} has the weights of {other}; name another folder: --to")
    cfg = dataclasses.replace(config.load_file(folder / CONFIG), device="cpu")
    _, net, data = load_trained(folder, cfg)
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    kept = {name: smaller(value).contiguous() for name, value in state.items()}
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(kept[name])  # the error that is stated is that of the rounded weights
    error = evaluate_net(cfg, net, data, view="centre", keep=False).errors.error
    if abs(error - run.summary["test_error"]) > MOST_LOST:
        raise UserError(
            f"{folder}: rounded to half precision it has {error:.2f} % test error, not "
            f"{run.summary['test_error']:.2f}; its weights cannot be published so"
        )
    told = {
        "net": cfg.model.name,
        "dataset": cfg.dataset.name,
        "protocol": cfg.protocol.name,
        "seed": cfg.seed,
        "run": folder.name,
        "steps": cfg.protocol.steps,
        "test_error": f"{error:.2f}",
        "git_commit": run.env.get("git_commit"),
    }
    target.mkdir(parents=True, exist_ok=True)
    save_file(kept, path, metadata={key: str(value) for key, value in told.items()})
    return path


def _run_of(path: Path) -> str:
    """Whose weights a file holds."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("run", "?")
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); remove it") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--to", type=Path, default=Path("outputs/reference/weights"), metavar="FOLDER")
    args = parser.parse_args()
    try:
        for run in args.runs:
            path = publish(run, args.to)
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    except (UserError, OSError) as error:
        print(f"publish_weights: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
