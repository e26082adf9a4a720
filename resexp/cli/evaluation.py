"""``eval``: a trained net, or anybody's weights, on the test images; what it predicts, and where it is most wrong."""

import argparse
import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resexp import UserError

if TYPE_CHECKING:
    from resexp.trained import Evaluated

ERRORS = ("test loss", "test error %", "top-5 error %")
WORST = 24  # images in the picture


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
    parser.add_argument(
        "--json", action="store_true", help="for machines, to stdout, with the confusion of the classes"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE.csv",
        help="each test image's place, label, prediction and its probability",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="which classes are taken for which, and the images that are most surely wrong",
    )


def evaluate(args: argparse.Namespace) -> int:
    from resexp.console import print_table
    from resexp.run.files import check_target

    wanted = {"--predictions": args.predictions, "--picture": args.picture}
    for option, path in wanted.items():
        if path and args.view == "multi-scale":
            raise UserError(f"{option} --view multi-scale: images are grouped by shape there; take ten-crop or centre")
        check_target(option, path)
    keep = bool(args.json or args.predictions or args.picture)
    is_run = len(args.words) == 1 and ("=" not in args.words[0] or Path(args.words[0]).exists())
    facts, found = _run(args, keep=keep) if is_run else _weights(args, keep=keep)
    if args.predictions:
        _write_predictions(args.predictions, found)
    if args.picture:
        _draw(args.picture, facts, found)
    if args.json:
        confusion = found.confusion.tolist()
        print(json.dumps({**facts, **found.errors._asdict(), "classes": found.data.classes, "confusion": confusion}))
        return 0
    row = [f"{value:,}" if key == "step" else str(value) for key, value in facts.items()]
    errors = found.errors
    row += [f"{errors.loss:.4f}", f"{errors.error:.2f}", f"{errors.top5_error:.2f}"]
    print_table((*(key.replace("dataset", "data set") for key in facts), *ERRORS), [row])
    return 0


def _run(args: argparse.Namespace, *, keep: bool) -> "tuple[dict[str, Any], Evaluated]":
    """What is said of a run, and its evaluation."""
    from resexp import config
    from resexp.run.reader import CONFIG, read_run

    run = read_run(Path(args.words[0]))
    cfg = dataclasses.replace(config.load_file(run.path / CONFIG), device="auto")
    from resexp.trained import evaluate_run

    step, found = evaluate_run(run.path, cfg, view=args.view, keep=keep)
    facts = {"net": cfg.model.name, "dataset": cfg.dataset.name, "seed": cfg.seed, "step": step, "view": args.view}
    return facts, found


def _weights(args: argparse.Namespace, *, keep: bool) -> "tuple[dict[str, Any], Evaluated]":
    """As ``_run``, of a file of weights and the settings of its net."""
    from resexp import config

    files = [word.partition("=")[2] for word in args.words if word.startswith("weights=")]
    if len(files) != 1:
        raise UserError("resexp eval takes a run folder, or weights=FILE with the settings of a net: model=resnet56")
    cfg = config.load([word for word in args.words if not word.startswith("weights=")], args.config_dir)
    from resexp.trained import evaluate_weights

    p = cfg.protocol
    how = f"mean {p.mean}, std {p.std or 1}" if p.mean else p.normalize
    found = evaluate_weights(cfg, Path(files[0]), view=args.view, keep=keep)
    if not any(word.startswith(("protocol.normalize=", "protocol.mean=")) for word in args.words):
        print(
            f"normalisation {how}, by protocol {p.name}; other weights may need protocol.normalize=imagenet, or "
            "protocol.mean=[...] and protocol.std=[...]",
            file=sys.stderr,
        )
    named = {"net": cfg.model.name, "dataset": cfg.dataset.name, "weights": files[0]}
    return {**named, "normalisation": how, "view": args.view}, found


def _write_predictions(path: Path, found: "Evaluated") -> None:
    """A row for each test image. Images are numbered in the data set's own order, which depends on their pixels."""
    classes = found.data.classes
    columns = (found.labels.tolist(), found.predictions.tolist(), found.probabilities.tolist())
    try:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            table.writerow(("image", "label", "prediction", "probability", "right"))
            for number, (label, prediction, probability) in enumerate(zip(*columns, strict=True)):
                right = "yes" if label == prediction else "no"
                table.writerow((number, classes[label], classes[prediction], f"{probability:.4f}", right))
    except OSError as error:
        raise UserError(f"--predictions {path}: cannot be written ({error.strerror}); name another file") from None


def _draw(path: Path, facts: dict[str, Any], found: "Evaluated") -> None:
    from resexp.figures.predictions import Miss, draw_predictions

    classes, images = found.data.classes, found.data.test
    worst = [
        Miss(
            next(iter(images.take(slice(index, index + 1)).views("centre", 1)))[0][0][0].cpu().numpy(),
            classes[int(found.labels[index])],
            classes[int(found.predictions[index])],
            float(found.probabilities[index]),
        )
        for index in found.worst(WORST)
    ]
    title = (
        f"{facts['net']} on {facts['dataset']}: {found.errors.error:.2f} % of {len(found.labels):,} test images wrong"
    )
    try:
        draw_predictions(found.confusion.numpy(), classes, worst, path, title=title)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture's
        raise UserError(f"--picture {path}: cannot be written ({error}); name another file") from None
    print(f"picture: {path}", file=sys.stderr)
