"""Train one net: ``train``, ``train_step``, ``evaluate``. One linear loop; all it needs is built in plain sight."""

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import math
import os
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

from resexp import RunError, UserError, checkpoint, runlog
from resexp.batches import Batches, make_batch, mean_image
from resexp.catalog import SMALL_SIDE
from resexp.config import Config, ProtocolConfig, identity, to_yaml
from resexp.cudagraph import CudaGraph
from resexp.data import Dataset, Pack, Stream, build_data
from resexp.data.loader import Loader, copy_mark
from resexp.evaluation import Evaluation, autocast, check_view, evaluate
from resexp.models import build_model, count_macs, count_parameters
from resexp.models.kernels import load_kernels
from resexp.models.norm_relu import set_statistics
from resexp.models.resnet import drops_blocks, has_dropout
from resexp.optim import SGD, AdamW, Optimizer, Schedule
from resexp.parallel import World, asked_for_many, is_loss, join_world, leave_world

TINY_STEP_MACS = 1e9  # below this many multiply-adds in a forward pass, a second thread costs more than it brings
LOSS, WRONG, SEEN, FINITE = range(4)  # columns of the counters: sums over images, and batches with a finite loss
WINDOW, EPOCH = range(2)  # their rows: since the last train line of the log, since the last start of an epoch
VIEW_RESULTS = tuple(
    f"{view}_{kind}"
    for view in ("test", "ten_crop", "multi_scale")
    for kind in ("error", "top5_error")
    if (view, kind) != ("test", "error")
)
RESULTS = ("test_error", "val_error", "best_val_step", "best_val_error", "best_val_test_error")
ALL_THREADS = torch.get_num_threads()  # torch's own default at the start: all cores, or what OMP_NUM_THREADS says
EARLIER_VERSION = "its checkpoint is of an earlier version"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # a disk that takes no more


class Noise:
    """What dropout and stochastic depth draw from: torch's own generators, which take no other."""

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index or 0])
        for generator in self.generators:
            generator.manual_seed(stream_seed(seed, stream=3 + rank))

    def get_state(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def set_state(self, states: list[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state.cpu())


@dataclass
class State:
    """All that changes while a net trains, and so all that a checkpoint holds."""

    net: nn.Module
    trained: nn.Module  # the net, with gradients averaged over all processes
    optimizer: Optimizer
    schedule: Schedule
    loader: Loader
    augmentation: torch.Generator
    noise: Noise
    batches: Batches
    counters: Tensor  # float64 (2, 4), on the device
    last_epoch: Tensor  # float64 (4,): the counters of the last full epoch
    step: int = 0
    results: dict[str, float] = field(default_factory=dict)  # the last evaluation, and the best on validation images
    seconds: float = 0.0
    train_seconds: float = 0.0  # without evaluations and checkpoints

    def state_dict(self) -> dict[str, Any]:
        ahead = self.batches.mark
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": copy_mark(ahead[0]) if ahead else self.loader.state_dict(),
            "augmentation": ahead[1] if ahead else self.augmentation.get_state(),
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
    world = join_world(cfg.protocol.batch_size, cfg.protocol.norm_group)
    folder = runlog.open_folder(run_dir) if world.is_first else contextlib.nullcontext()
    with folder, stop_signals() as stop:
        try:
            return _train(cfg, run_dir, stop, world)
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
            lost = world.size > 1 and is_loss(error)
            if world.is_first:
                runlog.write_json(
                    run_dir / runlog.SUMMARY, {"status": "failed", "error": f"{type(error).__name__}: {error}"}
                )
            if lost:
                raise RunError(describe_loss(run_dir, world, error)) from error
            raise
        finally:
            leave_world()


def describe_loss(run_dir: Path, world: World, error: Exception) -> str:
    """One line for whoever finds the run ended."""
    path = run_dir / runlog.CHECKPOINT
    kept = "there is no checkpoint yet, it starts anew"
    if path.is_file():
        step = checkpoint.load(path, torch.device("cpu"))["step"]
        kept = f"it goes on from the checkpoint of step {step:,}"
    reason = str(error).splitlines()[0][:120]
    return (
        f"{run_dir}: process {world.rank} of {world.size} lost another one ({reason}); repeat the same command: {kept}"
    )


def _train(cfg: Config, run_dir: Path, stop: "StopSignal", world: World) -> dict[str, Any]:
    started = time.monotonic()
    deadline = started + cfg.max_minutes * 60 if cfg.max_minutes else math.inf
    p = cfg.protocol
    device = set_up_device(cfg.device, deterministic=cfg.deterministic, local_rank=world.local_rank)
    if cfg.activation_checkpointing:
        return_freed_memory()
    saved = load_checkpoint(cfg, run_dir / runlog.CHECKPOINT, device)
    with world.first_before_others():
        data = load_data(cfg)
    check_view(p.final_view, cfg.model.family, data.image_shape[1] > SMALL_SIDE)
    digest = data.digest()
    data = data.to(device)
    if saved:
        check_data(saved, digest, cfg.dataset.name, run_dir)
        if saved["device"] != device.type:
            raise UserError(
                f"{run_dir}: started on {saved['device']}; go on there, or start anew with another output_dir"
            )
    mean = mean_image(data.train, p.normalize)

    state = build_state(cfg, data, device, world)
    params, macs = count_parameters(state.net), count_macs(state.net, data.image_shape)
    same_world = saved is not None and saved.get("world_size", 1) == world.size
    threads = cfg.threads or (
        saved["threads"] if saved and same_world else choose_threads(macs * p.batch_size / world.size)
    )
    torch.set_num_threads(threads)
    if saved:
        try:
            state.load_state_dict(saved)
        except (KeyError, RuntimeError):
            raise UserError(f"{run_dir}: {EARLIER_VERSION}; remove it to start the run again") from None
        take_own_state(state, saved, cfg, world)
    earlier_seconds = state.seconds

    log: Any = runlog.Silent()
    progress: Any = runlog.Silent()
    if world.is_first:
        runlog.write_text(run_dir / runlog.CONFIG, to_yaml(cfg))
        (run_dir / runlog.SUMMARY).unlink(missing_ok=True)  # it is written last, when this process ends
        paths = fast_paths(cfg, state.net, device, world)
        runlog.write_env(
            run_dir,
            step=state.step,
            device=device_name(device),
            threads=threads,
            fast_paths=paths,
            world_size=world.size,
        )
        log = runlog.MetricsLog(
            run_dir, size=saved["log_size"] if saved else 0, step=state.step, tensorboard=cfg.tensorboard
        )
        progress = runlog.ProgressLine(step=state.step, steps=p.steps)
        progress.note(str(run_dir))
        together = f"{world.size} processes of " if world.size > 1 else ""
        progress.note(
            f"{cfg.model.name}, width {cfg.model.width}: {params:,} parameters, {macs / 1e6:,.2f} M multiply-adds; "
            f"{device_name(device)}, {together}{threads} thread{'s' * (threads > 1)}, {p.precision}, "
            f"{' and '.join(paths) or 'plain torch'}"
        )
        progress.note(
            f"{cfg.dataset.name}: {len(data.train):,} training, {len(data.val or []):,} validation, "
            f"{len(data.test):,} test images; protocol {p.name}: {p.steps:,} steps of {p.batch_size}"
        )
        progress.note(f"resuming at step {state.step} of {p.steps}" if saved else f"starting at step 0 of {p.steps}")

    take_step = build_step(cfg, state, data.train, mean, world)
    diverged_at: int | None = None
    last_save = time.monotonic()
    watch = Stopwatch(device)
    watch.start()
    try:
        while state.step < p.steps:
            lr = state.optimizer.lr = state.schedule.lr(state.step)
            batch = take_step(*state.batches.next())
            state.step += 1
            watch.images += p.batch_size
            if state.schedule.warming_up:  # the one place where a step waits for the device: some hundred steps
                state.schedule.observe(state.step, 100 * float(world.sum(batch)[WRONG]) / p.batch_size)
            if state.step * p.batch_size // len(data.train) > (state.step - 1) * p.batch_size // len(data.train):
                state.last_epoch.copy_(state.counters[EPOCH])
                state.counters[EPOCH].zero_()

            last = state.step == p.steps
            stopping, save_due, show_due = world.any(
                stop.signal is not None or time.monotonic() > deadline,
                time.monotonic() - last_save > p.save_seconds,
                bool(progress.due()),
            )
            log_due = last or state.step % p.log_every == 0
            eval_due = last or state.step % p.eval_every == 0
            save_due = save_due or last or stopping
            if not (log_due or eval_due or save_due or show_due):
                continue

            state.train_seconds += watch.stop()
            window = world.sum(state.counters[WINDOW]).tolist()
            batches, finite = round(window[SEEN] / p.batch_size), int(window[FINITE]) // world.size
            if batches > finite:
                diverged_at = state.step - batches + finite + 1
                break
            epoch = state.step * p.batch_size / len(data.train)
            loss, error = window[LOSS] / window[SEEN], 100 * window[WRONG] / window[SEEN]
            if last or show_due:
                progress.show(
                    state.step,
                    loss=loss,
                    train_error=error,
                    rate=watch.rate(),
                    test_error=state.results.get("test_error"),
                )
            if log_due:
                log.write(
                    step=state.step,
                    epoch=epoch,
                    split="train",
                    loss=loss,
                    error=error,
                    lr=lr,
                    images_per_s=watch.rate(),
                )
                state.schedule.observe_window(state.step, window[WRONG], window[SEEN])
                state.counters[WINDOW].zero_()
                watch.next_lap()
            if eval_due or save_due:
                world.average_buffers(state.net)
            if eval_due:
                evaluate_parts(state, data, mean, p.precision, log, epoch=epoch, lr=lr, world=world)
            if last and p.final_view != "centre":
                evaluate_finally(state, data, mean, p, world)
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
                    "world_size": world.size,
                    "log_size": log.size(),
                }
                whole = state.state_dict() | shared_state(state, world)
                if world.is_first:
                    checkpoint.save(run_dir / runlog.CHECKPOINT, {**whole, **extra})
                last_save = time.monotonic()
            if stopping:
                break
            watch.start()
    finally:
        state.batches.close()
        progress.close()
        log.close()

    state.seconds = earlier_seconds + time.monotonic() - started
    status = "diverged" if diverged_at else "finished" if state.step == p.steps else "interrupted"
    counts = world.sum(state.last_epoch if state.last_epoch[SEEN] else state.counters[EPOCH])
    summary = {
        "status": status,
        "step": diverged_at or state.step,
        "train_error": 100 * float(counts[WRONG] / counts[SEEN]) if counts[SEEN] and not diverged_at else None,
        **{key: state.results.get(key) for key in RESULTS},
        **{key: state.results[key] for key in VIEW_RESULTS if key in state.results},
        "warmup_ended_at": state.schedule.warmup_ended_at,
        "classes": len(data.classes),
        "params": params,
        "macs": macs,
        "seconds": state.seconds,
        "images_per_s": state.step * p.batch_size / state.train_seconds if state.train_seconds else None,
        "peak_memory_bytes": peak_memory(device),
        "signal": stop.signal if status == "interrupted" else None,
    }
    if world.is_first:
        runlog.write_json(run_dir / runlog.SUMMARY, summary)
    world.meet()
    return summary


def shared_state(state: State, world: World) -> dict[str, Any]:
    """What is each process's own: counters as the sum over all, and what each draws its noise from."""
    noise = world.gather(state.noise.get_state())
    more = {"noise_of_others": noise[1:]} if len(noise) > 1 else {}
    return {"counters": world.sum(state.counters), "last_epoch": world.sum(state.last_epoch), **more}


def take_own_state(state: State, saved: dict[str, Any], cfg: Config, world: World) -> None:
    """The counterpart of ``shared_state``, whatever the number of processes was."""
    if world.is_first:
        return
    state.counters.zero_()
    state.last_epoch.zero_()
    others = saved.get("noise_of_others", [])
    if world.rank <= len(others):
        state.noise.set_state(others[world.rank - 1])
    else:  # a process that was not there before: noise of its own, never that of another
        state.noise = Noise(cfg.seed + state.step, state.counters.device, world.rank)


def build_step(
    cfg: Config, state: State, part: Any, mean: Tensor | None, world: World | None = None
) -> Callable[..., Tensor]:
    """One update as a function of what is drawn for it. On a GPU, with ``fast``, it is recorded and replayed.

    It adds to ``state.counters`` and returns what it has added.
    """
    p = cfg.protocol

    def step(*drawn: Tensor | None) -> Tensor:
        inputs, labels = make_batch(part, mean, *drawn, p=p)
        batch = train_step(state.trained, state.optimizer, inputs, labels, precision=p.precision)
        state.counters.add_(batch)
        return batch

    return CudaGraph(step) if is_recorded(cfg, state.net, part.device, world or World()) else step


def is_recorded(cfg: Config, net: nn.Module, device: torch.device, world: World) -> bool:
    """Whether steps are a CUDA graph: not where the host drops blocks, or must read the generator to recompute, nor
    where processes meet within a step.
    """
    host_draws = drops_blocks(net) or (cfg.activation_checkpointing and has_dropout(net))
    return cfg.fast and device.type == "cuda" and not host_draws and world.size == 1


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
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(exact, labels), logits


@torch.no_grad()
def count_batch(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """float64 (4,): loss and errors summed over the batch, its size, and 1 if the loss is finite."""
    wrong = (logits.argmax(dim=1) != labels).sum()
    count = torch.full((), len(labels), dtype=torch.float64, device=labels.device)
    return torch.stack([loss.double() * count, wrong.double(), count, loss.isfinite().double()])


def evaluate_parts(
    state: State,
    data: Dataset,
    mean: Tensor | None,
    precision: str,
    log: runlog.MetricsLog,
    *,
    epoch: float,
    lr: float,
    world: World,
) -> None:
    """Evaluate on the validation and test images, log both, and keep the step that the validation images prefer."""
    for split, part in (("val", data.val), ("test", data.test)):
        if part is None:
            continue
        began = time.monotonic()
        loss, error, top5_error = evaluate(state.net, part, mean, precision=precision, world=world)
        rate = len(part) / (time.monotonic() - began)
        log.write(step=state.step, epoch=epoch, split=split, loss=loss, error=error, lr=lr, images_per_s=rate)
        state.results[f"{split}_error"] = error
        if split == "test" and isinstance(data.test, Pack | Stream):
            state.results["test_top5_error"] = top5_error
    now = state.results
    if data.val and now["val_error"] < now.get("best_val_error", math.inf):
        now |= {
            "best_val_step": state.step,
            "best_val_error": now["val_error"],
            "best_val_test_error": now["test_error"],
        }


def evaluate_finally(state: State, data: Dataset, mean: Tensor | None, p: ProtocolConfig, world: World) -> None:
    """The test error in the view that the paper's tables have, beside that of the single view."""
    found = evaluate(
        state.net, data.test, mean, precision=p.precision, view=p.final_view, scales=p.test_scales, world=world
    )
    name = p.final_view.replace("-", "_")
    state.results |= {f"{name}_error": found.error, f"{name}_top5_error": found.top5_error}


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
            classes=d.classes,
            wnids=d.wnids,
            images_per_class=d.images_per_class,
            pack=d.pack,
            pack_gb=d.pack_gb,
            workers=d.workers,
            progress=runlog.print_progress,
        )
    except OSError as error:
        raise UserError(f"{d.name}: cannot read {error.filename}: {error.strerror}") from None
    size, held_out = len(data.train), cfg.protocol.val_size
    if held_out >= size:
        raise UserError(f"protocol.val_size={held_out}: {d.name} has only {size:,} training images; hold out fewer")
    return data.hold_out(held_out)


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


def build_state(cfg: Config, data: Dataset, device: torch.device, world: World | None = None) -> State:
    """A net with fresh weights, and all that trains it, at step 0."""
    p, world = cfg.protocol, world or World()
    net = build_net(cfg, data).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_statistics(net, group=p.norm_group, synced=world.size > 1 and p.norm_group is None)
    drawing = torch.device("cpu") if isinstance(data.train, Stream) else device  # where the images are decoded
    loader = Loader(len(data.train), p.batch_size, seeded_generator(cfg.seed, stream=1, device=drawing))
    augmentation = seeded_generator(cfg.seed, stream=2, device=drawing)
    return State(
        net=net,
        trained=world.wrap(net, drops_blocks=drops_blocks(net)),
        optimizer=build_optimizer(cfg, net),
        schedule=build_schedule(cfg),
        loader=loader,
        augmentation=augmentation,
        batches=Batches(data.train, loader, augmentation, p, world),
        noise=Noise(cfg.seed, device, world.rank),
        counters=torch.zeros(2, 4, dtype=torch.float64, device=device),
        last_epoch=torch.zeros(4, dtype=torch.float64, device=device),
    )


def build_schedule(cfg: Config) -> Schedule:
    p = cfg.protocol
    return Schedule(
        base_lr=p.lr,
        drops=p.lr_drops,
        drop_factor=p.lr_drop_factor,
        warmup=p.warmup_depth is not None and cfg.model.depth >= p.warmup_depth,
        warmup_steps=p.warmup_steps,
        warmup_lr=p.warmup_lr,
        warmup_error=p.warmup_error,
        warmup_window=p.warmup_window,
        warmup_limit=p.warmup_limit,
        plateau_window=p.plateau_window,
        plateau_points=p.plateau_points,
        plateau_patience=p.plateau_patience,
        plateau_drops=p.plateau_drops,
    )


def build_optimizer(cfg: Config, net: nn.Module) -> Optimizer:
    p = cfg.protocol
    if p.optimizer == "adamw":
        return AdamW(net.parameters(), weight_decay=p.weight_decay, fused=cfg.fast)
    return SGD(net.parameters(), momentum=p.momentum, weight_decay=p.weight_decay, fused=cfg.fast)


def load_trained(run_dir: Path, cfg: Config) -> tuple[dict[str, Any], nn.Module, Dataset]:
    """A run's checkpoint, its net with the weights, and its images, the two on the device. Raises UserError."""
    device = set_up_device(cfg.device, deterministic=cfg.deterministic)
    saved = load_checkpoint(cfg, run_dir / runlog.CHECKPOINT, device)
    if saved is None:
        raise UserError(f"{run_dir}: no {runlog.CHECKPOINT}; resume the run to make one")
    torch.set_num_threads(saved["threads"])
    data = load_data(cfg)
    check_data(saved, data.digest(), cfg.dataset.name, run_dir)
    net = build_net(cfg, data)
    try:
        net.load_state_dict(saved["net"])
    except RuntimeError:
        raise UserError(f"{run_dir}: {EARLIER_VERSION}; remove it and train the run again") from None
    return saved, _placed(net, device), data.to(device)


def load_with_weights(cfg: Config, weights: Path) -> tuple[nn.Module, Dataset]:
    """The configured net with the weights of a file, and its images, both on the device. Raises UserError."""
    device = set_up_device(cfg.device, deterministic=cfg.deterministic)
    data = load_data(cfg)
    net = build_net(cfg, data)
    checkpoint.load_weights(net, weights)
    return _placed(net, device), data.to(device)


def _placed(net: nn.Module, device: torch.device) -> nn.Module:
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def evaluate_run(run_dir: Path, cfg: Config, *, view: str = "centre") -> tuple[int, Evaluation]:
    """The step of a run's checkpoint, and its test error. Raises UserError."""
    saved, net, data = load_trained(run_dir, cfg)
    return saved["step"], evaluate_net(cfg, net, data, view)


def evaluate_weights(cfg: Config, weights: Path, *, view: str = "centre") -> Evaluation:
    """The test error of the configured net with the weights of a file. Raises UserError."""
    return evaluate_net(cfg, *load_with_weights(cfg, weights), view)


def evaluate_net(cfg: Config, net: nn.Module, data: Dataset, view: str) -> Evaluation:
    p = cfg.protocol
    check_view(view, cfg.model.family, data.image_shape[1] > SMALL_SIDE)
    mean = mean_image(data.train, p.normalize)
    return evaluate(net, data.test, mean, precision=p.precision, view=view, scales=p.test_scales)


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


def set_up_device(name: str, *, deterministic: bool, local_rank: int = 0) -> torch.device:
    """The device; on a GPU fp32 means fp32, not the tensor cores' TF32. Raises UserError if there is no such GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
    if device.type == "cuda" and asked_for_many():
        device = torch.device("cuda", local_rank)  # each process of a machine has a GPU of its own
        torch.cuda.set_device(min(local_rank, torch.cuda.device_count() - 1))
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


def fast_paths(cfg: Config, net: nn.Module, device: torch.device, world: World) -> list[str]:
    """What of ours takes the place of torch's operations one by one."""
    if not cfg.fast:
        return []
    first = "recorded step" if is_recorded(cfg, net, device, world) else ""
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
    # Not getrusage: its number a process inherits from a larger one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


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
    """Turn the first SIGINT, SIGTERM or SIGUSR2 into a wish to stop after this step; a second one ends it at once."""
    stop = StopSignal()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in signals}

    def wish(number: int, _frame: FrameType | None) -> None:
        stop.signal = number
        if number == signal.SIGUSR2:  # a cluster's warning comes from more than one side, and is never impatient
            return
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
