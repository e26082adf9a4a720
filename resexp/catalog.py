"""What nets there are: names, settings and golden counts, over the families' records. No torch: names cost nothing.

A name is a family and what sets its members apart: ``plain56``, ``resnext29_8x64d``, ``densenet_bc100_k12``,
``vgg_d_bn``. ``se_`` before a name puts squeeze-and-excitation on every transform. All other knobs have the value of
the family's paper.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resexp import UserError, did_you_mean
from resexp.golden import COUNTS
from resexp.models.families import FAMILIES, KNOBS

SHORTCUTS = ("A", "B", "C")
STEMS = ("auto", "3x3", "7x7")
LAYOUTS = ("auto", "cifar", "imagenet")
CHOICES = {  # the values of the knobs that are words
    "transform": ("basic", "bottleneck", "single"),
    "order": ("original", "bn-after-addition", "relu-before-addition", "relu-only", "full"),
    "connection": (
        "add",
        "none",
        "scaled",
        "exclusive-gate",
        "shortcut-gate",
        "dropout",
        "concatenate",
        "skip-init",
        "fading",
    ),
    "stride_in": ("1x1", "3x3"),
    "init": (
        "he",
        "he-fan-out",
        "torch7",
        "xavier",
        "naive",
        "orthogonal",
        "delta-orthogonal",
        "dirac",
        "looks-linear",
    ),
    "activation": ("relu", "leaky-relu", "prelu", "crelu", "tailored-relu", "tanh", "linear-ends"),
    "gradient_paths": ("all", "long", "short"),
    "norm": ("batch", "none"),
    "convolution": ("usual", "dirac"),
    "zero_padding": ("end", "both"),
    "form": ("grouped", "concatenated", "summed"),
    "variant": ("a", "a_lrn", "b", "b_5x5", "c", "d", "e"),
    "residual": ("both", "attention", "mlp", "none"),
    "layer_norm": ("both", "attention", "mlp", "none"),
    "norm_position": ("pre", "post"),
}
LEAST = {  # the smallest value of the knobs that are numbers
    "cardinality": 1,
    "widen": 1,
    "group_width": 1,
    "reduction": 1,
    "growth": 1,
    "heads": 1,
    "patch": 1,
    "pools": 0,
    "mlp_ratio": 1,
    "dropout": 0.0,
    "skip_dropout": 0.0,
    "survival": 0.0,
    "compression": 0.01,
    "skip_scale": 0.0,
    "norm_scale": 0.0,
    "last_scale": 0.0,
    "transform_scale": 0.0,
    "gradient_scale": 0.0,
}
MOST_LAYERS = 100_000  # a typo rather than a net
MOST = {
    "width": 65_536,
    "widen": 99,
    "dropout": 1.0,
    "skip_dropout": 1.0,
    "survival": 1.0,
    "compression": 1.0,
    "pools": 5,
}

SE_REDUCTION = 16  # Hu et al. 2018, Sec. 6.4
PAPER_IMAGE = {"cifar": ((3, 32, 32), 10), "imagenet": ((3, 224, 224), 1000), "digits": ((1, 8, 8), 10)}
NARROWED = tuple(name for name, family in FAMILIES.items() if family.narrowed)


@dataclass(frozen=True)
class Net:
    """A named net as its paper describes it, with golden counts that a test recounts from the built net."""

    name: str
    parameters: int
    macs: int  # multiply-adds of convolutions and linear layers for one image of the paper's size

    @property
    def settings(self) -> dict[str, Any]:
        return resolve(parse_name(self.name))

    @property
    def image(self) -> tuple[tuple[int, int, int], int]:
        """The shape of an image (C, H, W) and the number of classes for which the counts hold."""
        return PAPER_IMAGE[layout_of(self.settings)]


NAMED = tuple(Net(name, *counts) for name, counts in COUNTS.items())


def parse_name(name: str) -> dict[str, Any]:
    """``"plain56"`` -> ``{"family": "plain", "depth": 56}``. Raises UserError for an unknown name."""
    plain = "googlenet" if name == "se_inception" else name.removeprefix("se_")
    for key, family in FAMILIES.items():
        match = re.fullmatch(family.pattern, plain)
        if not match:
            continue
        groups = {group: value for group, value in match.groupdict().items() if value is not None}
        settings: dict[str, Any] = {k: int(v) if v.isdecimal() else v for k, v in groups.items()}
        if name.startswith("se_"):
            if "reduction" not in family.knobs:
                raise UserError(f"model={name}: {key} nets have no squeeze-and-excitation; drop se_")
            settings["reduction"] = SE_REDUCTION
        family.read(settings)
        return settings
    if name in FAMILIES:
        example = default_net(name)
        depth = example.removeprefix(name)
        hint = f"model={example}" + f", or depth={depth} family={name}" * depth.isdecimal()
        raise UserError(f"model={name} names a family without a depth: write one of its nets, as in {hint}")
    raise UserError(f"model={name}: no such net; {did_you_mean(name, list(COUNTS))} (resexp models lists them)")


def default_net(family: str) -> str:
    """The net that a family's name alone stands for."""
    return FAMILIES[family].example


def net_name(model: Mapping[str, Any]) -> str:
    """The name of a net with these settings, whatever its other knobs: the inverse of ``parse_name``."""
    name = FAMILIES[model["family"]].name(model)
    if not model.get("reduction"):
        return name
    return "se_inception" if name == "googlenet" else f"se_{name}"


def resolve(model: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a net: the given ones, and for what is missing or None what family and depth imply.

    :param model: ``family``, ``depth`` and any knobs.
    :raises UserError: for a knob that the family does not have, or a value or depth that cannot be built.
    """
    name, depth = model["family"], model["depth"]
    family = FAMILIES[name]
    given = {key: model.get(key) for key in KNOBS}
    for key in ("layout", "stem"):
        given[key] = None if given[key] == "auto" else given[key]
    for key, value in given.items():
        if value is not None and key not in family.knobs:
            rule = f"{name} nets have no such knob; theirs: {', '.join(sorted(family.knobs))}"
            if (name, key) == ("plain", "shortcut"):
                rule = f"a plain net has no shortcut; drop it, or take model=resnet{depth}"
            raise UserError(f"model.{key}={value}: {rule}")
    if depth > MOST_LAYERS:
        raise UserError(f"depth={depth}: must be at most {MOST_LAYERS}")
    full = {"family": name, "depth": depth, **family.knobs, **{k: v for k, v in given.items() if v is not None}}
    _check_values({key: value for key, value in full.items() if key in given and value is not None})
    family.complete(full, given)
    return full


def _check_values(knobs: Mapping[str, Any]) -> None:
    for key, value in knobs.items():
        if key in CHOICES and value not in CHOICES[key]:
            raise UserError(f"model.{key}={value}: {did_you_mean(str(value), CHOICES[key])}")
        if key in LEAST and not value >= LEAST[key]:  # nor is NaN
            raise UserError(f"model.{key}={value}: must be at least {LEAST[key]}")
        if key in MOST and value > MOST[key]:
            raise UserError(f"model.{key}={value}: must be at most {MOST[key]}")
    if "width" in knobs and knobs["width"] < 1:
        raise UserError(f"model.width={knobs['width']}: must be at least 1")


def layout_of(model: Mapping[str, Any]) -> str:
    """The images for which the paper describes a net: ``cifar``, ``imagenet`` or ``digits``."""
    return FAMILIES[model["family"]].images(model)


def is_papers(model: Mapping[str, Any], *, but: Mapping[str, Any] | None = None) -> bool:
    """Whether a net is the one that its name stands for, at its width.

    :param but: what the paper's net has otherwise, where it has such a setting.
    """
    knobs = FAMILIES[model["family"]].knobs
    other = {key: value for key, value in (but or {}).items() if key in knobs}
    ours, named = resolve(model), resolve(parse_name(net_name(model)) | other)
    return all(ours[key] == named[key] for key in named if key not in ("stem", "layout", "pools"))


def label_of(model: dict[str, Any]) -> str:
    """The net's name, with the settings that are not its paper's: ``resnet56 survival=0.5``.

    Without its width, and without where option A puts its zeros, which is only an order of the channels.
    """
    knobs = resolve(model)
    usual = resolve(parse_name(net_name(knobs)))
    words = [
        f"{key}={value}"
        for key, value in knobs.items()
        if key not in ("width", "zero_padding") and usual.get(key, value) != value
    ]
    return " ".join([net_name(knobs), *words])
