"""How much memory a run will need, and how much there is: a sweep starts no run that does not fit. No torch."""

import dataclasses
import subprocess

from resexp import catalog, system
from resexp.config import Config
from resexp.data.registry import READERS

PROCESS_BYTES = 600_000_000  # torch itself; on a GPU the context of a process and the libraries' workspaces
SYNTHETIC_BYTES = 13  # per pixel, while random images are made
SPARE = 1.3  # gradients of activations, buffers of the libraries, what an allocator cannot use
WEIGHT_BYTES = 12  # weight, gradient and velocity


def needed_bytes(cfg: Config) -> int:
    """An estimate of a run's peak memory, on the side of caution; a test holds it against measured ones."""
    reader = READERS[cfg.dataset.source]
    side = cfg.dataset.image_size or reader.side
    knobs = catalog.resolve(dataclasses.asdict(cfg.model))
    floats = catalog.FAMILIES[cfg.model.family].floats(knobs, side, cfg.activation_checkpointing)
    element = 4 if cfg.protocol.precision == "fp32" else 2
    needed = SPARE * floats * cfg.protocol.batch_size * element
    pixels = reader.bytes
    if cfg.dataset.source == "synthetic":
        pixels = SYNTHETIC_BYTES * (cfg.dataset.examples or 0) * 3 * side**2
    weights = WEIGHT_BYTES * next((net.parameters for net in catalog.NAMED if net.name == cfg.model.name), 0)
    return round(PROCESS_BYTES + pixels + needed + weights)


def available_bytes(device: str) -> int | None:
    """Free memory of the machine, or of the GPU for ``cuda`` or ``cuda:1``; None if that cannot be asked."""
    try:
        if device.startswith("cuda"):
            asked = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
            index = device.partition(":")[2] or "0"
            answer = subprocess.run([*asked, f"--id={index}"], capture_output=True, text=True, check=True)
            return int(answer.stdout.split()[0]) * 2**20
        return system.available_memory()
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None
