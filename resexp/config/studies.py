"""A study: the runs behind one published figure or table, and its claims. ``conf/study/`` has one file for each."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from resexp.config.compose import expand, find_file, one_line_errors
from resexp.config.keys import check, check_choice, check_name
from resexp.config.overrides import key_of, parse
from resexp.config.schema import Config
from resexp.data.registry import READERS


@dataclass(kw_only=True, slots=True)
class Claim:
    """A statement that can be false: ``at_least < metric(net) - metric(minus) < at_most``, in points.

    ``net`` and ``minus`` are nets, and after a net the settings that tell its runs apart: ``resnet110 order=full``.
    Where these leave several settings open, runs of like settings are compared; with ``best`` each side takes the one
    whose mean training error is the lowest, whatever the other takes. ``id`` is what other files call the claim.
    """

    id: str = ""
    text: str
    metric: str
    net: str
    minus: str
    at_least: float | None = None
    at_most: float | None = None
    best: bool = False

    def __post_init__(self) -> None:
        check_choice(
            "claim.metric",
            self.metric,
            ("train_error", "val_error", "test_error", "ten_crop_error", "multi_scale_error"),
        )
        bounded = self.at_least is not None or self.at_most is not None
        check(bounded, "claim.text", self.text, "needs at_least or at_most")


@dataclass(kw_only=True, slots=True)
class Gap:
    """Two nets, as in a claim, whose difference in error is followed over the steps."""

    net: str
    minus: str


@dataclass(kw_only=True, slots=True)
class Other:
    """A published run of another length: who, after how long, and the test error of each net, in percent."""

    source: str
    length: str
    nets: dict[str, str]


@dataclass(kw_only=True, slots=True)
class Study:
    """The runs behind one published figure or table, and its claims.

    ``variants`` are words that belong together, ``model.order=full model.dropout=0.1``: the sweep is run with each,
    and a word of theirs takes the place of the sweep's for the same key.
    ``published`` gives the paper's number for a net, or a net and settings. ``published_on`` says what the paper's nets
    were trained on where the study's are not: then its numbers are not compared with ours, only their directions are.
    ``reference`` is the folder of its reference runs; empty: that of its name. ``folder`` is the ``--config-dir`` of
    its file. ``note`` is a caution that is printed after the verdicts. ``gaps`` are pairs of nets whose difference is
    drawn over the steps; ``others`` are published runs of other lengths, with their test errors by net, for a table.
    ``explanations`` say against what each remedy of a plain net is one, by its settings: then a table says how much of
    the gap between plain and residual nets each closes.
    """

    name: str
    title: str
    sweep: list[str]
    variants: list[str] = field(default_factory=list)
    figure: str = "curves"
    published: dict[str, str] = field(default_factory=dict)
    published_on: str = ""
    folder: str = ""
    source: str = ""
    reference: str = ""
    note: str = ""
    explanations: dict[str, str] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice("figure", self.figure, ("curves", "curves-depth", "depth", "parameters", "remedies", "table"))

    @property
    def datasets(self) -> set[str]:
        """The data sets that its own words name."""
        words = [word for line in (*self.sweep, *self.variants) for word in line.split()]
        named = {value for word in words if word.startswith("dataset=") for value in word[8:].split(",")}
        return named or {"digits"}


def load_study(
    name: str, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> tuple[Study, list[tuple[list[str], Config]]]:
    """A study and its runs. Raises UserError.

    A variant's words take the place of the sweep's for the same keys, and the given overrides that of both.
    """
    study = _read_study(name, config_dir)
    given = {key_of(word) for word in parse(overrides)}
    net_words = {"model", "depth", "family"}
    replaced = given | (net_words if given & net_words else set())
    runs: dict[str, tuple[list[str], Config]] = {}
    for variant in study.variants or [""]:
        own = variant.split()
        varied = replaced | {_key(word) for word in own}
        kept = [word for word in study.sweep if _key(word) not in varied]
        kept += [word for word in own if _key(word) not in replaced]
        for job, cfg in expand([*kept, *overrides], config_dir):
            runs.setdefault(cfg.run_name, (job, cfg))
    return study, list(runs.values())


def _key(word: str) -> str:
    return key_of(parse([word])[0])


@functools.cache
def own_runs(name: str, folder: str = "") -> tuple[Config, ...]:
    """The runs of a study as its file has them, without anybody's overrides. Raises UserError."""
    return tuple(cfg for _, cfg in load_study(name, (), Path(folder) if folder else None)[1])


@dataclass(frozen=True)
class Outline:
    """What a study's file says without composing its runs.

    :param datasets: of its runs; None if only composing tells.
    """

    study: Study
    datasets: set[str] | None

    @property
    def reference(self) -> str:
        """The folder of its reference runs."""
        return self.study.reference or self.study.name


def outline_study(name: str, config_dir: Path | None = None) -> Outline:
    """Raises UserError for an unknown study, or a file that is not one."""
    study = _read_study(name, config_dir)
    words = [word for line in (*study.sweep, *study.variants) for word in line.split()]
    renamed = config_dir is not None or any(word.startswith("dataset.name=") for word in words)
    unknown = renamed or study.datasets & {name for name, reader in READERS.items() if reader.named_by_folder}
    return Outline(study, None if unknown else study.datasets)


def _read_study(name: str, config_dir: Path | None) -> Study:
    check_name("study", name)
    path = find_file("study", name, config_dir)
    with one_line_errors(str(path)):
        found = {"name": name, "folder": str(config_dir or "")}
        merged = OmegaConf.merge(OmegaConf.structured(Study), found, OmegaConf.load(path))
        return cast(Study, OmegaConf.to_object(merged))
