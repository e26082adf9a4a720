"""The machine under a run: device, threads, memory, signals, and a training step recorded as a CUDA graph."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor

from resexp import UserError, system
from resexp.config import Config
from resexp.console import message
from resexp.parallel import World, launched_in_parallel

TINY_STEP_MACS = 1e9  # below this many multiply-adds in a forward pass, a second thread costs more than it brings
ALL_THREADS = torch.get_num_threads()  # torch's own default at the start: all cores, or what OMP_NUM_THREADS says
WARMUP_CALLS = 3  # real steps before the recording: libraries choose their algorithms and allocate in them


def set_up_device(cfg: Config, world: World | None = None) -> torch.device:
    """The device; on a GPU fp32 means fp32, not the tensor cores' TF32. Raises UserError if there is no such GPU."""
    name, local_rank = cfg.device, world.local_rank if world else 0
    device = torch.device(_best_device() if name == "auto" else name)
    if device.type == "cuda" and launched_in_parallel():
        device = torch.device("cuda", local_rank)  # each process on a machine has a GPU of its own
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: this machine has no Apple GPU that torch can use; take device=cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs; take device=cpu or auto")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # streams and recordings are of the current GPU
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = not cfg.deterministic
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if cfg.deterministic != torch.are_deterministic_algorithms_enabled():  # even False imports torch's compiler: 1 s
        torch.use_deterministic_algorithms(cfg.deterministic)
    if cfg.activation_checkpointing:
        system.return_freed_memory()
    return device


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def counter_type(device: torch.device) -> torch.dtype:
    """Of sums over images: float64, which an Apple GPU does not have. float32 counts exactly up to 16 million."""
    return torch.float32 if device.type == "mps" else torch.float64


def synchronize(device: torch.device) -> None:
    """Wait for what the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Half precision where a layer gains by it; weights, optimiser and batch norm's statistics stay fp32."""
    half = TYPES[precision] if precision != "fp32" else torch.bfloat16  # autocast takes no other
    return torch.autocast(device.type, dtype=half, enabled=precision != "fp32")


def multiplies(precision: str, device: torch.device) -> bool:
    """False if this processor is known to have no instructions for a half precision, which is then slower than fp32."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return precision == "fp32" or not known or any(has is True for name, has in known.items() if precision in name)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def choose_threads(step_macs: float) -> int:
    """CPU threads by a fixed rule, never by a timing: another number of threads gives other last bits."""
    return 1 if step_macs < TINY_STEP_MACS else ALL_THREADS


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return system.peak_memory()


STOPPING = system.signal_numbers("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")
PATIENT = getattr(signal, "SIGUSR2", None)  # a cluster's warning comes from more than one side


@dataclass
class Stop:
    """Which signal asked this process to stop, if one did."""

    signal: int | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGINT, SIGTERM, SIGHUP or SIGUSR2 into a request to stop after this step; a second ends at once.

    A closed terminal is a SIGHUP, unless nohup has it ignored. Windows has the first two, and SIGBREAK.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # which alone may take signals
        yield stop
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    left_alone = getattr(signal, "SIGHUP", None) if system.is_ignored("SIGHUP") else None
    signals = [number for number in STOPPING if number != left_alone]

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, _frame: FrameType | None) -> None:
        stop.signal = number
        if number == PATIENT:
            return
        restore()
        message("stopping after this step, with a checkpoint; once more stops at once")

    for number in signals:
        signal.signal(number, request)
    if (parent := os.environ.get(system.PARENT, "")).isdecimal():
        system.stop_with_parent(int(parent))
    try:
        yield stop
    finally:
        restore()


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
            torch.cuda.reset_peak_memory_stats()  # the search for the fastest algorithms needed more than the training
            # Only this thread's calls are watched: a DataLoader's thread may allocate pinned memory meanwhile.
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
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
