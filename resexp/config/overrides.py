"""Overrides in Hydra's grammar, and the lists of a sweep."""

import contextlib
import functools
import itertools
import shlex
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from resexp import UserError, catalog, did_you_mean
from resexp.config.keys import check, check_choice, describe_keys
from resexp.config.schema import Config

GROUPS = ("model", "dataset", "protocol", "launcher")


def key_of(word: Override) -> str:
    return word.key_or_group


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's grammar, with known keys only; the values are checked when the configuration is composed."""
    keys = [*GROUPS, "depth", "family", *(key for key, _ in describe_keys(Config))]
    words = []
    for text in overrides:
        word = parse_word(text)
        if key_of(word) not in keys:
            raise UserError(f"{text}: no key {key_of(word)}; {near_key(key_of(word), keys)}")
        words.append(word)
    return words


@functools.cache  # a sweep's runs share most of their words
def parse_word(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except (OverrideParseException, HydraException):
        raise UserError(f"cannot read {text!r}: {_remedy(text)}") from None


def _remedy(text: str) -> str:
    """How a word must be typed that Hydra cannot read."""
    key, equals, value = text.partition("=")
    quoted = f"{key}='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    odd = next((c for c in value if not (c.isascii() and (c.isalnum() or c in "_-./:%+@?|,"))), None)
    if equals and odd and "\0" not in value:
        with contextlib.suppress(OverrideParseException, HydraException):
            OverridesParser.create().parse_override(quoted)
            return f"{odd!r} needs quotes; type {shlex.quote(quoted)}"
    return "write key=value, as in model=plain56 seed=1"


def near_key(key: str, keys: Sequence[str]) -> str:
    # A bare "width" means model.width: compare with the last part as well.
    for full in keys:
        if full.rpartition(".")[2] == key:
            return f"did you mean {full}?"
    near = did_you_mean(key, keys)
    return near if near.startswith("did you mean") else "resexp train --help lists the keys"


def jobs_of(words: Sequence[Override], both_families: bool) -> Iterator[list[str]]:
    """The override lists of all runs, in the order of Hydra's own sweeps: the last list varies fastest."""
    net_words = [word for word in words if key_of(word) in ("model", "depth", "family", "model.depth", "model.family")]
    nets = _nets(net_words, both_families)
    factors: list[list[list[str]]] = []
    for word in words:
        if net_words and word is net_words[0]:
            factors.append([[f"model={name}"] for name in nets])
        elif word not in net_words:
            factors.append([[text] for text in _values_as_overrides(word)])
    if not net_words:
        factors.insert(0, [[]])
    for combination in itertools.product(*factors):
        yield list(itertools.chain.from_iterable(combination))


def _values_as_overrides(word: Override) -> list[str]:
    if not word.is_sweep_override():
        return [word.input_line or ""]
    return [f"{word.get_key_element()}={value}" for value in _values(word)]


def _values(word: Override) -> list[str]:
    if not word.is_sweep_override():
        return [str(word.value())]
    try:
        values = list(word.sweep_string_iterator())
    except HydraException:
        raise UserError(f"{word.input_line}: write the values out, as in seed=0,1,2 or seed=range(0,3)") from None
    if not values:
        raise UserError(f"{word.input_line}: an empty list")
    return values


def _nets(words: Sequence[Override], both_families: bool) -> list[str]:
    """The nets that model=, depth= and family= name together."""
    given: dict[str, list[str]] = {}
    for word in words:
        key = key_of(word).removeprefix("model.")
        if key in given:
            raise UserError(f"{word.input_line}: {key} is given twice")
        given[key] = _values(word)
    if "model" in given:
        for key in ("depth", "family"):
            if key in given:
                model = ",".join(given["model"])
                raise UserError(f"model={model} {key}={','.join(given[key])}: model= names both; drop one of the two")
        return given["model"]
    families = given.get("family", ["plain", "resnet"] if both_families else ["resnet"])
    for family in families:
        check_choice("family", family, tuple(catalog.FAMILIES))
    if "depth" not in given:
        return [catalog.default_net(family) for family in families]
    for depth in given["depth"]:
        check(depth.isdecimal(), "depth", depth, "must be a whole number, as in depth=56")
    return [f"{family}{depth}" for depth in given["depth"] for family in families]
