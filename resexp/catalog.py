"""What nets there are: families, knobs, names, legal depths and golden counts. No torch: names cost nothing.

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

SHORTCUTS = ("A", "B", "C")
STEMS = ("auto", "3x3", "7x7")
LAYOUTS = ("auto", "cifar", "imagenet")
CHOICES = {  # the values of the knobs that are words
    "transform": ("basic", "bottleneck", "single"),
    "order": ("original", "bn-after-addition", "relu-before-addition", "relu-only", "full"),
    "connection": ("add", "none", "scaled", "exclusive-gate", "shortcut-gate", "dropout", "concatenate"),
    "stride_in": ("1x1", "3x3"),
    "zero_padding": ("end", "both"),
    "form": ("grouped", "concatenated", "summed"),
    "variant": ("a", "a_lrn", "b", "b_5x5", "c", "d", "e"),
    "residual": ("both", "attention", "mlp", "none"),
    "layer_norm": ("both", "attention", "mlp", "none"),
    "norm_position": ("pre", "post"),
}
LEAST = {  # the smallest value of the knobs that are numbers
    "cardinality": 1,
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
    "transform_scale": 0.0,
}
MOST = {"dropout": 1.0, "skip_dropout": 1.0, "survival": 1.0, "compression": 1.0, "pools": 5}
ACTS_WITH = {  # knobs of staged nets that act only beside another
    "skip_scale": ("connection", ("scaled",)),
    "transform_scale": ("connection", ("scaled",)),
    "gate_bias": ("connection", ("exclusive-gate", "shortcut-gate")),
    "skip_dropout": ("connection", ("dropout",)),
    "stride_in": ("transform", ("bottleneck",)),
}

SMALL_SIDE = 64  # images up to this side get the form for small images: 3x3 stem, no large classifier
SE_REDUCTION = 16  # Hu et al. 2018, Sec. 6.4
BASE_WIDTH = {"cifar": 16, "imagenet": 64}  # channels of the first stage; each later stage doubles them
PAPER_IMAGE = {"cifar": ((3, 32, 32), 10), "imagenet": ((3, 224, 224), 1000), "digits": ((1, 8, 8), 10)}

_IMAGENET_STAGES = {  # He et al. 2015, Table 1; 200 layers: He et al. 2016
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)},
}
_CIFAR_BOTTLENECK_DEPTHS = (29, 164, 1001)  # 29: Xie et al. 2017; 164 and 1001: He et al. 2016
_DENSENET_BLOCKS = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}
VGG_CONVOLUTIONS = {  # 3x3 convolutions of each stage (Simonyan & Zisserman 2015, Table 1)
    "a": (1, 1, 2, 2, 2),
    "a_lrn": (1, 1, 2, 2, 2),
    "b": (2, 2, 2, 2, 2),
    "b_5x5": (1, 1, 1, 1, 1),
    "c": (2, 2, 3, 3, 3),
    "d": (2, 2, 3, 3, 3),
    "e": (2, 2, 4, 4, 4),
}
_VGG_OF_DEPTH = {8: "b_5x5", 11: "a", 13: "b", 16: "d", 19: "e"}
_MLP_UNITS = {"mlp": 71, "highway_mlp": 50}  # Srivastava et al. 2015, Sec. 3.1: 5,000 weights a layer


@dataclass(frozen=True)
class Family:
    """Nets of one paper. ``knobs``: those that its members have, with the paper's value (None: see ``resolve``)."""

    title: str
    paper: str
    knobs: Mapping[str, Any]


_STAGED: dict[str, Any] = {
    "layout": None,
    "width": None,
    "stem": "auto",
    "transform": None,
    "stride_in": "1x1",
    "reduction": None,
}
_ADDED: dict[str, Any] = {
    **_STAGED,
    "shortcut": None,
    "connection": "add",
    "skip_scale": 0.5,
    "transform_scale": 1.0,
    "gate_bias": -6.0,
    "skip_dropout": 0.5,
    "dropout": 0.0,
    "survival": 1.0,
    "zero_padding": "end",
}
_RESNET: dict[str, Any] = {**_ADDED, "order": "original"}
_MLP: dict[str, Any] = {"width": None}

FAMILIES = {
    "plain": Family("plain nets", "He et al. 2015, Sec. 3.3", _STAGED),
    "resnet": Family("residual nets", "He et al. 2015", _RESNET),
    "preresnet": Family("pre-activation residual nets", "He et al. 2016", {**_RESNET, "order": "full"}),
    "highway": Family(
        "highway nets",
        "Srivastava et al. 2015, Sec. 2.1",
        {"layout": None, "width": None, "stem": "auto", "gate_bias": -3.0},
    ),
    "resnext": Family(
        "ResNeXt",
        "Xie et al. 2017",
        {
            **_RESNET,
            "transform": "bottleneck",
            "stride_in": "3x3",
            "cardinality": 32,
            "group_width": 4,
            "form": "grouped",
        },
    ),
    "vgg": Family(
        "VGG",
        "Simonyan & Zisserman 2015, Table 1",
        {"width": 64, "variant": None, "batch_norm": False, "pools": 5, "dropout": 0.5, "reduction": None},
    ),
    "densenet": Family(
        "DenseNet",
        "Huang et al. 2017",
        {"width": None, "growth": None, "transform": None, "compression": None, "dropout": 0.0},
    ),
    "googlenet": Family("GoogLeNet", "Szegedy et al. 2015, with batch norm", {"reduction": None}),
    "transformer": Family(
        "transformers",
        "Vaswani et al. 2017, on patches as Dosovitskiy et al. 2021",
        {
            "width": 192,
            "heads": 3,
            "patch": None,
            "mlp_ratio": 4,
            "residual": "both",
            "layer_norm": "both",
            "norm_position": "pre",
            "dropout": 0.0,
        },
    ),
    "mlp": Family("plain fully connected nets", "Srivastava et al. 2015, Sec. 3.1", _MLP),
    "highway_mlp": Family(
        "fully connected highway nets", "Srivastava et al. 2015, Sec. 3.1", {**_MLP, "gate_bias": -4.0}
    ),
}
KNOBS = tuple(dict.fromkeys(key for family in FAMILIES.values() for key in family.knobs))
NARROWED = ("plain", "resnet", "preresnet", "highway")  # families that a data set's sweep_width makes narrower

_NAMES: tuple[tuple[str, dict[str, int]], ...] = (  # the grammar of names: pattern, and what its groups set
    (r"(?P<family>plain|resnet|preresnet|highway|transformer|mlp|highway_mlp)(?P<depth>\d+)", {}),
    (r"(?P<family>resnext)(?P<depth>\d+)_(?P<cardinality>\d+)x(?P<group_width>\d+)d", {}),
    (r"(?P<family>vgg)_(?P<variant>a_lrn|b_5x5|[a-e])(?P<batch_norm>_bn)?", {}),
    (r"(?P<family>densenet)(?:_(?P<kind>b|c|bc))?(?P<depth>\d+)_k(?P<growth>\d+)", {}),
    (r"(?P<family>densenet|resnext)(?P<depth>\d+)", {}),
    (r"(?P<family>vgg)(?P<depth>\d+)", {}),
    (r"(?P<family>googlenet)(?:22)?", {"depth": 22}),
)


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
    if name == "se_inception":
        name = "se_googlenet"
    gated = name.startswith("se_")
    for pattern, implied in _NAMES:
        match = re.fullmatch(pattern, name.removeprefix("se_"))
        if not match:
            continue
        groups = {key: value for key, value in match.groupdict().items() if value is not None}
        settings: dict[str, Any] = {"family": groups.pop("family"), **implied}
        kind = groups.pop("kind", "")
        if "b" in kind:
            settings["transform"] = "bottleneck"
        if "c" in kind:
            settings["compression"] = 0.5
        for key, value in groups.items():
            settings[key] = int(value) if value.isdecimal() else True if key == "batch_norm" else value
        if "variant" in settings:
            settings["depth"] = vgg_depth(settings["variant"])
        if gated:
            if "reduction" not in FAMILIES[settings["family"]].knobs:
                raise UserError(f"model={name}: {settings['family']} nets have no squeeze-and-excitation; drop se_")
            settings["reduction"] = SE_REDUCTION
            if settings["family"] == "vgg":
                settings["batch_norm"] = True  # Hu et al. 2018 train their VGG-16 with batch norm
        return settings
    if name in FAMILIES:
        example = default_net(name)
        hint = f"model={name}56, or depth=56 family={name}" if name in NARROWED else f"model={example}"
        raise UserError(f"model={name} names a family without a depth: write one of its nets, as in {hint}")
    raise UserError(f"model={name}: no such net; {did_you_mean(name, list(COUNTS))} (resexp models lists them)")


def default_net(family: str) -> str:
    """The net that a family's name alone stands for."""
    return f"{family}20" if family in NARROWED else next(n.name for n in NAMED if n.settings["family"] == family)


def net_name(model: Mapping[str, Any]) -> str:
    """The name of a net with these settings, whatever its other knobs: the inverse of ``parse_name``."""
    family, depth = model["family"], model["depth"]
    gated = "se_" if model.get("reduction") else ""
    match family:
        case "resnext":
            return f"{gated}resnext{depth}_{model['cardinality']}x{model['group_width']}d"
        case "vgg":
            norm = "_bn" if model.get("batch_norm") and not gated else ""
            return f"{gated}vgg_{model['variant']}{norm}"
        case "densenet" if depth in _DENSENET_BLOCKS:
            usual = resolve({"family": family, "depth": depth})["growth"]
            return f"densenet{depth}" if model["growth"] == usual else f"densenet{depth}_k{model['growth']}"
        case "densenet":
            kind = ("b" if model["transform"] == "bottleneck" else "") + ("c" if model["compression"] < 1 else "")
            return f"densenet{'_' * bool(kind)}{kind}{depth}_k{model['growth']}"
        case "googlenet":
            return "se_inception" if gated else "googlenet"
    return f"{gated}{family}{depth}"


def resolve(model: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a net: the given ones, and for what is missing or None what family and depth imply.

    :param model: ``family``, ``depth`` and any knobs.
    :raises UserError: for a knob that the family does not have, or a value or depth that cannot be built.
    """
    family, depth = model["family"], model["depth"]
    knobs = FAMILIES[family].knobs
    given = {key: model.get(key) for key in KNOBS}
    given["layout"] = None if given["layout"] == "auto" else given["layout"]
    given["stem"] = None if given["stem"] == "auto" else given["stem"]
    for key, value in given.items():
        if value is not None and key not in knobs:
            if (family, key) == ("plain", "shortcut"):
                rule = f"a plain net has no shortcut; drop it, or take model=resnet{depth}"
            else:
                rule = f"{family} nets have no such knob; theirs: {', '.join(sorted(knobs))}"
            raise UserError(f"model.{key}={value}: {rule}")
    full = {"family": family, "depth": depth, **knobs, **{k: v for k, v in given.items() if v is not None}}
    _check_values({key: value for key, value in full.items() if key in given and value is not None})
    if "layout" in knobs:
        if family == "highway":
            kind = "basic"
        else:
            kind = full["transform"] = full["transform"] or _transform_of(depth, full["layout"])
        full["layout"] = full["layout"] or ("imagenet" if _is_imagenet(depth) else "cifar")
        if family == "resnext" and kind != "bottleneck":
            raise UserError(f"model.transform={kind}: the paths of a ResNeXt are those of a bottleneck; drop it")
        stages(full)
        full["width"] = full["width"] or (64 if family == "resnext" else BASE_WIDTH[full["layout"]])
        if "shortcut" in knobs:
            full["shortcut"] = full["shortcut"] or ("B" if kind == "bottleneck" else "A")
            if full["survival"] < 1 and full["connection"] != "add":
                raise UserError(f"model.survival={full['survival']}: only with model.connection=add")
            if full["zero_padding"] != "end" and full["shortcut"] != "A":
                raise UserError(
                    f"model.zero_padding={full['zero_padding']}: only with model.shortcut=A, which adds zeros"
                )
        for key, (other, values) in ACTS_WITH.items():
            if other in knobs and key in knobs and full[other] not in values:
                if given[key] is not None:
                    raise UserError(
                        f"model.{key}={given[key]}: acts only with model.{other}={' or '.join(values)}; "
                        "set that too, or drop it"
                    )
                full[key] = None
    if family == "vgg":
        full["variant"] = full["variant"] or _VGG_OF_DEPTH.get(depth)
        if full["variant"] is None or vgg_depth(full["variant"]) != depth:
            rule = f"vgg_{full['variant']} has {vgg_depth(full['variant'])} layers" if full["variant"] else "no VGG net"
            raise UserError(f"depth={depth}: {rule}; choose from {', '.join(map(str, _VGG_OF_DEPTH))}")
    if family == "densenet":
        large = depth in _DENSENET_BLOCKS
        full["growth"] = full["growth"] or ({161: 48}.get(depth, 32) if large else 12)
        full["transform"] = full["transform"] or ("bottleneck" if large else "basic")
        full["compression"] = full["compression"] or (0.5 if large else 1.0)
        densenet_blocks(full)
        if full["width"] is None:  # Sec. 3: 2k for ImageNet and BC nets, else 16
            full["width"] = 2 * full["growth"] if large or full["compression"] < 1 else 16
    if family in _MLP_UNITS:
        full["width"] = full["width"] or _MLP_UNITS[family]
    if family in ("transformer", *_MLP_UNITS):
        least = 1 if family == "transformer" else 3
        if depth < least:
            raise UserError(f"depth={depth}: a {family} needs at least {least} layers")
    if family == "transformer" and full["width"] % full["heads"]:
        raise UserError(f"model.heads={full['heads']}: does not divide model.width={full['width']}")
    if full.get("reduction") and family in NARROWED and full["reduction"] > full["width"]:
        raise UserError(
            f"model.reduction={full['reduction']}: above the first stage's {full['width']} channels; "
            f"take {full['width']} or less"
        )
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


def _is_imagenet(depth: int) -> bool:
    return any(depth in depths for depths in _IMAGENET_STAGES.values())


def _transform_of(depth: int, layout: str | None) -> str:
    """What a name of this depth means: 50, 101, 152, 164, 200 and 1001 layers have bottlenecks, others basic blocks."""
    if layout == "cifar":
        return "basic" if depth % 6 == 2 else "bottleneck"
    return "bottleneck" if depth in (*_IMAGENET_STAGES["bottleneck"], *_CIFAR_BOTTLENECK_DEPTHS) else "basic"


def layout_of(model: Mapping[str, Any]) -> str:
    """The images for which the paper describes a net: ``cifar``, ``imagenet`` or ``digits``."""
    family = model["family"]
    if family == "densenet":
        return "imagenet" if model["depth"] in _DENSENET_BLOCKS else "cifar"
    if family in _MLP_UNITS:
        return "digits"
    return model.get("layout") or ("cifar" if family == "transformer" else "imagenet")


def is_papers(model: Mapping[str, Any], *, with_width: bool = False) -> bool:
    """Whether a net is the one that its name stands for.

    :param with_width: its width included, which small studies change and say.
    """
    ours, named = resolve(model), resolve(parse_name(net_name(model)))
    free = ("stem", "layout", "pools", *(() if with_width else ("width",)))
    return all(ours[key] == named[key] for key in named if key not in free)


def stages(model: Mapping[str, Any]) -> tuple[int, ...]:
    """Blocks of each stage of a staged net: 56 layers -> ``(9, 9, 9)``. Raises UserError if there is no such net."""
    depth, layout = model["depth"], model["layout"]
    kind = model.get("transform") or "single"  # a highway layer
    if layout == "imagenet":
        known = _IMAGENET_STAGES.get("basic" if kind == "single" else kind, {})
        if depth not in known:
            what = "highway blocks" if kind == "single" else f"{kind} blocks"
            raise UserError(
                f"depth={depth} is not an ImageNet depth of {what}: choose from {', '.join(map(str, known))}"
            )
        return tuple(count * (2 if kind == "single" else 1) for count in known[depth])
    layers = 9 if kind == "bottleneck" else 6  # of one block in each of three stages
    if depth < layers + 2 or depth % layers != 2:
        legal = [d for d in range(layers + 2, 2 * depth + 4 * layers, layers) if not _is_imagenet(d)]  # as a name
        near = " or ".join(
            str(d) for d in [*[d for d in legal if d < depth][-1:], *[d for d in legal if d > depth][:1]]
        )
        what = f"a CIFAR net of {kind} blocks" if kind == "bottleneck" else "a CIFAR net"
        raise UserError(f"depth={depth} is not {layers}n+2, the depth of {what}: the nearest are {near}")
    return ((depth - 2) // layers * (2 if kind == "single" else 1),) * 3


def vgg_depth(variant: str) -> int:
    """Layers with weights of a VGG configuration: its convolutions and three linear layers."""
    return sum(VGG_CONVOLUTIONS[variant]) + 3


def densenet_blocks(model: Mapping[str, Any]) -> tuple[int, ...]:
    """Layers of each dense block. Raises UserError if the depth does not divide into three of them."""
    depth = model["depth"]
    if depth in _DENSENET_BLOCKS:
        return _DENSENET_BLOCKS[depth]
    convolutions = 2 if model["transform"] == "bottleneck" else 1
    layers = 3 * convolutions
    if depth < layers + 4 or (depth - 4) % layers:
        below, above = (max(layers + 4, depth + shift) for shift in (-((depth - 4) % layers), (4 - depth) % layers))
        near = str(below) if below == above else f"{below} or {above}"
        raise UserError(f"depth={depth} is not {layers}n+4, the depth of such a DenseNet: the nearest are {near}")
    return ((depth - 4) // layers,) * 3
