"""Tables of final errors, with the published ones beside them."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

from resexp import catalog, config
from resexp.config import Study
from resexp.run.reader import DONE, Status
from resexp.studies.groups import Group, matches
from resexp.studies.published import Published, Spread, published, spread

NO_EFFECT = ("name", "eval_every", "log_every")  # of a protocol: on what its nets learn
TABLE_COLUMNS = ("net", "width", "parameters", "seeds", "steps", "train error %", "test error %", "published", "source")


def table_rows(groups: Sequence[Group], study: Study | None = None) -> list[list[str]]:
    """The final errors, mean ± standard deviation over seeds, with the published test error beside them."""
    rows = []
    for group in groups:
        steps = sorted({run.step for run in group.runs})
        row = [
            group.name,
            str(group.runs[0].config["model"]["width"] or "-"),
            f"{group.parameters:,}" if group.parameters else "-",
            ",".join(map(str, group.seeds)),
            "-".join(f"{step:,}" for step in (steps if len(steps) < 2 else (steps[0], steps[-1]))),
            *(_cell(group, metric) for metric in ("train_error", "test_error")),
            *_published(group, study),
        ]
        rows.append(row)
    return rows


def _published(group: Group, study: Study | None) -> tuple[str, str]:
    """The published number and its source: the study's own, else that of the net."""
    own = [words for words in (study.published if study else {}) if matches(group, words)]
    if study and own:
        like = not study.published_on and is_its_own(study, group.runs[0].config)
        return (study.published[max(own, key=len)], study.source) if like else ("-", "-")
    known = published_like(group.runs[0].config) if not (study and study.published) else None
    return (str(known), known.source) if known else ("-", "-")


def other_rows(study: Study) -> list[list[str]]:
    """Published runs of other lengths: source, length, and the test error of each net that the first of them names."""
    nets = study.others[0].nets if study.others else {}
    return [[other.source, other.length, *(other.nets.get(net, "-") for net in nets)] for other in study.others]


def is_its_own(study: Study, run: dict[str, Any]) -> bool:
    """Whether a run has the net, width, images and protocol of one of the study's own runs; its seed may be another.

    A run by an override, of fewer steps, say, is another experiment than the one whose number the study has.
    """
    return _is_fresh(run) and _experiment(run) in _own_experiments(study.name, study.folder)


def is_whole(study: Study, runs: Sequence[dict[str, Any]]) -> bool:
    """Whether these are all of the study's own experiments, in any seeds, from fresh weights, and no others."""
    return all(map(_is_fresh, runs)) and frozenset(map(_experiment, runs)) == _own_experiments(study.name, study.folder)


@functools.cache
def _own_experiments(name: str, folder: str) -> frozenset[str]:
    return frozenset(_experiment(dataclasses.asdict(cfg)) for cfg in config.own_runs(name, folder))


def _experiment(run: dict[str, Any]) -> str:
    """What decides a run's result but for its seed."""
    return json.dumps({"model": catalog.resolve(run["model"]), **_training(run)}, sort_keys=True)


def _training(run: dict[str, Any]) -> dict[str, Any]:
    """The images and the protocol that decide a result; folders are one data set whatever their names are."""
    return {
        "dataset": config.completed(config.DatasetConfig, run["dataset"]) | {"name": ""},
        "protocol": config.completed(config.ProtocolConfig, run["protocol"]) | dict.fromkeys(NO_EFFECT),
    }


def are_comparable(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the nets of two runs have one width, and were trained from fresh weights on the same images alike.

    What was done before a run that goes on from weights, or from another run, is not known here.
    """
    alike = one["model"]["width"] == other["model"]["width"] and _training(one) == _training(other)
    return alike and _is_fresh(one) and _is_fresh(other)


def published_like(config: dict[str, Any]) -> Published | None:
    """The published test error of a run's net, if the run is of the same data, width and length; else None.

    A number of other images or of a longer training would be read as what the run should have reached.
    """
    net = catalog.net_name(catalog.resolve(config["model"]))
    papers = catalog.is_papers(config["model"], with_width=True)
    return published(net, "test_error", config) if papers and _is_fresh(config) else None


def _is_fresh(config: dict[str, Any]) -> bool:
    """Whether a run begins with fresh weights, as published ones do."""
    return not (config.get("init_digest") or config.get("resumed_run"))


def _cell(group: Group, metric: str) -> str:
    value = group.error(metric)
    others = [run.status for run in group.runs if run.status not in DONE]
    diverged = sum(run.status == Status.DIVERGED for run in group.runs)
    if value is None:
        return others[0] if others else "-"
    tens = group.error("ten_crop_error") if metric == "test_error" and group.measured("ten_crop_error") else None
    notes = [f"{diverged} diverged, as guessing"] * bool(diverged) + [f"{len(others)} unfinished"] * bool(others)
    text = f"{value}; ten crops {tens}" if tens else str(value)
    return f"{text} ({', '.join(notes)})" if notes else text


DISTANCE_COLUMNS = ("net", "measured", "published mean", "distance", "source")


def distance_rows(groups: Sequence[Group]) -> list[list[str]]:
    """How far test errors are from published means, in published standard deviations.

    Only of the papers' nets at their width, on their data set, by their protocol to the last setting that decides a
    number, and where a deviation is published.
    """
    rows = []
    for group in groups:
        known = spread(group.net)
        error = group.error("test_error")
        if known is None or error is None or not _is_the_papers_run(group.runs[0].config, known):
            continue
        distance = (error.mean - known.mean) / known.std
        rows.append([group.name, str(error), f"{known.mean} ± {known.std}", f"{distance:+.1f}", known.source])
    return rows


def _is_the_papers_run(run: dict[str, Any], known: Spread) -> bool:
    """Whether a run is of the net, the images and the protocol, whole, of a published mean."""
    papers_net = catalog.is_papers(run["model"], with_width=True) and _is_fresh(run)
    if not papers_net or run["dataset"]["name"] != known.dataset:
        return False
    papers = config.load([f"dataset={known.dataset}", f"protocol={known.protocol}"])
    same_data = all(run["dataset"].get(key) == value for key, value in config.deciding(papers.dataset).items())
    protocol = {key: value for key, value in config.deciding(papers.protocol).items() if key not in NO_EFFECT}
    return same_data and all(run["protocol"].get(key, value) == value for key, value in protocol.items())
