"""Train one net: ``train``, ``train_step``, ``evaluate``. One linear loop; all it needs is built in plain sight."""

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError, checkpoint, runlog
from resexp.config import Config, identity, to_yaml
from resexp.cudagraph import CudaGraph
from resexp.data import Dataset, Images, build_data
from resexp.data.augment import augment, channel_statistics, draw, normalize, pixel_mean
from resexp.data.loader import Loader
from resexp.models import build_model, count_macs, count_parameters
from resexp.models.kernels import load_kernels
from resexp.models.resnet import drops_blocks, has_dropout
from resexp.optim import SGD, AdamW, Optimizer, Schedule

EVAL_BATCH = 1000
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, for weights trained with them
TINY_STEP_MACS = 1e9  # below this many multiply-adds in a forward pass, a second thread costs more than it brings
LOSS, WRONG, SEEN, FINITE = range(4)  # columns of the counters: sums over images, and batches with a finite loss
WINDOW, EPOCH = range(2)  # their rows: since the last train line of the log, since the last start of an epoch
RESULTS = ("test_error", "val_error", "best_val_step", "best_val_error", "best_val_test_error")
ALL_THREADS = torch.get_num_threads()  # torch's own default at the start: all cores, or what OMP_NUM_THREADS says
EARLIER_VERSION = "its checkpoint is of an earlier version"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # a disk that takes no more


class Noise:
    """What dropout and stochastic depth draw from: torch's own generators, which take no other."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index or 0])
        for generator in self.generators:
            generator.manual_seed(stream_seed(seed, stream=3))

    def get_state(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def set_state(self, states: list[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state.cpu())


@dataclass
class State:
    """All that changes while a net trains, and so all that a checkpoint holds."""

    net: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    loader: Loader
    augmentation: torch.Generator
    noise: Noise
    counters: Tensor  # float64 (2, 4), on the device
    last_epoch: Tensor  # float64 (4,): the counters of the last full epoch
    step: int = 0
    results: dict[str, float] = field(default_factory=dict)  # the last evaluation, and the best on validation images
    seconds: float = 0.0
    train_seconds: float = 0.0  # without evaluations and checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "augmentation": self.augmentation.get_state(),
            "noise": self.noise.get_state(),
            "counters": self.counters,
            "last_epoch": self.last_epoch,
            "step": self.step,
            "results": self.results,
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.loader.load_state_dict(saved["loader"])
        self.augmentation.set_state(saved["augmentation"].cpu())
        if "noise" in saved:  # a checkpoint of before there was any
            self.noise.set_state(saved["noise"])
        self.counters.copy_(saved["counters"])
        self.last_epoch.copy_(saved["last_epoch"])
        self.step, self.results = saved["step"], dict(saved["results"])
        self.seconds, self.train_seconds = saved["seconds"], saved["train_seconds"]


def train(cfg: Config, run_dir: Path) -> dict[str, Any]:
    """Train one run from its checkpoint, or from the start, and return its summary.

    Ends early, with a checkpoint, on SIGINT, SIGTERM or after ``max_minutes``: status ``interrupted``. A loss that is
    not finite ends it with status ``diverged`` and leaves the last good checkpoint as it is.

    :raises UserError: for bad data, a folder that cannot be written, or a checkpoint that does not fit.
    """
    with runlog.open_folder(run_dir), stop_signals() as stop:
        try:
            return _train(cfg, run_dir, stop)
        except UserError:
            raise
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            kept = " (the last checkpoint is intact)" if (run_dir / runlog.CHECKPOINT).is_file() else ""
            raise UserError(
                f"cannot write into {run_dir}: {error.strerror or error}; make room and repeat{kept}"
            ) from error
        except Exception as error:
            runlog.write_json(
                run_dir / runlog.SUMMARY, {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            )
            raise


def _train(cfg: Config, run_dir: Path, stop: "StopSignal") -> dict[str, Any]:
    started = time.monotonic()
    deadline = started + cfg.max_minutes * 60 if cfg.max_minutes else math.inf
    p = cfg.protocol
    device = set_up_device(cfg.device, deterministic=cfg.deterministic)
    if cfg.activation_checkpointing:
        return_freed_memory()
    saved = load_checkpoint(cfg, run_dir / runlog.CHECKPOINT, device)
    data = load_data(cfg)
    digest = data.digest()
    data = data.to(device)
    if saved:
        check_data(saved, digest, cfg.dataset.name, run_dir)
        if saved["device"] != device.type:
            raise UserError(
                f"{run_dir}: started on {saved['device']}; go on there, or start anew with another output_dir"
            )
    mean = mean_image(data, p.normalize)

    state = build_state(cfg, data, device)
    params, macs = count_parameters(state.net), count_macs(state.net, data.image_shape)
    threads = cfg.threads or (saved["threads"] if saved else choose_threads(macs * p.batch_size))
    torch.set_num_threads(threads)
    if saved:
        try:
            state.load_state_dict(saved)
        except (KeyError, RuntimeError):
            raise UserError(f"{run_dir}: {EARLIER_VERSION}; remove it to start the run again") from None
    earlier_seconds = state.seconds

    runlog.write_text(run_dir / runlog.CONFIG, to_yaml(cfg))
    (run_dir / runlog.SUMMARY).unlink(missing_ok=True)  # it is written last, when this process ends
    runlog.write_env(run_dir, step=state.step, device=device_name(device), threads=threads,
                     fast_paths=fast_paths(cfg, state.net, device))  # fmt: skip
    log = runlog.MetricsLog(
        run_dir, size=saved["log_size"] if saved else 0, step=state.step, tensorboard=cfg.tensorboard
    )
    progress = runlog.ProgressLine(step=state.step, steps=p.steps)
    progress.note(str(run_dir))
    progress.note(
        f"{cfg.model.name}, width {cfg.model.width}: {params:,} parameters, {macs / 1e6:,.2f} M multiply-adds; "
        f"{device_name(device)}, {threads} thread{'s' * (threads > 1)}, {p.precision}, "
        f"{' and '.join(fast_paths(cfg, state.net, device)) or 'plain torch'}"
    )
    progress.note(
        f"{cfg.dataset.name}: {len(data.train):,} training, {len(data.val or []):,} validation, {len(data.test):,} "
        f"test images; protocol {p.name}: {p.steps:,} steps of {p.batch_size}"
    )
    progress.note(f"resuming at step {state.step} of {p.steps}" if saved else f"starting at step 0 of {p.steps}")

    take_step = build_step(cfg, state, data.train, mean)
    diverged_at: int | None = None
    last_save = time.monotonic()
    watch = Stopwatch(device)
    watch.start()
    try:
        while state.step < p.steps:
            lr = state.optimizer.lr = state.schedule.lr(state.step)
            batch = take_step(*draw_batch(state, pad=p.pad, flip=p.flip))
            state.step += 1
            watch.images += p.batch_size
            if state.schedule.warming_up:  # the one place where a step waits for the device: some hundred steps
                state.schedule.observe(state.step, 100 * float(batch[WRONG]) / p.batch_size)
            if state.step * p.batch_size // len(data.train) > (state.step - 1) * p.batch_size // len(data.train):
                state.last_epoch.copy_(state.counters[EPOCH])
                state.counters[EPOCH].zero_()

            last = state.step == p.steps
            stopping = stop.signal is not None or time.monotonic() > deadline
            log_due = last or state.step % p.log_every == 0
            eval_due = last or state.step % p.eval_every == 0
            save_due = last or stopping or time.monotonic() - last_save > p.save_seconds
            if not (log_due or eval_due or save_due or progress.due()):
                continue

            state.train_seconds += watch.stop()
            window = state.counters[WINDOW].tolist()
            batches = round(window[SEEN] / p.batch_size)
            if batches > window[FINITE]:
                diverged_at = state.step - batches + int(window[FINITE]) + 1
                break
            epoch = state.step * p.batch_size / len(data.train)
            loss, error = window[LOSS] / window[SEEN], 100 * window[WRONG] / window[SEEN]
            if last or progress.due():
                progress.show(state.step, loss=loss, train_error=error, rate=watch.rate(),
                              test_error=state.results.get("test_error"))  # fmt: skip
            if log_due:
                log.write(step=state.step, epoch=epoch, split="train", loss=loss, error=error, lr=lr,
                          images_per_s=watch.rate())  # fmt: skip
                state.counters[WINDOW].zero_()
                watch.next_lap()
            if eval_due:
                evaluate_parts(state, data, mean, p.precision, log, epoch=epoch, lr=lr)
            if save_due:
                if not all(bool(weight.isfinite().all()) for weight in state.net.parameters()):
                    diverged_at = state.step
                    break
                state.seconds = earlier_seconds + time.monotonic() - started
                extra = {
                    "identity": identity(cfg),
                    "data": digest,
                    "device": device.type,
                    "threads": threads,
                    "log_size": log.size(),
                }
                checkpoint.save(run_dir / runlog.CHECKPOINT, {**state.state_dict(), **extra})
                last_save = time.monotonic()
            if stopping:
                break
            watch.start()
    finally:
        progress.close()
        log.close()

    state.seconds = earlier_seconds + time.monotonic() - started
    status = "diverged" if diverged_at else "finished" if state.step == p.steps else "interrupted"
    counts = state.last_epoch if state.last_epoch[SEEN] else state.counters[EPOCH]
    summary = {
        "status": status,
        "step": diverged_at or state.step,
        "train_error": 100 * float(counts[WRONG] / counts[SEEN]) if counts[SEEN] and not diverged_at else None,
        **{key: state.results.get(key) for key in RESULTS},
        "warmup_ended_at": state.schedule.warmup_ended_at,
        "classes": len(data.classes),
        "params": params,
        "macs": macs,
        "seconds": state.seconds,
        "images_per_s": state.step * p.batch_size / state.train_seconds if state.train_seconds else None,
        "peak_memory_bytes": peak_memory(device),
        "signal": stop.signal if status == "interrupted" else None,
    }
    runlog.write_json(run_dir / runlog.SUMMARY, summary)
    return summary


def draw_batch(state: State, *, pad: int, flip: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """All that is random in the next step: image indices (N,), crop offsets (2, N), mirroring (N,)."""
    indices = state.loader.next_batch()
    return indices, *draw(len(indices), pad=pad, flip=flip, generator=state.augmentation)


def make_batch(
    part: Images, mean: Tensor | None, indices: Tensor, offsets: Tensor | None, mirrored: Tensor | None, *, pad: int
) -> tuple[Tensor, Tensor]:
    """The drawn batch, ready for the net: float32 (N, C, H, W) and labels int64 (N,)."""
    return normalize(augment(part.images[indices], offsets, mirrored, pad=pad), mean), part.labels[indices]


def build_step(cfg: Config, state: State, part: Images, mean: Tensor | None) -> Callable[..., Tensor]:
    """One update as a function of what is drawn for it. On a GPU, with ``fast``, it is recorded and replayed.

    It adds to ``state.counters`` and returns what it has added.
    """
    p = cfg.protocol

    def step(indices: Tensor, offsets: Tensor | None, mirrored: Tensor | None) -> Tensor:
        inputs, labels = make_batch(part, mean, indices, offsets, mirrored, pad=p.pad)
        batch = train_step(state.net, state.optimizer, inputs, labels, precision=p.precision)
        state.counters.add_(batch)
        return batch

    return CudaGraph(step) if is_recorded(cfg, state.net, part.images.device) else step


def is_recorded(cfg: Config, net: nn.Module, device: torch.device) -> bool:
    """Whether steps are a CUDA graph: not where the host drops blocks, or must read the generator to recompute."""
    host_draws = drops_blocks(net) or (cfg.activation_checkpointing and has_dropout(net))
    return cfg.fast and device.type == "cuda" and not host_draws


def train_step(net: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor, *, precision: str) -> Tensor:
    """One update: forward, backward, step. Nothing in it waits for the device.

    :param inputs: float32 (N, C, H, W).
    :param labels: int64 (N,).
    :return: float64 (4,) on the device: loss and errors summed over the batch, N, and 1 if the loss is finite.
    """
    loss, logits = forward(net, inputs, labels, precision=precision)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return count_batch(loss, logits, labels)


def forward(net: nn.Module, inputs: Tensor, labels: Tensor, *, precision: str) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch, and its logits (N, classes)."""
    with autocast(inputs.device, precision):
        logits = net(inputs)
    return F.cross_entropy(logits.float(), labels), logits


@torch.no_grad()
def count_batch(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """float64 (4,): loss and errors summed over the batch, its size, and 1 if the loss is finite."""
    wrong = (logits.argmax(dim=1) != labels).sum()
    count = torch.full((), len(labels), dtype=torch.float64, device=labels.device)
    return torch.stack([loss.double() * count, wrong.double(), count, loss.isfinite().double()])


@torch.inference_mode()
def evaluate(net: nn.Module, part: Images, mean: Tensor | None, *, precision: str) -> tuple[float, float]:
    """Mean loss and error (percent) over all images of ``part``, single view, in evaluation mode."""
    net.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=part.labels.device)
    for images, labels in zip(part.images.split(EVAL_BATCH), part.labels.split(EVAL_BATCH), strict=True):
        with autocast(images.device, precision):
            logits = net(normalize(images, mean)).float()
        wrong = (logits.argmax(dim=1) != labels).sum()
        totals += torch.stack([F.cross_entropy(logits, labels, reduction="sum").double(), wrong.double()])
    net.train()
    loss, wrong_count = totals.tolist()
    return loss / len(part), 100 * wrong_count / len(part)


def evaluate_parts(
    state: State, data: Dataset, mean: Tensor | None, precision: str, log: runlog.MetricsLog, *, epoch: float, lr: float
) -> None:
    """Evaluate on the validation and test images, log both, and keep the step that the validation images prefer."""
    for split, part in (("val", data.val), ("test", data.test)):
        if part is None:
            continue
        began = time.monotonic()
        loss, error = evaluate(state.net, part, mean, precision=precision)
        rate = len(part) / (time.monotonic() - began)
        log.write(step=state.step, epoch=epoch, split=split, loss=loss, error=error, lr=lr, images_per_s=rate)
        state.results[f"{split}_error"] = error
    now = state.results
    if data.val and now["val_error"] < now.get("best_val_error", math.inf):
        now |= {
            "best_val_step": state.step,
            "best_val_error": now["val_error"],
            "best_val_test_error": now["test_error"],
        }


def load_data(cfg: Config) -> Dataset:
    """The configured data set with the protocol's validation images held out. Raises UserError."""
    d = cfg.dataset
    try:
        data = build_data(
            source=d.source,
            root=d.root,
            download=d.download,
            image_size=d.image_size,
            examples=d.examples,
            progress=runlog.print_progress,
        )
    except OSError as error:
        raise UserError(f"{d.name}: cannot read {error.filename}: {error.strerror}") from None
    size, held_out = len(data.train), cfg.protocol.val_size
    if held_out >= size:
        raise UserError(f"protocol.val_size={held_out}: {d.name} has only {size:,} training images; hold out fewer")
    return data.hold_out(held_out)


def mean_image(data: Dataset, normalize: str) -> Tensor | None:
    """What the protocol subtracts from every image: float32 (C, H, W), or None.

    Where it also divides by a standard deviation, this is the second of two: (2, C, H, W).
    """
    images = data.train.images
    match normalize:
        case "pixel-mean":
            return pixel_mean(images)
        case "channel":
            return channel_statistics(images)
        case "imagenet":
            if images.shape[1] != 3:
                raise UserError(f"protocol.normalize=imagenet: three channels, and these images have {images.shape[1]}")
            statistics = torch.tensor(IMAGENET_STATISTICS, device=images.device)[..., None, None]
            return statistics.expand(2, 3, *images.shape[2:]).contiguous()
    return None


def build_net(cfg: Config, data: Dataset) -> nn.Module:
    """The configured net with fresh weights, on the CPU."""
    return build_model(
        **dataclasses.asdict(cfg.model),
        image_shape=data.image_shape,
        classes=len(data.classes),
        seed=cfg.seed,
        activation_checkpointing=cfg.activation_checkpointing,
        fast=cfg.fast,
    )


def build_state(cfg: Config, data: Dataset, device: torch.device) -> State:
    """A net with fresh weights, and all that trains it, at step 0."""
    p = cfg.protocol
    net = build_net(cfg, data).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(
        net=net,
        optimizer=build_optimizer(cfg, net),
        schedule=Schedule(
            base_lr=p.lr,
            drops=p.lr_drops,
            drop_factor=p.lr_drop_factor,
            warmup=p.warmup_depth is not None and cfg.model.depth >= p.warmup_depth,
            warmup_lr=p.warmup_lr,
            warmup_error=p.warmup_error,
            warmup_window=p.warmup_window,
        ),
        loader=Loader(len(data.train), p.batch_size, seeded_generator(cfg.seed, stream=1, device=device)),
        augmentation=seeded_generator(cfg.seed, stream=2, device=device),
        noise=Noise(cfg.seed, device),
        counters=torch.zeros(2, 4, dtype=torch.float64, device=device),
        last_epoch=torch.zeros(4, dtype=torch.float64, device=device),
    )


def build_optimizer(cfg: Config, net: nn.Module) -> Optimizer:
    p = cfg.protocol
    if p.optimizer == "adamw":
        return AdamW(net.parameters(), weight_decay=p.weight_decay, fused=cfg.fast)
    return SGD(net.parameters(), momentum=p.momentum, weight_decay=p.weight_decay, fused=cfg.fast)


def evaluate_run(run_dir: Path, cfg: Config) -> tuple[int, float, float]:
    """Step, test loss and test error (percent) of a run's checkpoint, single view. Raises UserError."""
    device = set_up_device(cfg.device, deterministic=cfg.deterministic)
    saved = load_checkpoint(cfg, run_dir / runlog.CHECKPOINT, device)
    if saved is None:
        raise UserError(f"{run_dir}: no {runlog.CHECKPOINT} to evaluate; resume the run to make one")
    torch.set_num_threads(saved["threads"])
    data = load_data(cfg)
    check_data(saved, data.digest(), cfg.dataset.name, run_dir)
    data = data.to(device)
    net = build_state(cfg, data, device).net
    try:
        net.load_state_dict(saved["net"])
    except RuntimeError:
        raise UserError(f"{run_dir}: {EARLIER_VERSION}; remove it and train the run again") from None
    mean = mean_image(data, cfg.protocol.normalize)
    return saved["step"], *evaluate(net, data.test, mean, precision=cfg.protocol.precision)


def evaluate_weights(cfg: Config, weights: Path) -> tuple[float, float]:
    """Test loss and test error (percent) of the configured net with the weights of a file. Raises UserError."""
    device = set_up_device(cfg.device, deterministic=cfg.deterministic)
    data = load_data(cfg)
    net = build_net(cfg, data)
    checkpoint.load_weights(net, weights)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = mean_image(data, cfg.protocol.normalize)
    data = data.to(device)
    return evaluate(net, data.test, None if mean is None else mean.to(device), precision=cfg.protocol.precision)


def check_data(saved: dict[str, Any], digest: str, name: str, run_dir: Path) -> None:
    """Raise UserError if a checkpoint was trained on other images than these."""
    if saved["data"] != digest:
        raise UserError(
            f"{run_dir}: {name} has other images than when this run started; set another dataset.name or output_dir"
        )


def load_checkpoint(cfg: Config, path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one. Raises UserError if it is damaged or of another configuration."""
    if not path.is_file():
        return None
    saved = checkpoint.load(path, device)
    theirs, ours = _flat(saved.get("identity", {})), _flat(identity(cfg))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{path}: of another configuration ({key} is {theirs.get(key, 'the default')} there, "
                f"{ours.get(key, 'the default')} here); remove it to start the run again"
            )
    return saved


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def seeded_generator(seed: int, *, stream: int, device: torch.device) -> torch.Generator:
    """Independent generators for the order (1) and the augmentation (2) of one seed."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream=stream))


def stream_seed(seed: int, *, stream: int) -> int:
    """Seeds far apart for the random streams of one seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # the CPU's generator keeps but 32 bits


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 where a layer gains by it; weights, optimiser and batch norm's statistics stay fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def set_up_device(name: str, *, deterministic: bool) -> torch.device:
    """The device; on a GPU fp32 means fp32, not the tensor cores' TF32. Raises UserError if there is no such GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs; take device=cpu or auto")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():  # even False imports torch's compiler: a second
        torch.use_deterministic_algorithms(deterministic)
    return device


def fast_paths(cfg: Config, net: nn.Module, device: torch.device) -> list[str]:
    """What of ours takes the place of torch's operations one by one."""
    if not cfg.fast:
        return []
    first = "recorded step" if is_recorded(cfg, net, device) else ""
    if device.type == "cpu" and load_kernels():
        first = "own kernels"
    return [*([first] if first else []), "fused update"]


def return_freed_memory() -> None:
    """Give large tensors pages of their own, which go back to the system when they are freed (M_MMAP_THRESHOLD).

    Otherwise a deep net's small gradients come to lie between the freed activations and pin twice what it needs:
    ResNet-1202's step peaked at 3.5 to 4 GB without this. It costs page faults, and so is for those who asked to spare.
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Stopwatch:
    """Time spent training; it waits for the device before it stops."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.images = 0
        self.lap = 0.0
        self.began = 0.0

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self) -> float:
        """Seconds since ``start``."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        passed = time.perf_counter() - self.began
        self.lap += passed
        return passed

    def rate(self) -> float:
        """Images/s of this lap."""
        return self.images / self.lap

    def next_lap(self) -> None:
        self.images, self.lap = 0, 0.0


@dataclass
class StopSignal:
    """Which signal asked this process to stop, if one did."""

    signal: int | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Turn the first SIGINT or SIGTERM into a wish to stop after this step; a second one ends the process at once."""
    stop = StopSignal()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def wish(number: int, _frame: FrameType | None) -> None:
        stop.signal = number
        restore()
        print("stopping after this step, with a checkpoint; once more stops at once", file=sys.stderr)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in signals:
        signal.signal(number, wish)
    try:
        yield stop
    finally:
        restore()
