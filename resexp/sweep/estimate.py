"""How long a sweep will take, from measured speed."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resexp import UserError, catalog
from resexp.data.registry import READERS
from resexp.run.reader import find_runs
from resexp.sweep.plan import Job, JobState

LONG = 2e10  # steps times images, pixels and layers: from here on a sweep says beforehand how long it will take


def is_long(jobs: Sequence[Job]) -> bool:
    """Whether what is left takes hours rather than minutes on a few cores: by steps, images, pixels and layers."""
    left = (job for job in jobs if job.outcome != JobState.FINISHED)
    return (
        sum(
            (job.cfg.protocol.steps - job.run.step)
            * job.cfg.protocol.batch_size
            * job.cfg.model.depth
            * (job.cfg.dataset.image_size or READERS[job.cfg.dataset.source].side) ** 2
            for job in left
        )
        > LONG
    )


def estimate_left(jobs: Sequence[Job], now: Mapping[str, float] | None = None) -> float | None:
    """Seconds of one worker that the unfinished jobs still need; None if nothing alike was measured.

    The speed of a net is that of its runs in this folder on such images; a net without any is scaled from the measured
    net nearest in size by their multiply-adds.

    :param now: images/s of nets just measured on the first job's images; it takes the place of the folder's.
    """
    macs = {net.name: net.macs for net in catalog.NAMED}
    measured: dict[tuple[Any, ...], dict[str, float]] = {}
    if now:
        measured[_cost_key(dataclasses.asdict(jobs[0].cfg))] = dict(now)
    for run in () if now else find_runs(jobs[0].cfg.run_dir.parent):
        with contextlib.suppress(UserError):  # a damaged run is none of this sweep's
            if run.images_per_s:
                measured.setdefault(_cost_key(run.config), {})[catalog.net_name(run.config["model"])] = run.images_per_s
    total = 0.0
    for job in jobs:
        if job.outcome == JobState.FINISHED:
            continue
        rates = measured.get(_cost_key(dataclasses.asdict(job.cfg)), {})
        name = job.cfg.model.name
        if name not in rates:
            known = [other for other in rates if other in macs and name in macs]
            if not known:
                return None
            nearest = min(known, key=lambda other: abs(macs[other] - macs[name]))
            rates[name] = rates[nearest] * macs[nearest] / macs[name]
        total += (job.cfg.protocol.steps - job.run.step) * job.cfg.protocol.batch_size / rates[name]
    return total


def _cost_key(config: dict[str, Any]) -> tuple[Any, ...]:
    """What images/s depend on besides the net."""
    dataset, protocol = config["dataset"], config["protocol"]
    return (
        dataset["name"],
        dataset["image_size"],
        protocol["batch_size"],
        protocol["precision"],
        config["model"]["width"],
    )
