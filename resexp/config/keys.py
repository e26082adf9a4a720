"""Settings as plain values: by key, in YAML, and the part of them that decides a result."""

import copy
import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, cast

import yaml

from resexp import UserError, did_you_mean


def setting(default: Any = dataclasses.MISSING, *, doc: str, decides: bool = True) -> Any:
    """A field with its explanation. ``decides=False``: it cannot change a run's result, and so not its name either."""
    metadata = {"doc": doc, "decides": decides}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check(ok: bool, key: str, value: object, rule: str) -> None:
    """Raise UserError ``key=value: rule`` unless ``ok``."""
    if not ok:
        raise UserError(f"{key}={'null' if value is None else value}: {rule}")


LONGEST_NAME = 80


def check_name(key: str, name: str) -> None:
    """Raise UserError unless a name may stand in a file's name, a figure and a terminal alike."""
    ok = 0 < len(name) <= LONGEST_NAME and all(c.isalnum() or c in "._-" for c in name) and name[0] not in ".-"
    rule = f"a name has at most {LONGEST_NAME} letters, digits, '.', '_' and '-', and does not begin with '.' or '-'"
    check(ok, key, name, rule)


def as_name(text: str) -> str:
    """The nearest name to any text: ``as_name("my birds (1)")`` -> ``"my-birds-1"``."""
    plain = unicodedata.normalize("NFC", text)
    return re.sub(r"[^\w.]+", "-", plain).strip(".-")[:LONGEST_NAME].rstrip(".-") or "images"


def check_folder(config_dir: Path | None) -> None:
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    check(value in choices, key, value, did_you_mean(value, choices))


def identity(settings: Any) -> dict[str, Any]:
    """What decides the result, nested, without what has its default: a key added later changes no run's name."""
    result: dict[str, Any] = {}
    implied = getattr(settings, "implied", {})
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if not f.metadata.get("decides", True):
            continue
        if dataclasses.is_dataclass(value):
            result[f.name] = identity(value)
            continue
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if value != implied.get(f.name, default):
            result[f.name] = value
    return result


def deciding(settings: Any) -> dict[str, Any]:
    """The settings of one group that can decide a result: without paths, workers and the like."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.metadata.get("decides", True)}


def completed(group: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The deciding settings of a group as a run folder keeps them; what an older run did not know has its default."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(group):
        if f.metadata.get("decides", True):
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            found[f.name] = settings.get(f.name, default)
    return found


def to_yaml(settings: Any) -> str:
    return yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False)


def flatten(settings: Any) -> dict[str, Any]:
    """Nested settings, or dicts of them, as one level: ``{"seed": 0, "model.width": 16, ...}``.

    A setting that is itself a dict, as launcher.options is, stays whole in nested settings.
    """
    named = (
        settings
        if isinstance(settings, dict)
        else {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    )
    flat: dict[str, Any] = {}
    for name, value in named.items():
        if dataclasses.is_dataclass(value) or (named is settings and isinstance(value, dict)):
            flat |= {f"{name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def describe_keys(group: type) -> Iterator[tuple[str, str]]:
    """(key, explanation) of every setting, for the help text."""

    def walk(cls: type, prefix: str) -> Iterator[tuple[str, str]]:
        for f in dataclasses.fields(cls):
            if dataclasses.is_dataclass(f.type):
                yield from walk(cast(type, f.type), f"{f.name}.")
            else:
                yield prefix + f.name, f.metadata["doc"]

    return walk(group, "")
