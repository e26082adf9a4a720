"""The machine under a run: device, threads, memory, signals, and a training step recorded as a CUDA graph."""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from resexp import UserError
from resexp.config import Config
from resexp.console import message
from resexp.parallel import World, launched_in_parallel
from resexp.ranks import PARENT

TINY_STEP_MACS = 1e9  # below this many multiply-adds in a forward pass, a second thread costs more than it brings
ALL_THREADS = torch.get_num_threads()  # torch's own default at the start: all cores, or what OMP_NUM_THREADS says
WARMUP_CALLS = 3  # real steps before the recording: libraries choose their algorithms and allocate in them


def set_up_device(cfg: Config, world: World | None = None) -> torch.device:
    """The device; on a GPU fp32 means fp32, not the tensor cores' TF32. Raises UserError if there is no such GPU."""
    name, local_rank = cfg.device, world.local_rank if world else 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
    if device.type == "cuda" and launched_in_parallel():
        device = torch.device("cuda", local_rank)  # each process on a machine has a GPU of its own
        torch.cuda.set_device(min(local_rank, torch.cuda.device_count() - 1))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs; take device=cpu or auto")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = not cfg.deterministic
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if cfg.deterministic != torch.are_deterministic_algorithms_enabled():  # even False imports torch's compiler: 1 s
        torch.use_deterministic_algorithms(cfg.deterministic)
    if cfg.activation_checkpointing:
        return_freed_memory()
    return device


TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Half precision where a layer gains by it; weights, optimiser and batch norm's statistics stay fp32."""
    half = TYPES[precision] if precision != "fp32" else torch.bfloat16  # autocast takes no other
    return torch.autocast(device.type, dtype=half, enabled=precision != "fp32")


def multiplies(precision: str, device: torch.device) -> bool:
    """False if this processor is known to have no instructions for a half precision, which is then slower than fp32."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return precision == "fp32" or not known or any(has is True for name, has in known.items() if precision in name)


def return_freed_memory() -> None:
    """Give large tensors pages of their own, which go back to the system when they are freed (M_MMAP_THRESHOLD).

    Otherwise a deep net's small gradients come to lie between the freed activations and pin twice what it needs:
    ResNet-1202's step peaked at 3.5 to 4 GB without this. It costs page faults, so only those who asked to save
    memory pay for it.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to set
        ctypes.CDLL(None).mallopt(-3, 1 << 20)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_threads(step_macs: float) -> int:
    """CPU threads by a fixed rule, never by a timing: another number of threads gives other last bits."""
    return 1 if step_macs < TINY_STEP_MACS else ALL_THREADS


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: a process inherits that number from a larger one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
PARENT_SECONDS = 1.0  # between two looks whether it is still there


@dataclass
class Stop:
    """Which signal asked this process to stop, if one did."""

    signal: int | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGINT, SIGTERM, SIGHUP or SIGUSR2 into a request to stop after this step; a second ends at once.

    A closed terminal is a SIGHUP, unless nohup has it ignored.
    """
    stop = Stop()
    before = {number: signal.getsignal(number) for number in STOPPING}
    signals = [number for number in STOPPING if number != signal.SIGHUP or before[number] != signal.SIG_IGN]

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, _frame: FrameType | None) -> None:
        stop.signal = number
        if number == signal.SIGUSR2:  # a cluster's warning comes from more than one side, and is never impatient
            return
        restore()
        message("stopping after this step, with a checkpoint; once more stops at once")

    for number in signals:
        signal.signal(number, request)
    _stop_with_parent()
    try:
        yield stop
    finally:
        restore()


def _stop_with_parent() -> None:
    """Stop a sweep's run, saved, when the sweep is gone: a killed sweep must leave no process training unseen."""
    parent = os.environ.get(PARENT, "")

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent.isdecimal():
        threading.Thread(target=watch, daemon=True).start()


class CudaGraph:
    """``function`` of tensors on one GPU, recorded at its fourth call. It must do the same work at every call.

    The nets of the CIFAR papers are so small that a GPU runs their kernels faster than a host can launch them. What the
    function changes (weights, counts) must stay in place, at the same address.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.calls = 0
        self.recorded = False
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()  # recording requires the calls before it to run on a side stream
        self.inputs: list[Tensor | None] = []

    def __call__(self, *inputs: Tensor | None) -> None:
        self.calls += 1
        if self.calls <= WARMUP_CALLS:
            self._run_beside(inputs)
            return
        if not self.recorded:
            self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
            with torch.cuda.graph(self.graph):
                self.function(*self.inputs)
            self.recorded = True
        for place, tensor in zip(self.inputs, inputs, strict=True):
            if place is not None and tensor is not None:
                place.copy_(tensor)
        self.graph.replay()

    def _run_beside(self, inputs: tuple[Tensor | None, ...]) -> None:
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            self.function(*inputs)
        usual.wait_stream(self.stream)
