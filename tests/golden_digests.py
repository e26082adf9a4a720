"""Golden digests: initial weights and logits of eleven nets, the first steps of six runs, run names and verdicts.

They pin the results through every change of the code. ``python tests/golden_digests.py`` computes them and compares
them with the committed ones; with ``--write`` it takes the computed ones over, which a commit must give a reason for.

Weights are compared bit by bit everywhere. Logits and steps are rounded as the processor's instructions and caches make
the libraries choose, so each model of processor has digests of its own; one that has none yet is compared with the
numbers of another, within rounding.
"""

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from resexp import config
from resexp.cli import main

HERE = Path(__file__).parent / "golden"
REFERENCE = Path(__file__).parent.parent / "outputs" / "reference"
ONE_THREAD = ["fast=false", "threads=1", "device=cpu", "tensorboard=false"]
SMALL = ["dataset=synthetic", "dataset.image_size=32", "model.width=8"]
NETS = {
    "plain20": ["model=plain20", *SMALL],
    "resnet20": ["model=resnet20", *SMALL],
    "resnet56-C": ["model=resnet56", "model.shortcut=C", *SMALL],
    "resnet50": ["model=resnet50", *SMALL],
    "preresnet110": ["model=preresnet110", *SMALL],
    "resnext29": ["model=resnext29_2x8d", "dataset=synthetic", "dataset.image_size=32"],
    "wrn10_2": ["model=wrn10_2", *SMALL],
    "densenet40": ["model=densenet40_k4", "dataset=synthetic", "dataset.image_size=32"],
    "highway20": ["model=highway20", *SMALL],
    "vgg_a_bn": ["model=vgg_a_bn", *SMALL],
    "transformer4": ["model=transformer4", "dataset=synthetic", "model.width=16", "model.heads=2"],
}
SHORT = ["protocol.steps=20", "protocol.log_every=5", "protocol.eval_every=10", "protocol.lr_drops=[14]"]
CROPS = [
    "dataset=imagenet",
    "dataset.image_size=16",
    "model=resnet8",
    "model.width=4",
    "protocol=tiny-imagenet",
    "protocol.batch_size=12",
    "protocol.warmup_steps=4",
    "protocol.colour=0.1",
    "protocol.scales=[256,480]",
]
RUNS = {
    "memory": ["model=resnet8", "model.width=8", "protocol=digits", "protocol.flip=true", *SHORT],
    "fused": ["model=resnet8", "model.width=8", "protocol=digits", "fast=true", *SHORT],
    "dropped": ["model=resnet20", "model.width=4", "model.survival=0.5", "protocol=digits", *SHORT],
    "adamw": ["model=transformer2", "model.width=16", "model.heads=2", "protocol=digits-transformer", *SHORT],
    "packed": [*CROPS, *SHORT],
    "streamed": [*CROPS, "dataset.pack_gb=0", "dataset.workers=1", *SHORT],
}


def processor() -> str:
    """What rounding depends on. Two makers' processors round apart though both have AVX-512."""
    version = torch.__version__.partition("+")[0]
    return f"torch {version}, {torch.backends.cpu.get_cpu_capability()}, {processor_model()}"


def processor_model() -> str:
    """Its maker, family and model, such as "GenuineIntel 6/85"; elsewhere than on Linux the kind of machine."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    said = dict(re.findall(r"^(vendor_id|cpu family|model)\s*: (.*)$", text, re.M))
    return "{vendor_id} {cpu family}/{model}".format(**said) if len(said) == 3 else platform.machine()


def digest(tensors: Iterable[torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def nets() -> dict[str, dict[str, Any]]:
    """Of each net: a digest of its initial weights, one of its logits for a fixed batch, and their sum."""
    from resexp.models.build import build_model

    torch.set_num_threads(1)
    found = {}
    for name, words in NETS.items():
        cfg = config.load(words)
        side = cfg.dataset.image_size or 8
        settings = {key: getattr(cfg.model, key) for key in cfg.model.__dataclass_fields__}
        net = build_model(**settings, image_shape=(3, side, side), classes=10, seed=3, fast=False)
        x = torch.linspace(-1, 1, 4 * 3 * side * side).view(4, 3, side, side)
        with torch.no_grad():
            logits = net(x)
        found[name] = {
            "run": cfg.run_name,
            "weights": digest(net.parameters()),
            "logits": digest([logits]),
            "norm": float(f"{logits.norm().item():.4g}"),
        }
    return found


def steps(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each run, after 20 steps by the command line: digests of weights, momentum and log, and the logged losses."""
    write_photographs(folder / "photographs")
    found = {}
    for name, words in RUNS.items():
        out = folder / name
        root = [f"dataset.root={folder / 'photographs'}"] if "dataset=imagenet" in words else []
        code = main(["train", *ONE_THREAD, *root, *words, f"output_dir={out}"])
        assert code == 0, (name, code)
        (run,) = (out / "runs").iterdir()
        saved = torch.load(run / "checkpoint.pt", weights_only=True)
        log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kept = [{key: line[key] for key in ("step", "epoch", "split", "loss", "error", "lr")} for line in log]
        momentum = [tensor for _, tensors in sorted(saved["optimizer"].items()) for tensor in tensors]
        found[name] = {
            "run": run.name,
            "weights": digest(tensor for tensor in saved["net"].values()),
            "momentum": digest(momentum),
            "log": hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16],
            "losses": [float(f"{line['loss']:.4g}") for line in kept],
        }
    return found


def write_photographs(root: Path) -> None:
    """Smooth colour images of several shapes in three classes."""
    random = np.random.default_rng(7)
    shapes = ((40, 30), (30, 40), (33, 33), (90, 70), (25, 60), (61, 24))
    for part, count in (("train", 12), ("val", 4)):
        for wnid in ("n01", "n02", "n03"):
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for index in range(count):
                small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
                image = small.resize(shapes[index % len(shapes)], Image.Resampling.BICUBIC)
                image.save(folder / f"{wnid}_{index}.png")


def names() -> dict[str, str]:
    """Of each study: a digest of the names of its runs. Users' finished runs are found by them."""
    return {
        name: hashlib.sha256(
            " ".join(sorted(cfg.run_name for _, cfg in config.load_study(name)[1])).encode()
        ).hexdigest()[:16]
        for name in config.names("study")
    }


def verdicts(folder: Path) -> list[list[Any]]:
    """Every verdict on the reference runs: study, nets, verdict, and the effect with its interval."""
    from resexp.studies.claims import judge
    from resexp.studies.find import find_study
    from resexp.studies.verdicts import verdict_data

    (folder / "reference").symlink_to(REFERENCE)
    found = []
    for name in config.names("study"):
        study = find_study(name, folder)
        if study is None:
            continue
        for entry in verdict_data(study.study, judge(study.study.claims, study.groups), reference=True):
            for one in entry["comparisons"] or [{}]:
                numbers = [one.get("effect"), *(one.get("interval") or [])]
                rounded = [None if number is None else round(number, 6) for number in numbers]
                found.append(
                    [
                        name,
                        entry["metric"],
                        entry["net"],
                        entry["minus"],
                        str(entry["verdict"]),
                        entry["seeds_needed"],
                        *rounded,
                    ]
                )
    return found


def popular(folder: Path) -> list[str]:
    """Whether the evidence agrees with each answer to a popular claim."""
    from resexp.studies.popular import answer_all

    return [str(answer.agrees) for answer in answer_all(folder)]


def read(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


def write(name: str, value: Any) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


def compute() -> dict[str, Any]:
    """All of them."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        os.environ["RESEXP_CACHE"] = str(folder / "cache")
        os.environ.pop("RESEXP_DATA", None)  # it names data sets
        found = {"nets": nets(), "steps": steps(folder), "names": names(), "verdicts": verdicts(folder)}
        return {**found, "popular": popular(folder)}


if __name__ == "__main__":
    # --write names verdicts: only these; a new study adds names, and its reference runs add verdicts
    computed = compute()
    for kind in ("nets", "steps"):
        known = read(kind) if (HERE / f"{kind}.json").is_file() else {}
        computed[kind] = {**known, processor(): computed[kind]}
    if "--write" in sys.argv:
        chosen = sys.argv[sys.argv.index("--write") + 1 :] or list(computed)
        for kind in chosen:
            write(kind, computed[kind])
    else:
        changed = [kind for kind, value in computed.items() if value != read(kind)]
        print("changed: " + ", ".join(changed) if changed else "all as committed")
        sys.exit(bool(changed))
