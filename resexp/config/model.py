"""The settings of a net."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from resexp import catalog
from resexp.config.keys import check_choice, setting


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The net. A knob that is null has the value of the family's paper; only some families have each."""

    family: str = setting(doc="one of resexp models; model=plain56 sets family and depth")
    depth: int = setting(
        doc="layers with weights: 6n+2 or 9n+2 (CIFAR layout), 6n+4 (wide), 18 to 200 (ImageNet layout), ..."
    )
    layout: str = setting("auto", doc="cifar (3 stages), imagenet (4 stages), auto: by the depth")
    width: int | None = setting(
        None, doc="channels of the first stage, of wide nets of the stem; null: the paper's, 16 or 64"
    )
    stem: str = setting("auto", doc="3x3, 7x7 (stride 2 and max pooling), auto: by layout and image size")
    shortcut: str | None = setting(
        None, doc="A: identity, zero-padded; B: projection where the shape changes; C: always; null: the paper's"
    )
    zero_padding: str | None = setting(
        None,
        doc="shortcut A: end: new channels of zeros after the old ones; both: half of them before, as some "
        "published weights need",
    )
    transform: str | None = setting(None, doc="basic, bottleneck, single (one convolution); null: by the depth")
    order: str | None = setting(None, doc="of batch norm and ReLU: " + ", ".join(catalog.CHOICES["order"]))
    connection: str | None = setting(None, doc=", ".join(catalog.CHOICES["connection"]))
    skip_scale: float | None = setting(None, doc="connection=scaled: factor of the shortcut")
    transform_scale: float | None = setting(None, doc="connection=scaled: factor of F")
    gate_bias: float | None = setting(None, doc="gates: their bias at the start")
    skip_dropout: float | None = setting(None, doc="connection=dropout: rate on the shortcut")
    init: str | None = setting(None, doc="weights at the start: " + ", ".join(catalog.CHOICES["init"]))
    norm: str | None = setting(None, doc="batch, none: a bias for each channel instead")
    norm_scale: float | None = setting(None, doc="plain nets: scale of every batch norm at the start")
    last_scale: float | None = setting(None, doc="residual nets: scale of the last batch norm of F at the start")
    activation: str | None = setting(None, doc="plain nets: " + ", ".join(catalog.CHOICES["activation"]))
    convolution: str | None = setting(None, doc="plain nets: usual, dirac (contains the identity)")
    gradient_scale: float | None = setting(None, doc="what every block multiplies the gradient by on its way back")
    gradient_paths: str | None = setting(
        None, doc="residual nets: the paths that gradients take: all; long: through every F; short: through one F"
    )
    stride_in: str | None = setting(None, doc="1x1, 3x3: the convolution of a bottleneck that has its stride")
    reduction: int | None = setting(None, doc="of a squeeze-and-excitation gate on every transform; null: no gate")
    dropout: float | None = setting(None, doc="rate inside the blocks, or of VGG's classifier")
    survival: float | None = setting(None, doc="stochastic depth: probability that the last block takes part in a step")
    cardinality: int | None = setting(None, doc="ResNeXt: paths of a block")
    widen: int | None = setting(None, doc="wide residual nets: factor of the channels of all stages")
    group_width: int | None = setting(None, doc="ResNeXt: channels of a path in the first stage")
    form: str | None = setting(None, doc="ResNeXt: grouped, concatenated, summed: the same function")
    variant: str | None = setting(None, doc="VGG: " + ", ".join(catalog.CHOICES["variant"]))
    batch_norm: bool | None = setting(None, doc="VGG: after every convolution")
    pools: int | None = setting(None, doc="VGG: pooling layers, at most 5; fewer for small images")
    growth: int | None = setting(None, doc="DenseNet: channels that a layer adds")
    compression: float | None = setting(None, doc="DenseNet: share of the channels that a transition keeps")
    heads: int | None = setting(None, doc="transformer: attention heads")
    patch: int | None = setting(None, doc="transformer: pixels along a side of a patch; null: by the image size")
    mlp_ratio: int | None = setting(None, doc="transformer: width of the feed-forward layer over the model's")
    residual: str | None = setting(None, doc="transformer: sub-layers with a residual: both, attention, mlp, none")
    layer_norm: str | None = setting(None, doc="transformer: sub-layers with layer norm: both, attention, mlp, none")
    norm_position: str | None = setting(None, doc="transformer: pre, post")

    def __post_init__(self) -> None:
        check_choice("family", self.family, tuple(catalog.FAMILIES))
        check_choice("model.layout", self.layout, catalog.LAYOUTS)
        check_choice("model.stem", self.stem, catalog.STEMS)
        if self.shortcut is not None and self.family != "plain":
            check_choice("model.shortcut", self.shortcut, catalog.SHORTCUTS)
        for key, value in catalog.resolve(dataclasses.asdict(self)).items():
            setattr(self, key, value)

    @property
    def name(self) -> str:
        return catalog.net_name(dataclasses.asdict(self))

    @property
    def implied(self) -> dict[str, Any]:
        """Settings that name neither a choice nor a change, because family and depth imply them.

        The first four are older than this rule: runs have them in their names.
        """
        full = catalog.resolve({"family": self.family, "depth": self.depth, "layout": self.layout})
        return {
            key: value
            for key, value in full.items()
            if key not in ("family", "depth", "layout", "width", "stem", "shortcut")
        }
