"""The optimiser, and the learning rate as a function of the step and of what the checkpoint holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


def build_optimizer(
    parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD with momentum; the decay falls on every parameter, batch norm's too, as in the authors' framework."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


@dataclass(kw_only=True)
class Schedule:
    """Step drops, and for very deep nets a warm-up that ends by the training error (He et al. 2015, Sec. 4.2).

    :param drops: steps at which the rate is multiplied by ``drop_factor``, counted from step 0, warm-up included.
    :param warmup: whether this net warms up: at ``warmup_lr`` until the mean error of the last ``warmup_window``
        batches is below ``warmup_error`` (percent).
    """

    base_lr: float
    drops: Sequence[int] = ()
    drop_factor: float = 0.1
    warmup: bool = False
    warmup_lr: float = 0.01
    warmup_error: float = 80.0
    warmup_window: int = 100
    warmup_ended_at: int | None = None
    recent_errors: list[float] = field(default_factory=list)

    @property
    def warming_up(self) -> bool:
        return self.warmup and self.warmup_ended_at is None

    def lr(self, step: int) -> float:
        """The rate of the update from ``step`` to ``step + 1``."""
        if self.warming_up:
            return self.warmup_lr
        drops = sum(step >= drop for drop in self.drops)
        return self.base_lr * self.drop_factor**drops

    def observe(self, step: int, error: float) -> None:
        """Tell the error (percent) of the batch whose update led to ``step``; needed only while ``warming_up``."""
        self.recent_errors = [*self.recent_errors, error][-self.warmup_window :]
        full = len(self.recent_errors) == self.warmup_window
        if full and sum(self.recent_errors) / self.warmup_window < self.warmup_error:
            self.warmup_ended_at = step

    def state_dict(self) -> dict[str, Any]:
        return {"warmup_ended_at": self.warmup_ended_at, "recent_errors": self.recent_errors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warmup_ended_at = state["warmup_ended_at"]
        self.recent_errors = list(state["recent_errors"])
