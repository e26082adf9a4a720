"""A training loop in a process of its own, which answers requests: steps, limits, peak memory."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from resexp import UserError
from resexp.bench.limits import measure_limits, seconds_of
from resexp.bench.loops import Loop, Ours, Usual
from resexp.builder import load_data
from resexp.config import Config
from resexp.models.build import count_macs
from resexp.run.env import hardware
from resexp.runtime import choose_threads, device_name, peak_memory, set_up_device, synchronize

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages, in the processes started below

WARMUP_STEPS = 5  # a GPU's step is recorded in the fourth


class LoopProcess:
    """A training loop in a process of its own; ``workers`` is None for ours."""

    def __init__(self, cfg: Config, workers: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, self.theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(cfg, workers, self.theirs))

    def __enter__(self) -> "LoopProcess":
        self.process.start()
        self.theirs.close()  # so that its death ends our waiting
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(OSError):  # it may have ended already
            self.send("end")
        self.process.join()

    def send(self, request: str, count: int = 0) -> None:
        self.pipe.send((request, count))

    def receive(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, UserError):
            raise answer
        return answer

    def ask(self, request: str, count: int = 0) -> Any:
        self.send(request, count)
        return self.receive()


def _serve(cfg: Config, workers: int | None, pipe: Connection) -> None:
    """Build the loop, say where it runs, then answer requests until the end, which Ctrl-C in the parent brings too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError):
        _answer(cfg, workers, pipe)


def _answer(cfg: Config, workers: int | None, pipe: Connection) -> None:
    try:
        device = set_up_device(cfg)
        data = load_data(cfg)
        loop: Loop = Ours(cfg, data, device) if workers is None else Usual(cfg, data, device, workers)
    except UserError as error:
        pipe.send(error)
        return
    costs = loop.costs() if isinstance(loop, Ours) else {}
    macs = costs["macs"] if costs else count_macs(loop.net, data.image_shape)  # type: ignore[attr-defined]
    threads = cfg.threads or choose_threads(macs * cfg.protocol.batch_size)
    torch.set_num_threads(threads)
    pipe.send({"hardware": hardware(device_name(device)), "threads": threads, **costs})
    requests: dict[str, Callable[[int], Any]] = {
        "steps": lambda count: _time_steps(loop, count, device),
        "limits": lambda _count: measure_limits(device, cfg.protocol.precision),
        "peak": lambda _count: peak_memory(device),
    }
    if isinstance(loop, Ours):
        requests |= {"split": loop.split, "operations": lambda _count: loop.operations()}
    warm = False
    while (request := pipe.recv())[0] != "end":
        if not warm:
            loop.steps(WARMUP_STEPS if device.type == "cuda" else min(WARMUP_STEPS, request[1]))
            warm = True
        pipe.send(requests[request[0]](request[1]))


def _time_steps(loop: Loop, count: int, device: torch.device) -> float:
    if count > 1:
        loop.steps(2)  # it slept, and others used the caches
    synchronize(device)
    return seconds_of(lambda: loop.steps(count), device)
