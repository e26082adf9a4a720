"""The order in which a run sees its images."""

from typing import Any

import torch
from torch import Tensor


class Loader:
    """An endless stream of batches of indices: one permutation an epoch, cut into batches of one size.

    A batch that reaches past the end of an epoch takes the rest from the next permutation, so that every step has
    ``batch_size`` images and every epoch every image exactly once.
    """

    def __init__(self, size: int, batch_size: int, generator: torch.Generator) -> None:
        self.size = size
        self.batch_size = batch_size
        self.generator = generator
        self.pending = torch.empty(0, dtype=torch.int64, device=generator.device)

    def next_batch(self) -> Tensor:
        """Indices int64 (batch_size,), on the generator's device."""
        while len(self.pending) < self.batch_size:
            epoch = torch.randperm(self.size, generator=self.generator, device=self.generator.device)
            self.pending = torch.cat([self.pending, epoch])
        batch, self.pending = self.pending[: self.batch_size], self.pending[self.batch_size :]
        return batch

    def mark(self) -> dict[str, Any]:
        """What ``load_state_dict`` takes, cheap enough for every step."""
        return {"generator": self.generator.get_state(), "pending": self.pending}

    def state_dict(self) -> dict[str, Any]:
        return copy_mark(self.mark())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.pending = state["pending"].to(self.generator.device)


def copy_mark(mark: dict[str, Any]) -> dict[str, Any]:
    """A mark to be saved: a file would hold the whole epoch of which ``pending`` is the end."""
    return {**mark, "pending": mark["pending"].clone()}
