"""How long a sweep will take, from measured speed."""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any

from resexp import UserError
from resexp.config import Config, ModelConfig, completed
from resexp.data.registry import READERS
from resexp.run.reader import find_runs
from resexp.sweep.plan import Job, JobState

LONG = 2e10  # steps times images, pixels and layers: from here on a sweep says beforehand how long it will take


def is_long(jobs: Sequence[Job]) -> bool:
    """Whether what is left takes hours rather than minutes on a few cores: by steps, images, pixels and layers."""
    left = [job for job in jobs if job.outcome not in (JobState.FINISHED, JobState.DIVERGED)]
    images = ((job.cfg.protocol.steps - job.run.step) * job.cfg.protocol.batch_size for job in left)
    work = (count * job.cfg.model.depth * _side(job.cfg) ** 2 for count, job in zip(images, left, strict=True))
    return sum(work) > LONG


def seconds_left(jobs: Sequence[Job], now: tuple[Config, float] | None = None) -> list[float] | None:
    """Of training, for each job that is left, by a worker of its own; None if nothing alike was measured.

    The speed of a net is that of the runs in this folder on such images that are nearest to it in multiply-adds, and
    scaled by these.

    :param now: the settings of a net just measured, and its images/s; it takes the place of the folder's.
    """
    measured: dict[tuple[Any, ...], list[tuple[float, float]]] = {}  # (multiply-adds of an image, images/s)
    configs = [dataclasses.asdict(job.cfg) for job in jobs]
    if now:
        anything = (_macs(dataclasses.asdict(now[0])), now[1])
        measured = {_cost_key(one): [anything] for one in configs}
    for run in () if now else find_runs(jobs[0].cfg.run_dir.parent):
        with contextlib.suppress(UserError):  # a damaged run is none of this sweep's
            if run.images_per_s:
                measured.setdefault(_cost_key(run.config), []).append((_macs(run.config), run.images_per_s))
    seconds = []
    for job, one in zip(jobs, configs, strict=True):
        if job.outcome in (JobState.FINISHED, JobState.DIVERGED):
            continue
        known = measured.get(_cost_key(one))
        if not known:
            return None
        macs = _macs(one)
        nearest, rate = min(known, key=lambda one: abs(math.log(one[0] / macs)))
        left = (job.cfg.protocol.steps - job.run.step) * job.cfg.protocol.batch_size
        seconds.append(left / (rate * nearest / macs))
    return seconds


def seconds_together(seconds: Sequence[float], workers: int) -> float:
    """Of runs side by side: no less than the longest."""
    return max(max(seconds), sum(seconds) / workers)


def _side(cfg: Config) -> int:
    return cfg.dataset.image_size or READERS[cfg.dataset.source].side


def _macs(config: dict[str, Any]) -> float:
    """Multiply-adds of a run's net for one image."""
    dataset = config["dataset"]
    model = json.dumps(completed(ModelConfig, config["model"]), sort_keys=True)
    return _count(model, dataset["image_size"] or READERS[dataset["source"]].side)


@functools.cache
def _count(model: str, side: int) -> float:
    import torch

    from resexp.models.build import build_model, count_macs

    shape = (3, side, side)
    with torch.device("meta"):
        return count_macs(build_model(**json.loads(model), image_shape=shape), shape)


def _cost_key(config: dict[str, Any]) -> tuple[Any, ...]:
    """What the rate of multiply-adds depends on most."""
    return config["dataset"]["name"], config["dataset"]["image_size"], config["protocol"]["precision"]
