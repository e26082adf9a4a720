"""Data-parallel training: rank, world size, and the collectives that one run needs. torchrun or SLURM start it."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resexp import UserError
from resexp.system import local_rank, world_size
from resexp.system import rank as this_rank

TIMEOUT = timedelta(minutes=10)  # of a collective: longer than a full evaluation


@dataclass(frozen=True)
class World:
    """The processes of one run. Rank 0 writes the run folder. With a single process every method is a no-op."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, drawn: Tensor | None) -> Tensor | None:
        """This rank's part of what was drawn for a whole batch: (N, ...) -> (N / size, ...)."""
        if drawn is None or self.size == 1:
            return drawn
        count = len(drawn) // self.size
        return drawn[self.rank * count : (self.rank + 1) * count]

    def evaluated(self) -> slice:
        """The images that this rank evaluates: together the ranks evaluate each image once."""
        return slice(self.rank, None, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def max(self, *values: int) -> list[int]:
        """The greatest of each value over all processes: clocks and signals differ, and all must do the same."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values)
        dist.all_reduce(together, op=dist.ReduceOp.MAX)
        return together.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, on rank 0; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.is_first else None
        dist.gather_object(value, values)
        return values or []

    @contextlib.contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Rank 0 goes through the block, then the others: it fills the caches that they read."""
        if self.size > 1 and not self.is_first:
            dist.barrier()
        yield
        if self.size > 1 and self.is_first:
            dist.barrier()

    def wrap(self, net: nn.Module, *, drops_blocks: bool) -> nn.Module:
        """The net with gradients averaged over all processes; each keeps its own buffers, see ``average_buffers``."""
        if self.size == 1:
            return net
        with warnings.catch_warnings():  # the new name of the argument is younger than the oldest torch that we take
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(net, broadcast_buffers=False, find_unused_parameters=drops_blocks)

    def barrier(self) -> None:
        """Wait for all processes: one that leaves while others still listen makes them fail."""
        if self.size > 1:
            dist.barrier()

    @torch.no_grad()
    def average_buffers(self, net: nn.Module) -> None:
        """Batch norm's running statistics become the mean over all processes, as if one had seen all groups of images.

        They are linear in what each process saw, so that it does not matter how often this is done.
        """
        if self.size > 1:
            for buffer in net.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.size


def launched_in_parallel() -> bool:
    """Whether a launcher started this process as one of several."""
    return world_size() > 1


def join_world(batch_size: int, norm_group: int | None) -> World:
    """Connect to the other processes that torchrun started. Raises UserError if they cannot share the batch."""
    if not launched_in_parallel():
        return World()
    size, rank = world_size(), this_rank()
    check_shares(size, batch_size, norm_group)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        taken = "EADDRINUSE" in reason or "in use" in reason
        remedy = "the port is in use: take another (torchrun --master-port), or let torchrun choose (--standalone)"
        raise UserError(
            f"process {rank} of {size} cannot meet the others at {where}: {remedy if taken else reason}"
        ) from None
    return World(rank, size, local_rank())


def check_shares(size: int, batch_size: int, norm_group: int | None) -> None:
    """Raise UserError unless ``size`` processes can share a batch, and batch norm's groups with it."""
    if batch_size % size:
        raise UserError(
            f"protocol.batch_size={batch_size}: {size} processes cannot share it evenly; start a number that divides it"
        )
    share = batch_size // size
    if norm_group is not None and share % norm_group:
        raise UserError(
            f"protocol.norm_group={norm_group}: {size} processes have {share} images each, which are no "
            "whole groups; start fewer processes, or set another norm_group"
        )
    if share < 2:
        raise UserError(f"protocol.batch_size={batch_size}: {size} processes leave one image to each; start fewer")


def leave_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End one of several processes at once: now and then gloo's threads abort in the interpreter's own way out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lost_a_process(error: Exception) -> bool:
    """Whether this is what a collective raises when another process is gone or silent."""
    phrases = ("gloo", "peer", "connection", "timed out", "timeout")  # torch has no exception of its own for these
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(p in text for p in phrases))
