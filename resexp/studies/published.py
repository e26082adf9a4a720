"""The published number beside a measured one, from ``conf/published.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from resexp import catalog
from resexp.config import protocol_settings, read_yaml
from resexp.studies.alike import is_fresh, training_by, training_of

IMAGENET_CLASSES = 1000  # a folder of fewer is a part of ImageNet, whatever its name


@dataclass(frozen=True)
class Origin:
    """Where numbers were published, and from which training they came.

    :param dataset: as the source calls it.
    :param protocol: the name of ours that trains as the source did; None if none does, or if the source does not say.
    :param model: what nets of the source have otherwise than ours of the same names, where they have such a setting.
    """

    source: str
    dataset: str
    protocol: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int | None:
        return protocol_settings(self.protocol)["steps"] if self.protocol else None

    @property
    def training(self) -> str:
        """The images, the length and the protocol, in words."""
        return f"{self.dataset}, {self.steps:,} steps by {self.protocol}" if self.steps else self.dataset

    def is_of(self, run: Mapping[str, Any], classes: int | None = None) -> bool:
        """Whether a run is the source's experiment, to the last setting that decides a number.

        :param classes: of the images that the run was trained on.
        """
        dataset = self.dataset.lower().replace("-", "")
        if self.protocol is None or not is_fresh(run) or not catalog.is_papers(run["model"], but=self.model):
            return False
        if training_of(run) != training_by(dataset, self.protocol):
            return False
        return dataset != "imagenet" or classes == IMAGENET_CLASSES


@dataclass(frozen=True)
class Published:
    """One number, as it was published: ``8.75``, ``"> 60"``."""

    value: float | str
    origin: Origin

    @property
    def source(self) -> str:
        return self.origin.source

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over a paper's own runs."""

    mean: float
    std: float
    origin: Origin


@cache
def _entries() -> list[tuple[dict[str, Any], Origin]]:
    entries = read_yaml("published")
    return [(one, Origin(one["source"], one["dataset"], one.get("protocol"), one.get("model", {}))) for one in entries]


def published(net: str, key: str) -> Published | None:
    """The number of ``net`` for ``key`` (``test_error``, ``params``, ``gmacs``) by the first source that has one."""
    for entry, origin in _entries():
        value = entry["nets"].get(net, {}).get(key)
        if value is not None:
            return Published(value, origin)
    return None


def published_like(run: Mapping[str, Any], classes: int | None = None) -> Published | None:
    """The published test error of a run's own experiment; else None.

    A number of other images or of another training would be read as what the run should have reached.

    :param run: its settings. :param classes: of its images.
    """
    net = catalog.net_name(catalog.resolve(run["model"]))
    for entry, origin in _entries():
        value = entry["nets"].get(net, {}).get("test_error")
        if value is not None and origin.is_of(run, classes):
            return Published(value, origin)
    return None


def published_pair(net: str, minus: str, key: str) -> tuple[float, float, Origin] | None:
    """The numbers of both nets by the first source that has both, and where they stand; None if none has."""
    for entry, origin in _entries():
        one, two = (entry["nets"].get(name, {}).get(key) for name in (net, minus))
        if isinstance(one, int | float) and isinstance(two, int | float):
            return float(one), float(two), origin
    return None


def spread(net: str) -> Spread | None:
    """Of the test error; None if only single numbers are published."""
    for entry, origin in _entries():
        if (found := entry.get("spread", {}).get(net)) is not None:
            return Spread(found["mean"], found["std"], origin)
    return None
