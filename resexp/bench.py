"""How fast a net trains here, alone or in alternation with the loop that people usually write."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from resexp import UserError
from resexp.config import Config
from resexp.console import message
from resexp.data import Dataset, Images
from resexp.models import count_macs
from resexp.train import (
    build_state,
    choose_threads,
    device_name,
    load_data,
    mean_image,
    next_batch,
    set_up_device,
    train_step,
)

WARMUP_STEPS = 3
WORKERS = (0, 1, 2)  # of the reference's DataLoader; the fastest counts
Steps = Callable[[int], None]  # take so many training steps and wait for the device


def bench(cfg: Config, *, against_reference: bool, rounds: int, steps: int) -> dict[str, Any]:
    """Measure images/s in training, ``rounds`` times ``steps`` steps of each loop, in alternation.

    Each loop lives in a process of its own, as it would in use, and sleeps while another one is measured.

    :return: plain values: ``images_per_s`` (median), ``rounds`` of each loop, and with a reference ``ratio``: the
        median over the rounds of ours against the reference loop whose median is the highest.
    :raises UserError: for bad data.
    """
    references = {f"reference, {workers} workers": workers for workers in WORKERS} if against_reference else {}
    rates: dict[str, list[float]] = {name: [] for name in ("resexp", *references)}
    with ExitStack() as stack:
        loops = {name: stack.enter_context(_Loop(cfg, references.get(name))) for name in rates}
        facts = {name: loop.receive() for name, loop in loops.items()}["resexp"]  # all are ready
        for index in range(rounds):
            for name, loop in loops.items():
                rates[name].append(steps * cfg.protocol.batch_size / loop.measure(steps))
            last = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
            message(f"round {index + 1} of {rounds}, images/s: {last}")
    median = {name: statistics.median(values) for name, values in rates.items()}
    result: dict[str, Any] = {
        "net": cfg.model.name,
        "width": cfg.model.width,
        "dataset": cfg.dataset.name,
        "batch_size": cfg.protocol.batch_size,
        "precision": cfg.protocol.precision,
        **facts,
        "torch": torch.__version__,
        "steps": steps,
        "images_per_s": median["resexp"],
        "rounds": rates,
    }
    if references:
        best = max(references, key=median.__getitem__)
        result["reference"] = best
        result["ratio"] = statistics.median(a / b for a, b in zip(rates["resexp"], rates[best], strict=True))
    return result


class _Loop:
    """A training loop in a process of its own; ``workers`` is None for ours."""

    def __init__(self, cfg: Config, workers: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(cfg, workers, theirs))

    def __enter__(self) -> "_Loop":
        self.process.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.is_alive():
            self.pipe.send(0)
        self.process.join()

    def receive(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, UserError):
            raise answer
        return answer

    def measure(self, steps: int) -> float:
        """Seconds of ``steps`` steps, after some to warm up."""
        self.pipe.send(steps)
        return self.receive()


def _serve(cfg: Config, workers: int | None, pipe: Connection) -> None:
    """Build the loop, say where it runs, then measure as often as asked; 0 steps end it."""
    try:
        device = set_up_device(cfg.device, deterministic=cfg.deterministic)
        data = load_data(cfg)
        take_steps, macs = _ours(cfg, data, device) if workers is None else _reference(cfg, data, device, workers)
    except UserError as error:
        pipe.send(error)
        return
    threads = cfg.threads or choose_threads(macs * cfg.protocol.batch_size)
    torch.set_num_threads(threads)
    pipe.send({"device": device_name(device), "threads": threads})
    while steps := pipe.recv():
        take_steps(WARMUP_STEPS)
        began = time.perf_counter()
        take_steps(steps)
        pipe.send(time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ours(cfg: Config, data: Dataset, device: torch.device) -> tuple[Steps, int]:
    p = cfg.protocol
    data = data.to(device)
    mean = mean_image(data, p.normalize)
    state = build_state(cfg, data, device)

    def steps(count: int) -> None:
        for _ in range(count):
            inputs, labels = next_batch(state, data.train, mean, pad=p.pad, flip=p.flip)
            state.counters += train_step(state.net, state.optimizer, inputs, labels, lr=p.lr, precision=p.precision)
        _wait(device)

    return steps, count_macs(state.net, data.image_shape)


class _PillowImages(TorchDataset):
    """What torchvision's CIFAR classes do: arrays in memory, each image turned into a Pillow one and transformed."""

    def __init__(self, part: Images, transform: Callable[[Image.Image], Tensor]) -> None:
        self.arrays = part.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
        self.targets = part.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        array: np.ndarray = self.arrays[index]
        return self.transform(Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)), self.targets[index]


def _reference(cfg: Config, data: Dataset, device: torch.device, workers: int) -> tuple[Steps, int]:
    """The usual trainer: torchvision's transforms in a DataLoader, NCHW, ``loss.item()`` at every step."""
    from torchvision import transforms

    p = cfg.protocol
    pixels = data.train.images.double() / 255
    mean, std = pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
    del pixels
    chosen: list[Any] = [transforms.RandomCrop(data.image_shape[1], padding=p.pad)] if p.pad else []
    chosen += [transforms.RandomHorizontalFlip()] if p.flip else []
    transform = transforms.Compose([*chosen, transforms.ToTensor(), transforms.Normalize(mean, std)])
    loader = DataLoader(
        _PillowImages(data.train, transform),
        batch_size=p.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    state = build_state(cfg, data, device)
    net = state.net.to(memory_format=torch.contiguous_format)
    criterion = nn.CrossEntropyLoss()
    running = {"loss": 0.0, "correct": 0}

    def endless() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def steps(count: int) -> None:
        for _ in range(count):
            inputs, targets = (tensor.to(device, non_blocking=True) for tensor in next(batches))
            state.optimizer.zero_grad()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=p.precision == "bf16"):
                outputs = net(inputs)
                loss = criterion(outputs, targets)
            loss.backward()
            state.optimizer.step()
            running["loss"] += loss.item()
            running["correct"] += int((outputs.argmax(dim=1) == targets).sum().item())
        _wait(device)

    return steps, count_macs(net, data.image_shape)
