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
from resexp.sweep.plan import Job

Rates = dict[str, tuple[dict[str, Any], float]]  # by net: a run's settings, and its images/s
LONG = 2e10  # steps times images, pixels, layers and the square of their widening: from here on the time is said first


def is_long(jobs: Sequence[Job]) -> bool:
    """Whether what is left takes hours rather than minutes on a few cores, without building its nets."""
    return sum(job.images_left * _pixels_of_layers(job.cfg) for job in jobs if job.is_left) > LONG


def _pixels_of_layers(cfg: Config) -> int:
    return cfg.model.depth * (cfg.model.widen or 1) ** 2 * _side(dataclasses.asdict(cfg)) ** 2


def seconds_left(jobs: Sequence[Job], now: tuple[Config, float] | None = None) -> list[float] | None:
    """Of training, for each job that is left, by a worker of its own; None if nothing alike was measured, or can be.

    The speed of a net is that of its runs in this folder on such images. A net without any has that of the measured
    one which is nearest in multiply-adds, scaled by these.

    :param now: the settings of a net just measured, and its images/s; it takes the place of the folder's.
    """
    left = [(job, dataclasses.asdict(job.cfg)) for job in jobs if job.is_left]
    measured: dict[tuple[Any, ...], Rates] = {_cost_key(config): {} for _, config in left}
    if now:
        config = dataclasses.asdict(now[0])
        measured = {key: {_net(config): (config, now[1])} for key in measured}
    for run in () if now else find_runs(jobs[0].cfg.run_dir.parent):
        with contextlib.suppress(UserError):  # a damaged run is none of this sweep's
            if run.images_per_s and (alike := measured.get(_cost_key(run.config))) is not None:
                alike[_net(run.config)] = run.config, run.images_per_s
    if not all(measured.values()):
        return None
    try:
        return [job.images_left / _rate_of(config, measured[_cost_key(config)]) for job, config in left]
    except UserError:  # one of the nets cannot be built, as its job says
        return None


def _rate_of(config: dict[str, Any], known: Rates) -> float:
    """Images/s of a run, from those of others."""
    if (net := _net(config)) in known and _side(known[net][0]) == _side(config):
        return known[net][1]
    macs = _macs(config)
    nearest, rate = min(known.values(), key=lambda one: abs(math.log(_macs(one[0]) / macs)))
    return rate * _macs(nearest) / macs


def seconds_together(seconds: Sequence[float], workers: int) -> float:
    """Of runs side by side: no less than the longest."""
    return max(max(seconds), sum(seconds) / workers)


def _side(config: dict[str, Any]) -> int:
    return READERS[config["dataset"]["source"]].side_at(config["dataset"]["image_size"])


def _net(config: dict[str, Any]) -> str:
    """A run's net, as text."""
    return json.dumps(completed(ModelConfig, config["model"]), sort_keys=True)


def _macs(config: dict[str, Any]) -> float:
    """Multiply-adds of a run's net for one image."""
    return _count(_net(config), _side(config))


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
