"""Which runs are of one experiment: the same net, images and training, but for the seed."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from resexp import catalog, config
from resexp.config import Study

NO_EFFECT = ("name", "eval_every", "log_every")  # of a protocol: on what its nets learn


def is_its_own(study: Study, run: Mapping[str, Any]) -> bool:
    """Whether a run has the net, width, images and protocol of one of the study's own runs; its seed may be another.

    A run by an override, of fewer steps, say, is another experiment than the one whose number the study has.
    """
    return is_fresh(run) and _experiment(run) in _own_experiments(study.name, study.folder)


def is_whole(study: Study, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are all of the study's own experiments, in any seeds, from fresh weights, and no others."""
    return all(map(is_fresh, runs)) and frozenset(map(_experiment, runs)) == _own_experiments(study.name, study.folder)


def are_comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the nets of two runs have one width, and were trained from fresh weights on the same images alike.

    What was done before a run that goes on from weights, or from another run, is not known here.
    """
    alike = one["model"]["width"] == other["model"]["width"] and training_of(one) == training_of(other)
    return alike and is_fresh(one) and is_fresh(other)


def is_fresh(run: Mapping[str, Any]) -> bool:
    """Whether a run begins with fresh weights, as published ones do."""
    return not (run.get("init_digest") or run.get("resumed_run"))


def training_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The images and the protocol that decide a result; folders are one data set whatever their names are."""
    return {
        "dataset": config.completed(config.DatasetConfig, run["dataset"]) | {"name": ""},
        "protocol": config.completed(config.ProtocolConfig, run["protocol"]) | dict.fromkeys(NO_EFFECT),
    }


@functools.cache
def training_by(dataset: str, protocol: str) -> dict[str, Any]:
    """The same of a whole data set and a protocol, by their names."""
    return training_of(dataclasses.asdict(config.load([f"dataset={dataset}", f"protocol={protocol}"])))


@functools.cache
def _own_experiments(name: str, folder: str) -> frozenset[str]:
    return frozenset(_experiment(dataclasses.asdict(cfg)) for cfg in config.own_runs(name, folder))


def _experiment(run: Mapping[str, Any]) -> str:
    """What decides a run's result but for its seed."""
    return json.dumps({"model": catalog.resolve(run["model"]), **training_of(run)}, sort_keys=True)
