"""From the configuration to the objects of a run: data, net, optimiser, schedule, state."""

import dataclasses

import torch
from torch import nn

from resexp import UserError
from resexp.config import Config, ProtocolConfig
from resexp.data.batches import Batches, Order
from resexp.data.crops import in_proportion
from resexp.data.dataset import Dataset
from resexp.data.normalize import normalization_of
from resexp.data.registry import build_data
from resexp.data.source import Augmentation
from resexp.evaluate import check_view
from resexp.meter import Counts, Stopwatch
from resexp.models.build import build_model
from resexp.models.connections import Fading
from resexp.models.norm_relu import set_statistics
from resexp.models.resnet import drops_blocks, has_dropout
from resexp.models.stages import SMALL_SIDE
from resexp.optim import SGD, AdamW, Optimizer
from resexp.parallel import World
from resexp.run.progress import ReadingProgress
from resexp.schedule import Schedule
from resexp.state import Noise, State, seeded_generator


def load_data(cfg: Config, world: World | None = None) -> Dataset:
    """The configured data set on the CPU, with the protocol's validation images held out. Raises UserError.

    :param world: rank 0 reads first, and fills the caches that the others read.
    """
    d = cfg.dataset
    try:
        with (world or World()).first_before_others():
            data = build_data(**dataclasses.asdict(d), progress=ReadingProgress())
    except OSError as error:
        raise UserError(f"{d.name}: cannot read {error.filename}: {error.strerror}") from None
    size, given = len(data.train), cfg.protocol.val_size
    held_out = round(given * size) if given < 1 else int(given)
    if given and data.val:
        raise UserError(
            f"protocol.val_size={given}: {d.name} has validation images of its own in val/; set protocol.val_size=0"
        )
    if given and not held_out:
        raise UserError(f"protocol.val_size={given}: of {size:,} training images that is none; hold out more")
    if held_out >= size:
        raise UserError(f"protocol.val_size={given}: {d.name} has only {size:,} training images; hold out fewer")
    check_test(cfg, data, cfg.protocol.final_view)
    return data.hold_out(held_out)


def check_test(cfg: Config, data: Dataset, view: str) -> None:
    """Raise UserError, before anything long, if the net cannot be tested in this view of these images."""
    check_view(view, cfg.model.family, large=is_large(data))
    if view != "multi-scale":
        return
    scales, crop = cfg.protocol.test_scales, data.image_shape[1]
    side = in_proportion(min(scales), crop)
    try:
        with torch.device("meta"):
            build_net(cfg, data).eval()(torch.empty(1, data.image_shape[0], side, side))
    except RuntimeError:
        what = f"{min(scales)} is {side} pixels for crops of {crop}, too few for {cfg.model.name}"
        raise UserError(f"protocol.test_scales={scales}: {what}; take larger ones") from None


def is_large(data: Dataset) -> bool:
    """Whether nets take their form for large images."""
    return data.image_shape[1] > SMALL_SIDE


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


def place_net(net: nn.Module, device: torch.device) -> nn.Module:
    """The net on its device, channels last in memory."""
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_state(cfg: Config, data: Dataset, device: torch.device, world: World | None = None) -> State:
    """A net with fresh weights, and all that trains it, at step 0. Seeds nothing but its own generators.

    :param data: on ``device``.
    """
    p, world = cfg.protocol, world or World()
    net = place_net(build_net(cfg, data), device)
    set_statistics(net, group=p.norm_group, synced=world.size > 1 and p.norm_group is None)
    order, draws = (seeded_generator(cfg.seed, stream=stream, device=data.train.draws_on) for stream in (1, 2))
    return State(
        net=net,
        parallel_net=world.wrap(net, drops_blocks=drops_blocks(net)),
        optimizer=build_optimizer(cfg, net),
        scaler=torch.amp.GradScaler(device.type, enabled=p.precision == "fp16"),
        schedule=build_schedule(cfg),
        batches=Batches(
            data.train,
            Order(len(data.train), p.batch_size, order),
            draws,
            augmentation=augmentation_of(p),
            normalization=normalization_of(data.train, p.normalize, p.mean, p.std),
            world=world,
        ),
        # All processes drop the same blocks (Huang et al. 2016, Sec. 3): those that are left share statistics.
        noise=Noise(cfg.seed, device, 0 if drops_blocks(net) else world.rank),
        counts=Counts(device, batch_size=p.batch_size, size=len(data.train), world=world),
        watch=Stopwatch(device),
        precision=p.precision,
        seed=cfg.seed,
        world=world,
        strengths=[module.strength for module in net.modules() if isinstance(module, Fading)],
    )


def augmentation_of(p: ProtocolConfig) -> Augmentation:
    scales = (p.scales[0], p.scales[1]) if p.scales else None
    return Augmentation(pad=p.pad, pad_mode=p.pad_mode, flip=p.flip, scales=scales, colour=p.colour)


def build_optimizer(cfg: Config, net: nn.Module) -> Optimizer:
    p = cfg.protocol
    if p.optimizer == "adamw":
        return AdamW(net.parameters(), weight_decay=p.weight_decay, clip_norm=p.clip_norm, fused=cfg.fast)
    return SGD(
        net.parameters(),
        momentum=p.momentum,
        nesterov=p.nesterov,
        weight_decay=p.weight_decay,
        clip_norm=p.clip_norm,
        fused=cfg.fast,
    )


def build_schedule(cfg: Config) -> Schedule:
    p = cfg.protocol
    return Schedule(
        base_lr=p.lr,
        drops=p.lr_drops,
        drop_factor=p.lr_drop_factor,
        fade=p.fade,
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


def can_record(cfg: Config, state: State, device: torch.device) -> bool:
    """Whether a step can be recorded as a CUDA graph.

    Not with stochastic depth, not with dropout that is recomputed, and not with several processes.
    """
    host_draws = drops_blocks(state.net) or (cfg.activation_checkpointing and has_dropout(state.net))
    return cfg.fast and device.type == "cuda" and not host_draws and state.world.size == 1
