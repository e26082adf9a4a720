"""The optimiser, and the learning rate as a function of the step and of what the checkpoint holds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn


class Optimizer:
    """What the two optimisers share: the parameters, and a rate that a recorded step reads on the GPU.

    Both do what torch.optim's do without its import of the compiler, which takes longer than a thousand updates of a
    small net. ``fused`` means one operation for all parameters; the numbers stay the same up to rounding.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, weight_decay: float, fused: bool) -> None:
        self.parameters: list[Tensor] = list(parameters)
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

    @property
    def _rate(self) -> float:
        return cast(float, self._lr if self._lr_on_gpu is None else self._lr_on_gpu)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """What took no part in a step, a dropped block, has the gradient zero."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def step(self) -> None:
        """One update of all parameters."""
        raise NotImplementedError

    def buffers(self) -> dict[str, list[Tensor]]:
        """What the checkpoint holds: a tensor a parameter, by name."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return self.buffers()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensors in self.buffers().items():
            for mine, saved in zip(tensors, state[name], strict=True):
                mine.copy_(saved)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v <- momentum v + gradient + weight_decay w, then w <- w - lr v.

    The decay falls on every parameter, batch norm's too, as in the authors' framework.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, momentum: float, weight_decay: float, fused: bool = False
    ) -> None:
        super().__init__(parameters, weight_decay=weight_decay, fused=fused)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.momentum = momentum

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"velocities": self.velocities}

    @torch.no_grad()
    def step(self) -> None:
        gradients = self.gradients()
        if self.fused:
            torch._fused_sgd_(
                self.parameters,
                gradients,
                self.velocities,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self._rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )
            return
        for weight, gradient, velocity in zip(self.parameters, gradients, self.velocities, strict=True):
            velocity.mul_(self.momentum).add_(gradient).add_(weight, alpha=self.weight_decay)
            weight.sub_(velocity * self._rate)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2), as transformers are trained."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, weight_decay=weight_decay, fused=fused)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros((), device=self.parameters[0].device) for _ in self.parameters]
        self.betas = betas
        self.eps = eps

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    @torch.no_grad()
    def step(self) -> None:
        gradients = self.gradients()
        (beta1, beta2), eps = self.betas, self.eps
        torch._foreach_add_(self.steps, 1)
        if self.fused:
            torch._fused_adamw_(
                self.parameters,
                gradients,
                self.means,
                self.squares,
                [],
                self.steps,
                lr=self._rate,
                beta1=beta1,
                beta2=beta2,
                weight_decay=self.weight_decay,
                eps=eps,
                amsgrad=False,
                maximize=False,
            )
            return
        for weight, gradient, mean, square, step in zip(
            self.parameters, gradients, self.means, self.squares, self.steps, strict=True
        ):
            weight.mul_(1 - self._rate * self.weight_decay)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            spread = (square / (1 - beta2**step)).sqrt_().add_(eps)
            weight.sub_(self._rate / (1 - beta1**step) * mean / spread)


NO_PLATEAU = {"best": math.inf, "waited": 0, "drops": 0, "wrong": 0.0, "seen": 0.0, "began": 0}


@dataclass(kw_only=True)
class Schedule:
    """Step drops, and a warm-up: of very deep nets until they learn, or of all nets for a number of steps.

    :param drops: steps at which the rate is multiplied by ``drop_factor``, counted from step 0, warm-up included.
    :param warmup_steps: steps at ``warmup_lr`` at the start (He et al. 2016, Sec. 3.1 and Appendix).
    :param warmup: whether this net warms up by its error (He et al. 2015, Sec. 4.2): at ``warmup_lr`` until the mean
        error of the last ``warmup_window`` batches is below ``warmup_error`` (percent), or ``warmup_limit`` steps are
        done: a net that never learns shall meet the papers' rates all the same.
    :param plateau_window: steps whose mean training error (percent) is compared with the best window's since the last
        drop; after ``plateau_patience`` windows that were not better by ``plateau_points`` the rate drops, at most
        ``plateau_drops`` times. None: it does not wait for plateaus. (He et al. 2015, Sec. 3.4.)
    """

    base_lr: float
    drops: Sequence[int] = ()
    drop_factor: float = 0.1
    warmup: bool = False
    warmup_steps: int = 0
    warmup_lr: float = 0.01
    warmup_error: float = 80.0
    warmup_window: int = 100
    warmup_limit: int = 4000
    plateau_window: int | None = None
    plateau_points: float = 0.0
    plateau_patience: int = 1
    plateau_drops: int = 0
    warmup_ended_at: int | None = None
    plateau: dict[str, float] = field(default_factory=lambda: dict(NO_PLATEAU))
    recent_errors: list[float] = field(default_factory=list)

    @property
    def warming_up(self) -> bool:
        return self.warmup and self.warmup_ended_at is None

    def lr(self, step: int) -> float:
        """The rate of the update from ``step`` to ``step + 1``; a warm-up never raises it."""
        drops = sum(step >= drop for drop in self.drops) + self.plateau["drops"]
        rate = self.base_lr * self.drop_factor**drops
        return min(rate, self.warmup_lr) if self.warming_up or step < self.warmup_steps else rate

    def observe(self, step: int, error: float) -> None:
        """Tell the error (percent) of the batch whose update led to ``step``; needed only while ``warming_up``."""
        self.recent_errors = [*self.recent_errors, error][-self.warmup_window :]
        full = len(self.recent_errors) == self.warmup_window
        learns = full and sum(self.recent_errors) / self.warmup_window < self.warmup_error
        if learns or step >= self.warmup_limit:
            self.warmup_ended_at = step

    def observe_window(self, step: int, wrong: float, seen: float) -> None:
        """Tell how many of the images seen since the last call were wrong; after ``plateau_window`` steps, judge."""
        if self.plateau_window is None:
            return
        now = self.plateau
        now["wrong"] += wrong
        now["seen"] += seen
        if step - now["began"] < self.plateau_window:
            return
        error = 100 * now["wrong"] / now["seen"]
        if error < now["best"] - self.plateau_points:
            now |= {"best": error, "waited": 0}
        else:
            now["waited"] += 1
        if now["waited"] >= self.plateau_patience and now["drops"] < self.plateau_drops:
            now |= {"drops": now["drops"] + 1, "waited": 0, "best": math.inf}
        now |= {"wrong": 0, "seen": 0, "began": step}

    def state_dict(self) -> dict[str, Any]:
        return {"warmup_ended_at": self.warmup_ended_at, "recent_errors": self.recent_errors, "plateau": self.plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warmup_ended_at = state["warmup_ended_at"]
        self.recent_errors = list(state["recent_errors"])
        self.plateau = dict(state.get("plateau", NO_PLATEAU))
