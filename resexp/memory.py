"""How much memory a run will need, and how much there is: a sweep starts no run that does not fit. No torch."""

import math
import subprocess
from pathlib import Path

from resexp import catalog
from resexp.config import Config

PROCESS_BYTES = 700_000_000  # torch itself; on a GPU the context of a process and the libraries' workspaces
PIXELS = {"digits": 1797 * 8 * 8, "cifar10": 60_000 * 3 * 32 * 32, "cifar100": 60_000 * 3 * 32 * 32}
SIDES = {"digits": 8, "cifar10": 32, "cifar100": 32, "synthetic": 32, "imagefolder": 224}
MAPS_PER_BLOCK = 4  # kept for backward: what each convolution reads, and what each batch norm reads
SYNTHETIC_BYTES = 13  # a pixel, while random images are made
SPARE = 1.3  # gradients of activations, buffers of the libraries, what an allocator cannot use


def needed_bytes(cfg: Config) -> int:
    """An estimate of a run's peak memory, on the side of caution; a test holds it against measured ones."""
    side = cfg.dataset.image_size or SIDES[cfg.dataset.source]
    blocks = catalog.stages(cfg.model.depth, cfg.model.layout)
    width = cfg.model.width or catalog.BASE_WIDTH[cfg.model.layout]
    if cfg.model.stem == "7x7" or (cfg.model.stem == "auto" and cfg.model.layout == "imagenet" and side > 64):
        side //= 4
    floats = 0.0  # activations of one image
    for stage, count in enumerate(blocks):
        one_map = width * 2**stage * max(1, side // 2**stage) ** 2
        kept: float = count * MAPS_PER_BLOCK
        if cfg.activation_checkpointing:  # the inputs of sqrt(n) segments, and all of one segment
            segment = max(1, round(math.sqrt(count)))
            kept = count / segment + segment * MAPS_PER_BLOCK
        floats += one_map * (kept + 2)  # the stem's two, or the shortcut's where the width changes
    element = 2 if cfg.protocol.precision == "bf16" else 4
    activations = SPARE * floats * cfg.protocol.batch_size * element
    pixels = PIXELS.get(cfg.dataset.source, 0)  # an image folder's are known only when it has been read
    if cfg.dataset.source == "synthetic":
        pixels = SYNTHETIC_BYTES * (cfg.dataset.examples or 0) * 3 * (cfg.dataset.image_size or SIDES["synthetic"]) ** 2
    return round(PROCESS_BYTES + pixels + activations)


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
