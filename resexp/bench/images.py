"""How fast images come: decoded, packed, cropped from the pack, streamed by workers."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from resexp import UserError, system
from resexp.builder import build_state, load_data
from resexp.config import Config
from resexp.console import message
from resexp.data.decode import read_image
from resexp.data.root import cache_dir
from resexp.run.env import versions
from resexp.runtime import device_name, set_up_device

DECODED = 2048  # images of a measurement of decoding alone


def bench_images(cfg: Config, *, rounds: int, steps: int) -> dict[str, Any]:
    """Measure a tree of images: its two starts with a pack of its own, and the batches that each path delivers.

    :return: plain values: ``images``, ``pack_bytes``, ``first_start_seconds`` (decoding and packing),
        ``second_start_seconds``, and ``images_per_s``, the ``rounds`` of each path, measured in alternation.
    :raises UserError: for other data sets, and for bad images.
    """
    if cfg.dataset.source != "imagenet":
        raise UserError(
            f"--images dataset={cfg.dataset.name}: its images lie decoded on the device; this is for those "
            "of dataset=imagenet"
        )
    device = set_up_device(cfg)
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cfg.dataset.pack or cache_dir()) as folder:
        packs = dataclasses.replace(cfg, dataset=dataclasses.replace(cfg.dataset, pack=folder))
        starts = []
        for _ in range(2):
            began = time.perf_counter()
            packed = load_data(packs)
            starts.append(time.perf_counter() - began)
        result: dict[str, Any] = {
            "dataset": cfg.dataset.name,
            "images": len(packed.train) + len(packed.test),
            "image_size": packed.image_shape[1],
            "batch_size": cfg.protocol.batch_size,
            "hardware": {"device": device_name(device), "cores": system.cores()},
            "versions": versions(),
        }
        paths: dict[str, Callable[[], float]] = {}
        if list(Path(folder).iterdir()):  # few enough to be packed
            result |= {
                "pack_bytes": sum(path.stat().st_size for path in Path(folder).iterdir()),
                "first_start_seconds": starts[0],
                "second_start_seconds": starts[1],
            }
            paths["crops from the pack"] = _delivery(packs, packed, device, steps)
        streamed = _streamed(packs, 0)
        paths[f"decoding, {system.cores()} threads"] = lambda: _decode(streamed.train.files[:DECODED])
        for workers in sorted({1, system.cores()}):
            paths[f"streamed crops, {workers} workers"] = _delivery(packs, _streamed(packs, workers), device, steps)
        rates: dict[str, list[float]] = {name: [] for name in paths}
        for index in range(rounds):
            for name, measure in paths.items():
                rates[name].append(measure())
            last = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
            message(f"round {index + 1} of {rounds}, images/s: {last}")
    return {**result, "images_per_s": rates}


def _streamed(cfg: Config, workers: int) -> Any:
    return load_data(dataclasses.replace(cfg, dataset=dataclasses.replace(cfg.dataset, pack_gb=0, workers=workers)))


def _decode(files: Any) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(system.cores()) as pool:
        for _ in pool.map(lambda file: read_image(os.fsdecode(file)), files):
            pass
    return len(files) / (time.perf_counter() - began)


def _delivery(cfg: Config, data: Any, device: torch.device, steps: int) -> Callable[[], float]:
    """A measurement of the batches of one data set, made ready for the net; workers are started again in each."""
    there = data.to(device)

    def measure() -> float:
        batches = build_state(cfg, there, device).batches
        began, counted = 0.0, 0
        for step in range(2 + steps):
            inputs, _ = batches.make(*next(batches))
            if step == 1:  # the first two come while workers start
                inputs.sum().item()
                began = time.perf_counter()
            elif step > 1:
                counted += len(inputs)
        inputs.sum().item()
        seconds = time.perf_counter() - began
        batches.close()
        return counted / seconds

    return measure
