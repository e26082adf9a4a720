"""How fast a net trains here, alone or in alternation with the loop that people usually write."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from resexp.config import Config
from resexp.console import message
from resexp.data import Dataset, Images
from resexp.data.augment import pixel_mean
from resexp.models import count_macs
from resexp.train import build_state, choose_threads, device_name, load_data, next_batch, set_up_device, train_step

WARMUP_STEPS = 3


@dataclass
class Contestant:
    """A training loop: ``steps(n)`` takes n steps and waits for the device."""

    name: str
    steps: Callable[[int], None]
    rates: list[float] = field(default_factory=list)  # images/s, one a round

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def bench(cfg: Config, *, against_reference: bool, rounds: int, steps: int) -> dict[str, Any]:
    """Measure images/s in training, ``rounds`` times ``steps`` steps of each loop, in alternation.

    :return: plain values: ``images_per_s`` (median), ``rounds`` of each loop, and with a reference ``ratio``: the
        median over the rounds of ours against the reference loop whose median is the highest.
    """
    device = set_up_device(cfg.device, deterministic=cfg.deterministic)
    data = load_data(cfg)
    ours, macs = _ours(cfg, data, device)
    threads = cfg.threads or choose_threads(macs * cfg.protocol.batch_size)
    torch.set_num_threads(threads)
    contestants = [ours]
    if against_reference:
        contestants += [_reference(cfg, data, device, workers) for workers in (0, 1, 2)]
    for index in range(rounds):
        for contestant in contestants:
            contestant.steps(WARMUP_STEPS)
            began = time.perf_counter()
            contestant.steps(steps)
            contestant.rates.append(steps * cfg.protocol.batch_size / (time.perf_counter() - began))
        last = ", ".join(f"{contestant.name} {contestant.rates[-1]:,.0f}" for contestant in contestants)
        message(f"round {index + 1} of {rounds}, images/s: {last}")
    result: dict[str, Any] = {
        "net": cfg.model.name,
        "width": cfg.model.width,
        "dataset": cfg.dataset.name,
        "batch_size": cfg.protocol.batch_size,
        "precision": cfg.protocol.precision,
        "device": device_name(device),
        "threads": threads,
        "torch": torch.__version__,
        "images_per_s": ours.median,
        "rounds": {contestant.name: contestant.rates for contestant in contestants},
    }
    if against_reference:
        best = max(contestants[1:], key=lambda contestant: contestant.median)
        result["reference"] = best.name
        result["ratio"] = statistics.median(a / b for a, b in zip(ours.rates, best.rates, strict=True))
    return result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ours(cfg: Config, data: Dataset, device: torch.device) -> tuple[Contestant, int]:
    p = cfg.protocol
    data = data.to(device)
    mean = pixel_mean(data.train.images) if p.normalize == "pixel-mean" else None
    state = build_state(cfg, data, device)
    macs = count_macs(state.net, data.image_shape)

    def steps(count: int) -> None:
        for _ in range(count):
            inputs, labels = next_batch(state, data.train, mean, pad=p.pad, flip=p.flip)
            state.counters += train_step(state.net, state.optimizer, inputs, labels, lr=p.lr, precision=p.precision)
        _wait(device)

    return Contestant("resexp", steps), macs


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


def _reference(cfg: Config, data: Dataset, device: torch.device, workers: int) -> Contestant:
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

    return Contestant(f"reference, {workers} workers", steps)
