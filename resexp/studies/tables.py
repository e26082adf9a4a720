"""Tables of final errors, with the published ones beside them."""

from collections.abc import Sequence

from resexp.config import Study
from resexp.run.reader import DONE, Status
from resexp.studies.alike import is_its_own
from resexp.studies.groups import Group, matches
from resexp.studies.published import published_like, spread

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
    run = group.runs[0]
    known = published_like(run.config, run.summary.get("classes")) if not (study and study.published) else None
    return (str(known), known.source) if known else ("-", "-")


def other_rows(study: Study) -> list[list[str]]:
    """Published runs of other lengths: source, length, and the test error of each net that the first of them names."""
    nets = study.others[0].nets if study.others else {}
    return [[other.source, other.length, *(other.nets.get(net, "-") for net in nets)] for other in study.others]


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

    Only of runs that are the source's own experiment, and where a deviation is published.
    """
    rows = []
    for group in groups:
        known = spread(group.net)
        error, run = group.error("test_error"), group.runs[0]
        if known is None or error is None or not known.origin.is_of(run.config, run.summary.get("classes")):
            continue
        distance = (error.mean - known.mean) / known.std
        rows.append([group.name, str(error), f"{known.mean} ± {known.std}", f"{distance:+.1f}", known.origin.source])
    return rows
