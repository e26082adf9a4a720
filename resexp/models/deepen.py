"""A trained plain net as a deeper one that computes the same.

The solution by construction of He et al. 2015, Sec. 1: the layers of the shallow net, and between them layers that pass
on what they get. That a deep plain net has this solution and does not find it is the paper's case for shortcuts.
"""

from typing import Any

import torch
from torch import Tensor, nn

from resexp.models.blocks import Block
from resexp.models.norm_relu import BatchNorm


@torch.no_grad()
def deepen(net: nn.Module, deeper: nn.Module, images: Tensor, *, batch: int = 500) -> dict[str, Tensor]:
    """The state of ``deeper`` with which it computes what ``net`` computes, in evaluation mode.

    Each stage keeps its blocks, and the new ones come behind them. Their convolutions are the identity, and their batch
    norms put back what they take out: the statistics of what the stage passes on for ``images``, (N, C, H, W).

    :raises ValueError: for nets that are not plain, with batch norm and ReLU, or if the second is not the deeper one.
    """
    state = deeper.state_dict()
    parts: Any = net.eval()
    ends = [_Statistics(stage) for stage in parts.stages]
    for start in range(0, len(images), batch):
        net(images[start : start + batch])
    for end in ends:
        end.hook.remove()
    known = net.state_dict()
    more: Any = deeper
    for number, (stage, wider, end) in enumerate(zip(parts.stages, more.stages, ends, strict=True)):
        if len(stage) >= len(wider):
            raise ValueError(f"stage {number + 1} has {len(wider)} blocks and would need more than {len(stage)}")
        for position in range(len(wider)):
            block = wider[position]
            if not _passes_on(block):
                raise ValueError("only plain nets with batch norm and ReLU are deepened: others may change what passes")
            if position >= len(stage):
                known |= _identity(f"stages.{number}.{position}", block, end)
    if known.keys() != state.keys() or any(known[name].shape != state[name].shape for name in state):
        raise ValueError("the two nets differ in more than their depth")
    return known


class _Statistics:
    """Mean and variance of each channel of what a module returns, over all that it is called with."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        self.sum: Any = 0
        self.squares: Any = 0
        self.hook = module.register_forward_hook(self._add)

    def _add(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        values = output.double()
        self.count += values[:, 0].numel()
        self.sum = self.sum + values.sum(dim=(0, 2, 3))
        self.squares = self.squares + values.square().sum(dim=(0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean**2).clamp(min=0)


def _passes_on(block: Any) -> bool:
    """Whether the block can be the identity: batch norm and ReLU after every convolution, and nothing else."""
    if not (isinstance(block, Block) and block.fuses and block.connection is None):
        return False
    return all(type(getattr(block.transform, f"bn{i + 1}")) is BatchNorm for i in range(block.transform.count))


def _identity(name: str, block: Block, end: _Statistics) -> dict[str, Tensor]:
    mean, variance = end.mean_and_variance()
    state = {}
    for index in range(1, block.transform.count + 1):
        conv: Any = getattr(block.transform, f"conv{index}")
        bn: Any = getattr(block.transform, f"bn{index}")
        state[f"{name}.transform.conv{index}.weight"] = nn.init.dirac_(torch.empty_like(conv.weight))
        dtype = bn.weight.dtype
        own = {
            "weight": (variance + bn.eps).sqrt().to(dtype),
            "bias": mean.to(dtype),
            "running_mean": mean.to(dtype),
            "running_var": variance.to(dtype),
            "num_batches_tracked": torch.zeros((), dtype=torch.long),
        }
        state |= {f"{name}.transform.bn{index}.{key}": tensor for key, tensor in own.items()}
    return state
