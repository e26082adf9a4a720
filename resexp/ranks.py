"""What the environment says of this process: which of a run's it is, and which sweep started it. No torch."""

import os

from resexp import UserError

PARENT = "RESEXP_PARENT"  # the variable with the process id of the sweep that started this run


def world_size() -> int:
    """How many processes train the run together; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """This process's place among them; 0 without a launcher."""
    if world_size() > 1 and not os.environ.get("RANK"):
        raise UserError("WORLD_SIZE is set and RANK is not: start with torchrun, or unset WORLD_SIZE")
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Its place among those of this machine, which decides its GPU."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise UserError(f"{name}={text}: must be a whole number; start with torchrun, or unset it")
    return int(text) if text else usual
