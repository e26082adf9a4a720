"""``train`` and ``eval``: one net."""

import argparse
import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resexp import UserError
from resexp.ranks import rank

if TYPE_CHECKING:
    from resexp.config import Config
    from resexp.evaluate import Evaluation

EVALUATED = ("test loss", "test error %", "top-5 error %")


def train_net(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.runs.reader import Run, Status
    from resexp.stale import refuse_other_images

    cfg = config.load(args.overrides, args.config_dir)
    if cfg.launcher.name != "local":
        raise UserError(f"launcher={cfg.launcher.name}: train runs here; resexp sweep hands runs to a launcher")
    run = Run(cfg.run_dir)
    refuse_other_images(run, cfg.dataset)
    if run.status_to_train == Status.FINISHED:
        if rank() == 0:
            print(f"{cfg.run_dir}: finished already; another seed= is another run", file=sys.stderr)
            print(result_line(cfg, run.summary))
        return 0
    from resexp.parallel import end_process, launched_in_parallel
    from resexp.run_folder import open_run
    from resexp.runtime import stop_signals
    from resexp.train import train

    with (
        stop_signals() as stop,
        open_run(cfg, cfg.run_dir) as folder,
    ):  # so that no signal ends the process before it has said why
        summary = train(cfg, folder, stop)
    if rank() == 0:
        _report(cfg, summary)
    code = 128 + summary["signal"] if summary["signal"] else int(summary["status"] == Status.DIVERGED)
    if launched_in_parallel():
        end_process(code)
    return code


def _report(cfg: "Config", summary: dict[str, Any]) -> None:
    """How a run ended, on stdout; what to do about a run that diverged, on stderr."""
    from resexp.runs.reader import Status

    print(result_line(cfg, summary))
    if summary["status"] == Status.DIVERGED:
        saved = (cfg.run_dir / "checkpoint.pt").is_file()
        kept = "the last good checkpoint is kept" if saved else "there was no checkpoint yet"
        where = f"the loss is not finite at step {summary['step']}"
        print(f"resexp: {where}; {kept}; try a smaller protocol.lr", file=sys.stderr)


def result_line(cfg: "Config", summary: dict[str, Any]) -> str:
    from resexp.runs.reader import Status
    from resexp.studies.tables import published_like

    reached = f"{summary['status']} at step {summary['step']:,} of {cfg.protocol.steps:,}"
    parts = [f"{cfg.model.name} on {cfg.dataset.name}: {reached}"]
    for key in ("train_error", "val_error", "test_error", "ten_crop_error", "multi_scale_error"):
        if summary.get(key) is not None:
            parts.append(f"{key.removesuffix('_error').replace('_', '-')} error {summary[key]:.2f}%")
    if known := published_like(dataclasses.asdict(cfg)):
        parts.append(f"published {known}% ({known.source})")
    if summary["status"] == Status.INTERRUPTED:
        parts.append("the same command resumes")
    return "; ".join(parts)


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN | weights=FILE key=value ...",
        help="a run folder; or a state dict in a file and the settings of its net",
    )
    parser.add_argument(
        "--view",
        choices=["centre", "ten-crop", "multi-scale"],
        default="centre",
        help="of larger images: the centre crop, ten crops, or whole at several scales",
    )

    parser.add_argument("--json", action="store_true", help="for machines, to stdout")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE.csv",
        help="of a run: each test image's place, label, prediction and its probability; centre or ten-crop",
    )


def evaluate(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table
    from resexp.runs.reader import CONFIG, read_run

    if len(args.words) != 1 or ("=" in args.words[0] and not Path(args.words[0]).exists()):
        return _eval_weights(args)
    run = read_run(Path(args.words[0]))
    cfg = dataclasses.replace(config.load_file(run.path / CONFIG), device="auto")
    from resexp.trained import evaluate_run

    if args.predictions and args.view == "multi-scale":
        raise UserError("--predictions --view multi-scale: images are grouped by shape there; take ten-crop or centre")
    batches: list[tuple[Any, Any]] = []

    def keep(logs: Any, labels: Any) -> None:
        batches.append((logs.cpu(), labels.cpu()))

    seen = keep if args.json or args.predictions else None
    step, found, classes = evaluate_run(run.path, cfg, view=args.view, seen=seen)
    if args.predictions:
        _write_predictions(args.predictions, batches, classes)
    facts = {"net": cfg.model.name, "dataset": cfg.dataset.name, "seed": cfg.seed, "step": step, "view": args.view}
    if args.json:
        print(json.dumps({**facts, **found._asdict(), "confusion": _confusion(batches, len(classes))}))
        return 0
    row = [*(f"{value:,}" if key == "step" else str(value) for key, value in facts.items()), *_errors(found)]
    print_table((*(key.replace("dataset", "data set") for key in facts), *EVALUATED), [row])
    return 0


def _confusion(batches: list[tuple[Any, Any]], classes: int) -> list[list[int]]:
    """How many images of each class (a row) were taken for each (a column)."""
    counts = [[0] * classes for _ in range(classes)]
    for logs, labels in batches:
        for label, guess in zip(labels.tolist(), logs.argmax(dim=1).tolist(), strict=True):
            counts[label][guess] += 1
    return counts


def _write_predictions(path: Path, batches: list[tuple[Any, Any]], classes: tuple[str, ...]) -> None:
    """The place of an image is that in the data set's own order, which its pixels decide."""
    try:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            table.writerow(("image", "label", "prediction", "probability", "right"))
            number = 0
            for logs, labels in batches:
                best = logs.exp().max(dim=1)
                for label, guess, sure in zip(
                    labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
                ):
                    right = "yes" if label == guess else "no"
                    table.writerow((number, classes[label], classes[guess], f"{sure:.4f}", right))
                    number += 1
    except OSError as error:
        raise UserError(f"--predictions {path}: cannot be written ({error.strerror}); name another file") from None


def _eval_weights(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    if args.predictions or args.json:
        raise UserError("eval weights=FILE: --predictions and --json are of runs; drop them")
    files = [word.partition("=")[2] for word in args.words if word.startswith("weights=")]
    if len(files) != 1:
        raise UserError("resexp eval takes a run folder, or weights=FILE with the settings of a net: model=resnet56")
    cfg = config.load([word for word in args.words if not word.startswith("weights=")], args.config_dir)
    from resexp.trained import evaluate_weights

    p = cfg.protocol
    how = f"mean {p.mean}, std {p.std or 1}" if p.mean else p.normalize
    found = evaluate_weights(cfg, Path(files[0]), view=args.view)
    if not any(word.startswith(("protocol.normalize=", "protocol.mean=")) for word in args.words):
        print(
            f"normalisation {how}, by protocol {p.name}; other weights may need protocol.normalize=imagenet, or "
            "protocol.mean=[...] and protocol.std=[...]",
            file=sys.stderr,
        )
    row = [cfg.model.name, cfg.dataset.name, files[0], how, args.view, *_errors(found)]
    print_table(("net", "data set", "weights", "normalisation", "view", *EVALUATED), [row])
    return 0


def _errors(found: "Evaluation") -> list[str]:
    return [f"{found.loss:.4f}", f"{found.error:.2f}", f"{found.top5_error:.2f}"]
