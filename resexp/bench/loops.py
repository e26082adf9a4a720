"""The training loops that are compared: ours, and the one that people usually write."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from resexp.bench.limits import seconds_of, step_bytes
from resexp.builder import build_net, build_state, can_record
from resexp.config import Config
from resexp.data.dataset import Dataset
from resexp.data.source import Source
from resexp.models.build import count_macs
from resexp.runtime import CudaGraph, autocast
from resexp.training import train_step

FLOPS_PER_MAC = 6  # two forward, and as many for the gradients of the input and of the weights
PHASES = ("data", "forward", "backward", "update")


class Loop(Protocol):
    """Something that can be benched."""

    def steps(self, count: int) -> None:
        """Take ``count`` training steps, without waiting for the device at the end."""


class Ours:
    """``resexp train``'s loop, without its log."""

    def __init__(self, cfg: Config, data: Dataset, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.data = data.to(device)
        self.state = build_state(cfg, self.data, device)
        self.state.optimizer.lr = cfg.protocol.lr
        step = partial(train_step, self.state)
        self.step: Callable[..., None] = CudaGraph(step) if can_record(cfg, self.state, device) else step

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step(*next(self.state.batches))

    def costs(self) -> dict[str, int]:
        """What a step asks of the machine."""
        p, shape = self.cfg.protocol, self.data.image_shape
        macs = count_macs(self.state.net, shape)
        element = 4 if p.precision == "fp32" else 2
        return {
            "macs": macs,
            "flops_per_step": FLOPS_PER_MAC * macs * p.batch_size,
            "bytes_per_step": step_bytes(self.state.net, shape, p.batch_size, element=element),
        }

    def split(self, count: int) -> dict[str, float]:
        """Seconds of each phase of a step, mean over ``count`` steps, one phase after another and not recorded.

        The step is the trainer's own; what it calls is timed, and backward is the rest.
        """
        state, seconds = self.state, dict.fromkeys(PHASES, 0.0)

        def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                result: list[Any] = []
                seconds[phase] += seconds_of(lambda: result.append(function(*args)), self.device) / count
                return result[0]

            return call

        whole = copy.copy(state)
        whole.batches, whole.optimizer = copy.copy(state.batches), copy.copy(state.optimizer)
        whole.counts = copy.copy(state.counts)
        whole.batches.make = timed("data", state.batches.make)  # type: ignore[method-assign]
        whole.parallel_net = timed("forward", state.parallel_net)  # type: ignore[assignment]
        # The copy's own step: in fp16 the copy is told how the loss is scaled, and only its own step knows it.
        whole.optimizer.step = timed("update", whole.optimizer.step)  # type: ignore[method-assign]
        whole.counts.add = timed("update", state.counts.add)  # type: ignore[method-assign]
        draw = timed("data", partial(next, state.batches))
        total = 0.0
        for _ in range(count):
            total += seconds_of(lambda: train_step(whole, *draw()), self.device) / count
        return {**seconds, "backward": total - sum(seconds.values())}

    def operations(self) -> dict[str, int]:
        """Of one step: operations called on a CPU, kernels and launches on a GPU."""
        self.steps(1)
        if self.device.type != "cuda":
            with torch.autograd.profiler.profile(use_kineto=False) as cpu:
                self.steps(1)
            called = [event for event in cpu.function_events or [] if event.name.startswith(("aten::", "_NormReLU"))]
            return {"operations": sum(event.cpu_parent not in called for event in called)}
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as gpu:
            self.steps(1)
            torch.cuda.synchronize(self.device)
        events = gpu.events() or []
        kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
        launches = sum(event.name.startswith(("cudaLaunch", "cudaGraphLaunch", "cuLaunch")) for event in events)
        return {"kernels": kernels, "launches": launches}


class Usual:
    """The trainer that people write: torchvision's transforms in a DataLoader, NCHW, ``loss.item()`` at every step.

    :param workers: processes of the DataLoader.
    """

    def __init__(self, cfg: Config, data: Dataset, device: torch.device, workers: int) -> None:
        from torchvision import transforms

        self.cfg, self.device, p = cfg, device, cfg.protocol
        pixels = data.train.sample().double() / 255
        mean, std = pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
        del pixels
        chosen: list[Any] = [transforms.RandomCrop(data.image_shape[1], padding=p.pad)] if p.pad else []
        chosen += [transforms.RandomHorizontalFlip()] if p.flip else []
        self.loader = DataLoader(
            _PillowImages(
                data.train, transforms.Compose([*chosen, transforms.ToTensor(), transforms.Normalize(mean, std)])
            ),
            batch_size=p.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        self.net = build_net(dataclasses.replace(cfg, fast=False), data).to(device)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=p.lr, momentum=p.momentum, weight_decay=p.weight_decay
        )
        self.criterion = nn.CrossEntropyLoss()
        self.batches = self._endless()
        self.loss, self.correct = 0.0, 0

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    def steps(self, count: int) -> None:
        for _ in range(count):
            inputs, targets = (tensor.to(self.device, non_blocking=True) for tensor in next(self.batches))
            self.optimizer.zero_grad()
            with autocast(self.device, self.cfg.protocol.precision):
                outputs = self.net(inputs)
                loss = self.criterion(outputs, targets)
            loss.backward()
            self.optimizer.step()
            self.loss += loss.item()
            self.correct += int((outputs.argmax(dim=1) == targets).sum().item())


class _PillowImages(TorchDataset[Any]):
    """What torchvision's CIFAR classes do: arrays in memory, each image turned into a Pillow one and transformed."""

    def __init__(self, part: Source, transform: Callable[[Image.Image], Tensor]) -> None:
        self.arrays = part.sample().permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
        self.targets = part.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        array: np.ndarray = self.arrays[index]
        return self.transform(Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)), self.targets[index]
