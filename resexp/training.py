"""The training loop, ``train``, and one step of it, ``train_step``. Nothing else."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resexp.builder import build_state, can_record, load_data
from resexp.config import Config
from resexp.evaluate import evaluate_splits
from resexp.meter import Clock, Diverged
from resexp.run_folder import RunFolder
from resexp.runtime import CudaGraph, Stop, autocast, set_up_device
from resexp.state import State


def train(cfg: Config, run: RunFolder, stop: Stop) -> dict[str, Any]:
    """Train one net to its last step, from its checkpoint if there is one, and return its summary.

    Ends early, with a checkpoint, when ``stop`` has a signal or after ``max_minutes``: status ``interrupted``. A loss
    that is not finite ends it with status ``diverged`` and leaves the last good checkpoint as it is.

    :raises UserError: for bad data, or a checkpoint that does not fit.
    """
    p, world = cfg.protocol, run.world
    device = set_up_device(cfg, world)
    data = load_data(cfg, world).to(device)  # uint8 images
    state = build_state(cfg, data, device, world)  # at step 0
    run.restore(state, data)  # or where its checkpoint left it
    recorded = can_record(cfg, state, device)
    step = CudaGraph(partial(train_step, state)) if recorded else partial(train_step, state)
    run.begin(state, data, recorded=recorded)
    state.noise.start()
    clock = Clock(p, world, stop=stop, started=run.opened, show_seconds=run.show_seconds, max_minutes=cfg.max_minutes)
    diverged_at = None
    state.watch.start()
    try:
        while state.step < p.steps:
            state.follow_schedule()
            step(*next(state.batches))
            state.step += 1
            state.watch.images += p.batch_size
            state.counts.close_epoch(state.step)
            if state.schedule.warming_up:  # beside what is due, only these two wait for the device
                state.schedule.observe(state.step, state.counts.batch_error())
            if state.schedule.window_ends(state.step):
                state.schedule.observe_window(state.counts.plateau_error())

            due = clock.due(state.step)  # the same answer on every rank
            if not due:
                continue
            with state.watch.paused():  # what follows is not training time
                window = state.counts.read(state.step)  # waits for the device; raises Diverged
                if due.show:
                    run.show(state, window)
                if due.log:
                    run.log(state, "train", window.loss, window.error, state.watch.rate())
                    state.counts.open_window()
                    state.watch.next_lap()
                if due.evaluate or due.save:
                    world.average_buffers(state.net)
                if due.evaluate:
                    evaluate_splits(state, data, p, run.log)
                if due.save:
                    run.save(state)  # raises Diverged for weights that are not finite
                    clock.save_done()
            if due.stop:
                break
    except Diverged as error:
        diverged_at = error.step
    finally:
        state.batches.close()
    return run.finish(state, diverged_at=diverged_at, signal=stop.signal)


def train_step(state: State, *drawn: Tensor | None) -> None:
    """One update: batch, forward, backward, step. Never waits for the device.

    :param drawn: what ``next(state.batches)`` gives.
    """
    inputs, labels = state.batches.make(*drawn)  # crop, mirror, normalise: (N, C, H, W), (N,)
    with autocast(inputs.device, state.precision):
        logits = state.parallel_net(inputs)  # (N, classes)
    loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)  # type: ignore[arg-type]  # it is no torch.optim.Optimizer, but acts as one
    state.scaler.update()
    state.counts.add(loss, logits, labels)
