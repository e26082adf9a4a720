"""The published number beside a measured one, from ``conf/published.yaml``."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from resexp.config import read_yaml


@dataclass(frozen=True)
class Published:
    """One number, as it was published (``8.75``, ``"> 60"``), of which data set, after how many steps, and where.

    :param steps: None where the source does not say, where its nets differ in it, or where its training differs so much
        from ours that no number of ours stands beside it.
    :param protocol: name of ours, where a run of as many steps by another is not meant.
    """

    value: float | str
    dataset: str
    source: str
    steps: int | None = None
    protocol: str | None = None

    def is_of(self, config: dict[str, Any]) -> bool:
        """Whether a run trains on these images, all of them at their size, for as many steps, by its protocol."""
        dataset = config["dataset"]
        part = any(dataset.get(key) for key in ("image_size", "classes", "wnids", "images_per_class"))
        same_data = dataset["source"] == self.dataset.lower().replace("-", "") and not part
        protocol = config["protocol"]
        return same_data and self.steps == protocol["steps"] and self.protocol in (None, protocol["name"])

    def __str__(self) -> str:
        return str(self.value)


@cache
def _entries() -> list[dict[str, Any]]:
    return read_yaml("published")


def published(net: str, key: str, config: dict[str, Any] | None = None) -> Published | None:
    """The number of ``net`` for ``key`` (``test_error``, ``train_error``, ``params``) by the first source that has one.

    :param config: of a run that the source's training must be like. None if no source is.
    """
    for entry in _entries():
        value = entry["nets"].get(net, {}).get(key)
        if value is not None:
            found = _as_published(value, entry)
            if config is None or found.is_of(config):
                return found
    return None


def _as_published(value: float | str, entry: dict[str, Any]) -> Published:
    return Published(value, entry["dataset"], entry["source"], entry.get("steps"), entry.get("protocol"))


def published_pair(net: str, minus: str, key: str) -> tuple[float, float, Published] | None:
    """The numbers of both nets by the first source that has both, and where the first stands; None if none has."""
    for entry in _entries():
        one, two = (entry["nets"].get(name, {}).get(key) for name in (net, minus))
        if isinstance(one, int | float) and isinstance(two, int | float):
            return float(one), float(two), _as_published(one, entry)
    return None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over a paper's own runs.

    :param dataset: its name here; ``protocol``: that of its training, which a run must share to the last setting.
    """

    mean: float
    std: float
    dataset: str
    protocol: str
    source: str


def spread(net: str) -> Spread | None:
    """Of the test error; None if only single numbers are published."""
    for entry in _entries():
        if (found := entry.get("spread", {}).get(net)) is not None:
            return Spread(**found, source=entry["source"])
    return None
