"""How much memory a run will need, and how much there is: a sweep starts no run that does not fit. No torch."""

import dataclasses
import math
import subprocess
from pathlib import Path
from typing import Any

from resexp import catalog
from resexp.config import Config
from resexp.data.registry import READERS
from resexp.models.stages import VGG_CONVOLUTIONS, densenet_blocks, stages

PROCESS_BYTES = 600_000_000  # torch itself; on a GPU the context of a process and the libraries' workspaces
SYNTHETIC_BYTES = 13  # per pixel, while random images are made
SPARE = 1.3  # gradients of activations, buffers of the libraries, what an allocator cannot use
WEIGHT_BYTES = 12  # weight, gradient and velocity
BASIC_MAPS = 4  # kept for backward by a basic block: what each convolution reads, and what each batch norm reads
GATED_MAPS = 4  # by a gate, a scaled sum or a norm after the sum: what they read and make
VGG_MAPS = 3
INCEPTION_FLOATS = 12e6  # of one image of 224 pixels


def needed_bytes(cfg: Config) -> int:
    """An estimate of a run's peak memory, on the side of caution; a test holds it against measured ones."""
    reader = READERS[cfg.dataset.source]
    side = cfg.dataset.image_size or reader.side
    floats = activations(catalog.resolve(dataclasses.asdict(cfg.model)), side, cfg.activation_checkpointing)
    element = 2 if cfg.protocol.precision == "bf16" else 4
    needed = SPARE * floats * cfg.protocol.batch_size * element
    pixels = reader.bytes
    if cfg.dataset.source == "synthetic":
        pixels = SYNTHETIC_BYTES * (cfg.dataset.examples or 0) * 3 * side**2
    weights = WEIGHT_BYTES * next((net.parameters for net in catalog.NAMED if net.name == cfg.model.name), 0)
    return round(PROCESS_BYTES + pixels + needed + weights)


def activations(knobs: dict[str, Any], side: int, checkpointing: bool) -> float:
    """Floats of one image that a net keeps for its backward pass."""
    match knobs["family"]:
        case "vgg":
            counts = VGG_CONVOLUTIONS[knobs["variant"]]
            widths = [knobs["width"] * min(2**index, 8) for index in range(len(counts))]
            kept = [(width * VGG_MAPS, count) for width, count in zip(widths, counts, strict=True)]
        case "densenet":
            kept, channels, growth = [], knobs["width"], knobs["growth"]
            if len(densenet_blocks(knobs)) == 4 and side > catalog.SMALL_SIDE:
                side //= 4
            for count in densenet_blocks(knobs):
                made = channels + count * growth  # each layer keeps all before it twice, joined and normalised
                kept.append((channels + made + 9 * growth, count))
                channels = int(made * knobs["compression"])
        case "googlenet":
            return INCEPTION_FLOATS * (side / 224) ** 2 * (16 if side <= catalog.SMALL_SIDE else 1)
        case "transformer":
            tokens = (side // (knobs["patch"] or max(2, side // 8))) ** 2
            return knobs["depth"] * tokens * knobs["width"] * (12 + 2 * knobs["mlp_ratio"])
        case "mlp" | "highway_mlp":
            return knobs["depth"] * knobs["width"] * BASIC_MAPS
        case _:
            if knobs["stem"] == "7x7" or (
                knobs["stem"] == "auto" and knobs["layout"] == "imagenet" and side > catalog.SMALL_SIDE
            ):
                side //= 4
            maps = block_maps(knobs)
            kept = [(knobs["width"] * 2**index * maps, count) for index, count in enumerate(stages(knobs))]
    floats = 0.0
    for index, (channels, count) in enumerate(kept):
        held: float = count
        if checkpointing:  # the inputs of sqrt(n) segments, and all of one segment
            segment = max(1, round(math.sqrt(count)))
            held = count / segment / BASIC_MAPS + segment
        # two more maps: the stem's, or the shortcut's where the width changes
        floats += channels * (held + 2 / BASIC_MAPS) * max(1, side // 2**index) ** 2
    return floats


def block_maps(knobs: dict[str, Any]) -> float:
    """Maps of the first stage's width that one of its blocks keeps."""
    if knobs["family"] == "highway":
        return BASIC_MAPS + GATED_MAPS
    maps = float(BASIC_MAPS)
    if knobs["transform"] == "bottleneck":
        inner = knobs["cardinality"] * knobs["group_width"] / knobs["width"] if "cardinality" in knobs else 1.0
        maps = 2 * (2 * inner + 4)
    usual = knobs.get("order", "original") == "original" and knobs.get("connection", "add") == "add"
    return maps + GATED_MAPS * (not usual) + GATED_MAPS / 2 * bool(knobs["reduction"])


def available_bytes(device: str) -> int | None:
    """Free memory of the machine, or of the GPU for ``cuda`` or ``cuda:1``; None if that cannot be asked."""
    try:
        if device.startswith("cuda"):
            asked = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
            index = device.partition(":")[2] or "0"
            answer = subprocess.run([*asked, f"--id={index}"], capture_output=True, text=True, check=True)
            return int(answer.stdout.split()[0]) * 2**20
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        pass
    return None
