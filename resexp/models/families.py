"""The families of nets: one record each, with knobs, names, what family and depth imply, and who builds it. No torch.

To add a family, write its record here and its builder beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resexp import UserError
from resexp.models import footprint
from resexp.models.stages import (
    VGG_CONVOLUTIONS,
    complete_densenet,
    complete_staged,
    complete_vgg,
    complete_wide,
    is_large_densenet,
    usual_growth,
    vgg_depth,
)

Settings = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Nets of one paper.

    :param title: what they are called in a sentence.
    :param paper: who described them, and where.
    :param builder: ``module:function`` below ``resexp.models``.
    :param knobs: those that its members have, with the paper's value; None: ``complete`` says.
    :param pattern: of a member's name, without ``se_``; its groups are settings.
    :param name: the name of a net with these settings.
    :param example: the net that the family's name alone stands for.
    :param complete: fills in what family and depth imply; ``given`` are the knobs that were named. Raises UserError.
    :param floats: of one image that a net keeps for its backward pass, for estimates of memory.
    :param read: turns the groups of the pattern into further settings.
    :param images: the images for which the paper describes a net: ``cifar``, ``imagenet`` or ``digits``.
    :param narrowed: a data set's ``sweep_width`` makes it narrower.
    :param one_size: its nets take images of one size only.
    """

    title: str
    paper: str
    builder: str
    knobs: Mapping[str, Any]
    pattern: str
    name: Callable[[Mapping[str, Any]], str]
    example: str
    complete: Callable[[Settings, Settings], None]
    floats: Callable[[Mapping[str, Any], int, bool], float]
    read: Callable[[Settings], None] = lambda settings: None
    images: Callable[[Mapping[str, Any]], str] = lambda model: model["layout"]
    narrowed: bool = False
    one_size: bool = False


# --- staged nets: plain, residual, highway, ResNeXt, wide -------------------------------------------------------------


_STAGED: Settings = {
    "layout": None,
    "width": None,
    "stem": "auto",
    "transform": None,
    "stride_in": "1x1",
    "reduction": None,
    "init": "he",
    "norm": "batch",
    "gradient_scale": 1.0,
}
_PLAIN: Settings = {**_STAGED, "norm_scale": 1.0, "activation": "relu", "convolution": "usual"}
_RESNET: Settings = {
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
    "order": "original",
    "last_scale": 1.0,
    "gradient_paths": "all",
}


def _staged(name: str, title: str, paper: str, knobs: Settings) -> Family:
    """A family of nets that are named by their depth alone."""
    return Family(
        title,
        paper,
        "resnet:build_staged",
        knobs,
        pattern=rf"(?P<family>{name})(?P<depth>\d+)",
        name=lambda model: f"{model['family']}{model['depth']}",
        example=f"{name}20",
        complete=complete_staged,
        floats=footprint.staged,
        narrowed=True,
    )


_RESNEXT = Family(
    "ResNeXt",
    "Xie et al. 2017",
    "resnet:build_staged",
    {**_RESNET, "transform": "bottleneck", "stride_in": "3x3", "cardinality": 32, "group_width": 4, "form": "grouped"},
    pattern=r"(?P<family>resnext)(?P<depth>\d+)(?:_(?P<cardinality>\d+)x(?P<group_width>\d+)d)?",
    name=lambda model: f"resnext{model['depth']}_{model['cardinality']}x{model['group_width']}d",
    example="resnext29_8x64d",
    complete=complete_staged,
    floats=footprint.staged,
)


_WIDE = Family(
    "wide residual nets",
    "Zagoruyko & Komodakis 2016",
    "resnet:build_staged",
    {**_RESNET, "order": "full", "transform": "basic", "shortcut": "B", "widen": 10},
    pattern=r"(?P<family>wrn)(?P<depth>\d+)(?:_(?P<widen>\d+))?",
    name=lambda model: f"wrn{model['depth']}_{model['widen']}",
    example="wrn28_10",
    complete=complete_wide,
    floats=footprint.staged,
    narrowed=True,
)


# --- VGG --------------------------------------------------------------------------------------------------------------


def _read_vgg(settings: Settings) -> None:
    if "batch_norm" in settings:
        settings["batch_norm"] = True
    if "variant" in settings:
        settings["depth"] = vgg_depth(settings["variant"])
    if "reduction" in settings:
        settings["batch_norm"] = True  # Hu et al. 2018 train their VGG-16 with batch norm


def _vgg_name(model: Mapping[str, Any]) -> str:
    norm = "_bn" if model.get("batch_norm") and not model.get("reduction") else ""
    return f"vgg_{model['variant']}{norm}"


_VGG = Family(
    "VGG",
    "Simonyan & Zisserman 2015, Table 1",
    "vgg:build_vgg",
    {"width": 64, "variant": None, "batch_norm": False, "pools": 5, "dropout": 0.5, "reduction": None},
    pattern=rf"(?P<family>vgg)(?:_(?P<variant>{'|'.join(sorted(VGG_CONVOLUTIONS, key=len, reverse=True))})"
    r"(?P<batch_norm>_bn)?|(?P<depth>\d+))",
    name=_vgg_name,
    example="vgg_a",
    complete=complete_vgg,
    floats=footprint.vgg,
    read=_read_vgg,
    images=lambda model: "imagenet",
)


# --- DenseNet, GoogLeNet ----------------------------------------------------------------------------------------------


def _read_densenet(settings: Settings) -> None:
    kind = settings.pop("kind", "")
    if "b" in kind:
        settings["transform"] = "bottleneck"
    if "c" in kind:
        settings["compression"] = 0.5
    if "depth_alone" in settings:
        settings["depth"] = settings.pop("depth_alone")


def _densenet_name(model: Mapping[str, Any]) -> str:
    depth, growth = model["depth"], model["growth"]
    if is_large_densenet(depth):
        return f"densenet{depth}" if growth == usual_growth(depth) else f"densenet{depth}_k{growth}"
    kind = ("b" if model["transform"] == "bottleneck" else "") + ("c" if model["compression"] < 1 else "")
    return f"densenet{'_' * bool(kind)}{kind}{depth}_k{growth}"


_DENSENET = Family(
    "DenseNet",
    "Huang et al. 2017",
    "densenet:build_densenet",
    {"width": None, "growth": None, "transform": None, "compression": None, "dropout": 0.0, "init": "he"},
    pattern=r"(?P<family>densenet)(?:(?:_(?P<kind>b|c|bc))?(?P<depth>\d+)_k(?P<growth>\d+)|(?P<depth_alone>\d+))",
    name=_densenet_name,
    example="densenet40_k12",
    complete=complete_densenet,
    floats=footprint.densenet,
    read=_read_densenet,
    images=lambda model: "imagenet" if is_large_densenet(model["depth"]) else "cifar",
)


_GOOGLENET = Family(
    "GoogLeNet",
    "Szegedy et al. 2015, with batch norm",
    "googlenet:build_googlenet",
    {"reduction": None},
    pattern=r"(?P<family>googlenet)(?:22)?",
    name=lambda model: "googlenet",
    example="googlenet",
    complete=lambda full, given: None,
    floats=footprint.googlenet,
    read=lambda settings: settings.update(depth=22),
    images=lambda model: "imagenet",
)


# --- nets without convolutions ----------------------------------------------------------------------------------------


def _complete_transformer(full: Settings, given: Settings) -> None:
    _check_layers(full, least=1)
    if full["width"] % full["heads"]:
        raise UserError(f"model.heads={full['heads']}: does not divide model.width={full['width']}")


def _complete_mlp(full: Settings, given: Settings) -> None:
    # Srivastava et al. 2015, Sec. 3.1: 5,000 weights per layer
    full["width"] = full["width"] or {"mlp": 71, "highway_mlp": 50}[full["family"]]
    _check_layers(full, least=3)


def _check_layers(full: Settings, *, least: int) -> None:
    if full["depth"] < least:
        raise UserError(f"depth={full['depth']}: a {full['family']} needs at least {least} layers")


_TRANSFORMER = Family(
    "transformers",
    "Vaswani et al. 2017, on patches as Dosovitskiy et al. 2021",
    "transformer:build_transformer",
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
    pattern=r"(?P<family>transformer)(?P<depth>\d+)",
    name=lambda model: f"transformer{model['depth']}",
    example="transformer6",
    complete=_complete_transformer,
    floats=footprint.transformer,
    images=lambda model: "cifar",
    one_size=True,
)


def _mlp(name: str, title: str, knobs: Settings) -> Family:
    return Family(
        title,
        "Srivastava et al. 2015, Sec. 3.1",
        "mlp:build_mlp",
        {"width": None, **knobs},
        pattern=rf"(?P<family>{name})(?P<depth>\d+)",
        name=lambda model: f"{model['family']}{model['depth']}",
        example=f"{name}10",
        complete=_complete_mlp,
        floats=footprint.mlp,
        images=lambda model: "digits",
        one_size=True,
    )


_HIGHWAY: Settings = {"layout": None, "width": None, "stem": "auto", "gate_bias": -3.0}
FAMILIES: Mapping[str, Family] = {
    "plain": _staged("plain", "plain nets", "He et al. 2015, Sec. 3.3", _PLAIN),
    "resnet": _staged("resnet", "residual nets", "He et al. 2015", _RESNET),
    "preresnet": _staged("preresnet", "pre-activation residual nets", "He et al. 2016", {**_RESNET, "order": "full"}),
    "highway": _staged("highway", "highway nets", "Srivastava et al. 2015, Sec. 2.1", _HIGHWAY),
    "resnext": _RESNEXT,
    "wrn": _WIDE,
    "vgg": _VGG,
    "densenet": _DENSENET,
    "googlenet": _GOOGLENET,
    "transformer": _TRANSFORMER,
    "mlp": _mlp("mlp", "plain fully connected nets", {}),
    "highway_mlp": _mlp("highway_mlp", "fully connected highway nets", {"gate_bias": -4.0}),
}
KNOBS = tuple(dict.fromkeys(key for family in FAMILIES.values() for key in family.knobs))
