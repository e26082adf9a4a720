"""The optimiser, and the learning rate as a function of the step and of what the checkpoint holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn


class SGD:
    """Stochastic gradient descent with momentum: v <- momentum v + gradient + weight_decay w, then w <- w - lr v.

    The decay falls on every parameter, batch norm's too, as in the authors' framework. It is torch.optim.SGD's update
    without its import of the compiler, which takes longer than a thousand updates of a small net.

    :param fused: one operation for all parameters; the numbers stay the same up to rounding.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, momentum: float, weight_decay: float, fused: bool = False
    ) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.fused = fused
        self._lr = 0.0
        device = self.parameters[0].device
        # A recorded step reads the present rate from here.
        self._lr_on_gpu = torch.zeros((), device=device) if device.type == "cuda" else None

    @property
    def lr(self) -> float:
        """Learning rate of the next steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        if self._lr_on_gpu is not None and value != self._lr:
            self._lr_on_gpu.fill_(value)
        self._lr = value

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of all parameters; each must have its gradient."""
        lr = cast(Tensor, self._lr if self._lr_on_gpu is None else self._lr_on_gpu)
        gradients = [cast(Tensor, parameter.grad) for parameter in self.parameters]
        if self.fused:
            torch._fused_sgd_(
                self.parameters, gradients, self.velocities, weight_decay=self.weight_decay, momentum=self.momentum,
                lr=lr, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
            )  # fmt: skip
            return
        for weight, gradient, velocity in zip(self.parameters, gradients, self.velocities, strict=True):
            velocity.mul_(self.momentum).add_(gradient).add_(weight, alpha=self.weight_decay)
            weight.sub_(velocity * lr)

    def state_dict(self) -> dict[str, Any]:
        return {"velocities": self.velocities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for velocity, saved in zip(self.velocities, state["velocities"], strict=True):
            velocity.copy_(saved)


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
