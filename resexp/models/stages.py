"""From a depth to blocks per stage, and what else it implies: the tables of the papers. No torch."""

from collections.abc import Mapping
from typing import Any

from resexp import UserError

SMALL_SIDE = 64  # images up to this side get the form for small images: 3x3 stem, no large classifier
PATCHES = 8  # of a transformer, along a side of a small image
LARGE_PATCH = 16  # pixels along a side of a transformer's patch of a large one
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
VGG_OF_DEPTH = {8: "b_5x5", 11: "a", 13: "b", 16: "d", 19: "e"}
BASE_WIDTH = {"cifar": 16, "imagenet": 64}  # channels of the first stage; each later stage doubles them
ACTS_WITH = {  # knobs of staged nets that act only beside another
    "skip_scale": ("connection", ("scaled",)),
    "transform_scale": ("connection", ("scaled",)),
    "gate_bias": ("connection", ("exclusive-gate", "shortcut-gate")),
    "skip_dropout": ("connection", ("dropout",)),
    "stride_in": ("transform", ("bottleneck",)),
}


def is_imagenet_depth(depth: int) -> bool:
    """Whether a net of this depth has the layout for ImageNet, where nothing else is said."""
    return any(depth in depths for depths in _IMAGENET_STAGES.values())


def bottlenecks_by_depth(depth: int, layout: str | None) -> bool:
    """Whether a name of this depth means bottlenecks.

    In the CIFAR layout the depths that are not 6n+2 do; where no layout is said, 29, 50, 101, 152, 164, 200 and 1001.
    """
    if layout == "cifar":
        return depth % 6 != 2
    return depth in (*_IMAGENET_STAGES["bottleneck"], *_CIFAR_BOTTLENECK_DEPTHS)


def patch_side(model: Mapping[str, Any], side: int) -> int:
    """Pixels along a side of a transformer's patch, of images of this side."""
    return model["patch"] or (LARGE_PATCH if side > SMALL_SIDE else max(2, side // PATCHES))


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
    wide = model["family"] == "wrn"
    others = 4 if wide else 2  # stem and classifier; Zagoruyko & Komodakis count the stem and three projections
    if depth < layers + others or depth % layers != others:
        legal = [d for d in range(layers + others, 2 * depth + 4 * layers, layers) if wide or not is_imagenet_depth(d)]
        near = " or ".join(
            str(d) for d in [*[d for d in legal if d < depth][-1:], *[d for d in legal if d > depth][:1]]
        )
        what = "a wide residual net" if wide else "a CIFAR net" + " of bottleneck blocks" * (kind == "bottleneck")
        other = "; WRN-50-2-bottleneck, for ImageNet, is model=resnext50_1x128d" if wide and depth == 50 else ""
        raise UserError(f"depth={depth} is not {layers}n+{others}, the depth of {what}: the nearest are {near}{other}")
    return ((depth - others) // layers * (2 if kind == "single" else 1),) * 3


def vgg_depth(variant: str) -> int:
    """Layers with weights of a VGG configuration: its convolutions and three linear layers."""
    return sum(VGG_CONVOLUTIONS[variant]) + 3


def complete_vgg(full: dict[str, Any], given: dict[str, Any]) -> None:
    """Fill in the configuration that a VGG net's depth implies. Raises UserError if there is none."""
    full["variant"] = full["variant"] or VGG_OF_DEPTH.get(full["depth"])
    if full["variant"] is None or vgg_depth(full["variant"]) != full["depth"]:
        rule = f"vgg_{full['variant']} has {vgg_depth(full['variant'])} layers" if full["variant"] else "no VGG net"
        raise UserError(f"depth={full['depth']}: {rule}; choose from {', '.join(map(str, VGG_OF_DEPTH))}")


def is_large_densenet(depth: int) -> bool:
    """Whether a DenseNet of this depth is one of those for ImageNet."""
    return depth in _DENSENET_BLOCKS


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


def usual_growth(depth: int) -> int:
    """Channels that a layer of a DenseNet adds, where its name does not say."""
    return (48 if depth == 161 else 32) if is_large_densenet(depth) else 12


def complete_densenet(full: dict[str, Any], given: dict[str, Any]) -> None:
    """Fill in what the depth of a DenseNet implies. Raises UserError for what cannot be built."""
    if full["init"] in ("dirac", "looks-linear"):  # a dense layer makes few channels of many
        raise UserError(f"model.init={full['init']}: dense nets have no use for it; drop it")
    large = is_large_densenet(full["depth"])
    full["growth"] = full["growth"] or usual_growth(full["depth"])
    full["transform"] = full["transform"] or ("bottleneck" if large else "basic")
    full["compression"] = full["compression"] or (0.5 if large else 1.0)
    densenet_blocks(full)
    full["width"] = full["width"] or (2 * full["growth"] if large or full["compression"] < 1 else 16)  # Sec. 3


def complete_wide(full: dict[str, Any], given: dict[str, Any]) -> None:
    """Fill in what the depth of a wide residual net implies. Raises UserError for what cannot be built."""
    full["layout"] = full["layout"] or "cifar"
    for key, only in (("layout", "cifar"), ("transform", "basic")):
        if full[key] != only:
            raise UserError(
                f"model.{key}={full[key]}: a wide residual net has three stages of basic blocks; drop it "
                "(WRN-50-2-bottleneck, for ImageNet, is model=resnext50_1x128d)"
            )
    complete_staged(full, given)


def complete_staged(full: dict[str, Any], given: dict[str, Any]) -> None:
    """Fill in what the depth of a staged net implies. Raises UserError for what cannot be built."""
    depth = full["depth"]
    if "transform" in full:
        bottlenecks = bottlenecks_by_depth(depth, full["layout"])
        full["transform"] = full["transform"] or ("bottleneck" if bottlenecks else "basic")
    full["layout"] = full["layout"] or ("imagenet" if is_imagenet_depth(depth) else "cifar")
    if full["family"] == "resnext" and full["transform"] != "bottleneck":
        raise UserError(
            f"model.transform={full['transform']}: the paths of a ResNeXt are those of a bottleneck; drop it"
        )
    stages(full)
    full["width"] = full["width"] or (64 if full["family"] == "resnext" else BASE_WIDTH[full["layout"]])
    if "shortcut" in full:
        _complete_shortcut(full)
    for key, (other, values) in ACTS_WITH.items():
        if other in full and key in full and full[other] not in values:
            if given[key] is not None:
                raise UserError(
                    f"model.{key}={given[key]}: acts only with model.{other}={' or '.join(values)}; "
                    "set that too, or drop it"
                )
            full[key] = None
    _check_remedies(full, given)
    channels = full["width"] * full.get("widen", 1)
    if full.get("reduction") and "cardinality" not in full and full["reduction"] > channels:
        raise UserError(
            f"model.reduction={full['reduction']}: above the first stage's {channels} channels; take {channels} or less"
        )


def _check_remedies(full: dict[str, Any], given: dict[str, Any]) -> None:
    """What takes the place of shortcuts, or acts on how they start, where it cannot be had or does nothing."""
    init, crelu = full.get("init", "he"), full.get("activation") == "crelu"
    if init == "looks-linear" and not crelu:
        raise UserError("model.init=looks-linear: needs model.activation=crelu, which only plain nets have")
    if init == "dirac" and (crelu or "cardinality" in full):
        raise UserError("model.init=dirac: needs convolutions that make as many channels as they read; drop it")
    if init != "he" and full.get("convolution") == "dirac":
        raise UserError(f"model.init={init}: model.convolution=dirac takes only the directions of weights; drop one")
    if crelu and (full["width"] % 2 or full["transform"] == "bottleneck" or full["reduction"]):
        raise UserError("model.activation=crelu: takes an even model.width, and no bottlenecks or gates on channels")
    if crelu and full["convolution"] == "dirac":
        raise UserError(
            "model.convolution=dirac: with model.activation=crelu half of the identity is cut off; drop one"
        )
    if full.get("activation") == "linear-ends" and full["transform"] == "single":
        raise UserError("model.activation=linear-ends: of blocks of one convolution no ReLU is left; drop one")
    paths = full.get("gradient_paths", "all")
    if paths != "all" and (full["survival"] < 1 or full["connection"] != "add"):
        raise UserError(f"model.gradient_paths={paths}: only with model.connection=add and no model.survival; drop it")
    for key in ("norm_scale", "last_scale"):
        if given[key] not in (None, 1) and full["norm"] == "none":
            raise UserError(f"model.{key}={given[key]}: there is no batch norm with model.norm=none; drop one of them")
        if given[key] not in (None, 1) and init == "torch7":
            raise UserError(f"model.{key}={given[key]}: model.init=torch7 draws the scales of batch norm; drop one")
    if given["last_scale"] not in (None, 1) and full["order"] in ("full", "bn-after-addition"):
        raise UserError(
            f"model.last_scale={given['last_scale']}: F ends without batch norm with model.order={full['order']}; "
            "set model.order=original, or drop it"
        )


def _complete_shortcut(full: dict[str, Any]) -> None:
    full["shortcut"] = full["shortcut"] or ("B" if full["transform"] == "bottleneck" else "A")
    if full["survival"] < 1 and full["connection"] != "add":
        raise UserError(f"model.survival={full['survival']}: only with model.connection=add")
    if full["zero_padding"] != "end" and full["shortcut"] != "A":
        raise UserError(f"model.zero_padding={full['zero_padding']}: only with model.shortcut=A, which adds zeros")
