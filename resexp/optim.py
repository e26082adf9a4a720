"""The optimisers: SGD with momentum, and AdamW."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn


class Optimizer:
    """What the two optimisers share: the parameters, and a rate that a recorded step reads on the GPU.

    Why not torch.optim's: making one imports torch's compiler, which takes longer than a thousand steps of a small net.
    ``fused`` asks for the one operation for all parameters that torch.optim's fused ones call, too. It has no public
    name, so a torch without it takes the public operations one by one; the numbers stay the same up to rounding.
    """

    operation: str  # torch's, for all parameters

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, weight_decay: float, fused: bool, clip_norm: float | None = None
    ) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.decays = [weight_decay if getattr(p, "decays", True) else 0.0 for p in self.parameters]
        self.clip_norm = clip_norm
        self.fused = fused and hasattr(torch, self.operation)
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

    # torch.amp.GradScaler asks for these two of an optimiser that divides by the scale itself; for the time of a step
    # it then sets ``grad_scale`` and ``found_inf``. Nothing waits for the device that way.
    _step_supports_amp_scaling = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.parameters}]

    @property
    def scaling(self) -> dict[str, Tensor | None]:
        """Of the gradients of this step, and whether one of them is not finite, so that the step is left out."""
        return {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """Parameters unused in this step, those of dropped blocks, get a zero gradient.

        With ``clip_norm``, a gradient whose norm over all parameters is larger is shortened to it (Pascanu et al. 2013,
        Algorithm 1).
        """
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        if self.clip_norm is None:
            return found
        factor = (self.clip_norm / nn.utils.get_total_norm(found)).clamp(max=1)
        return [gradient * factor for gradient in found]

    def by_decay(self, *lists: list[Tensor]) -> Iterator[tuple[float, list[list[Tensor]]]]:
        """Each weight decay, and of every list the tensors whose parameters have it."""
        for decay in dict.fromkeys(self.decays):
            yield decay, [[t for t, own in zip(tensors, self.decays, strict=True) if own == decay] for tensors in lists]

    def unscaled(self) -> list[Tensor] | None:
        """The gradients for the operations one by one; None if the step is left out. Waits for the device to know."""
        scale, found = self.scaling["grad_scale"], self.scaling["found_inf"]
        if found is not None and bool(found):
            return None
        return self.gradients() if scale is None else [gradient / scale for gradient in self.gradients()]

    def step(self) -> None:
        """One update of all parameters; none if the gradients were scaled and one is not finite."""
        raise NotImplementedError

    def buffers(self) -> dict[str, list[Tensor]]:
        """What the checkpoint holds: one tensor per parameter, by name."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return self.buffers()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensors in self.buffers().items():
            for mine, saved in zip(tensors, state[name], strict=True):
                mine.copy_(saved)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v <- momentum v + gradient + weight_decay w, then w <- w - lr v.

    The decay falls on every parameter, batch norm's too, as in the authors' framework, but for those that say of
    themselves ``decays = False``. Nesterov's momentum takes gradient + weight_decay w + momentum v in place of v.
    """

    operation = "_fused_sgd_"

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        momentum: float,
        weight_decay: float,
        nesterov: bool = False,
        clip_norm: float | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, weight_decay=weight_decay, fused=fused, clip_norm=clip_norm)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.momentum = momentum
        self.nesterov = nesterov

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"velocities": self.velocities}

    @torch.no_grad()
    def step(self) -> None:
        if self.fused:
            for decay, (weights, gradients, velocities) in self.by_decay(
                self.parameters, self.gradients(), self.velocities
            ):
                torch._fused_sgd_(
                    weights,
                    gradients,
                    velocities if self.momentum else [],  # torch's operation wants none then
                    weight_decay=decay,
                    momentum=self.momentum,
                    lr=self._rate,
                    dampening=0.0,
                    nesterov=self.nesterov,
                    maximize=False,
                    is_first_step=False,
                    **self.scaling,
                )
            return
        unscaled = self.unscaled()
        if unscaled is None:
            return
        for weight, gradient, velocity, decay in zip(
            self.parameters, unscaled, self.velocities, self.decays, strict=True
        ):
            velocity.mul_(self.momentum).add_(gradient).add_(weight, alpha=decay)
            if self.nesterov:
                weight.sub_((gradient + decay * weight + self.momentum * velocity) * self._rate)
            else:
                weight.sub_(velocity * self._rate)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2), as transformers are trained."""

    operation = "_fused_adamw_"

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip_norm: float | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, weight_decay=weight_decay, fused=fused, clip_norm=clip_norm)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros((), device=self.parameters[0].device) for _ in self.parameters]
        self.betas = betas
        self.eps = eps

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    @torch.no_grad()
    def step(self) -> None:
        (beta1, beta2), eps = self.betas, self.eps
        found = self.scaling["found_inf"]
        for count in self.steps:
            count.add_(1 if found is None else 1 - found)
        if self.fused:
            for decay, (weights, gradients, means, squares, steps) in self.by_decay(
                self.parameters, self.gradients(), self.means, self.squares, self.steps
            ):
                torch._fused_adamw_(
                    weights,
                    gradients,
                    means,
                    squares,
                    [],
                    steps,
                    lr=self._rate,
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=decay,
                    eps=eps,
                    amsgrad=False,
                    maximize=False,
                    **self.scaling,
                )
            return
        unscaled = self.unscaled()
        if unscaled is None:
            return
        for weight, gradient, mean, square, step, decay in zip(
            self.parameters, unscaled, self.means, self.squares, self.steps, self.decays, strict=True
        ):
            weight.mul_(1 - self._rate * decay)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            spread = (square / (1 - beta2**step)).sqrt_().add_(eps)
            weight.sub_(self._rate / (1 - beta1**step) * mean / spread)
