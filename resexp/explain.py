"""``resexp models --explain``: what blocks cost, side by side, with the arithmetic. No torch."""

from resexp.catalog import NAMED, SE_REDUCTION, Net
from resexp.console import print_table
from resexp.models.stages import VGG_CONVOLUTIONS, stages


def conv_weights(kernel: int, in_channels: int, out_channels: int, groups: int = 1) -> int:
    """Weights of a convolution: ``conv_weights(3, 64, 64)`` -> 36,864."""
    return kernel * kernel * in_channels // groups * out_channels


def basic_weights(channels: int) -> int:
    """Two 3x3 convolutions (He et al. 2015, Fig. 5 left)."""
    return 2 * conv_weights(3, channels, channels)


def bottleneck_weights(channels: int, inner: int, groups: int = 1) -> int:
    """1x1, 3x3, 1x1 (He et al. 2015, Fig. 5 right; with groups Xie et al. 2017, Table 2)."""
    outer = conv_weights(1, channels, inner) + conv_weights(1, inner, channels)
    return outer + conv_weights(3, inner, inner, groups)


def se_weights(depth: int, reduction: int = SE_REDUCTION) -> int:
    """What squeeze-and-excitation adds to a bottleneck ResNet: (2 / r) sum N C^2 (Hu et al. 2018, Eq. 5)."""
    counts = stages(Net(f"resnet{depth}", 0, 0).settings)
    return 2 * sum(count * (256 * 2**index) ** 2 for index, count in enumerate(counts)) // reduction


def receptive_field(kernels: list[int], pools: list[int]) -> int:
    """Side of the input patch that one value sees after the convolutions of stride 1.

    :param kernels: of each convolution.
    :param pools: how many convolutions stand before each 2x2 pooling, all counted from the first.
    """
    side, step = 1, 1
    for index, kernel in enumerate(kernels):
        side, step = (side + step, 2 * step) if pools.count(index) else (side, step)
        side += (kernel - 1) * step
    return side


def vgg_kernels(variant: str) -> tuple[list[int], list[int]]:
    """Kernels of a configuration's convolutions, and where its pooling layers stand."""
    counts = VGG_CONVOLUTIONS[variant]
    kernels: list[int] = []
    pools: list[int] = []
    for index, count in enumerate(counts):
        one = [1] if variant == "c" and index >= 2 else []
        kernels += [5 if variant == "b_5x5" else 3] * (count - len(one)) + one
        pools.append(len(kernels))
    return kernels, pools


def print_explanation() -> None:
    """The tables, on stdout."""
    _print_bottleneck()
    _print_resnext()
    _print_gates()
    _print_kernels()


def _print_bottleneck() -> None:
    wide, narrow, bottle = basic_weights(256), basic_weights(64), bottleneck_weights(256, 64)
    rows = [
        ["two 3x3 of 256 channels, on 256", "2 x 9 x 256 x 256", f"{wide:,}", f"{wide / bottle:.2f}"],
        ["two 3x3 of 64 channels, on 64", "2 x 9 x 64 x 64", f"{narrow:,}", f"{narrow / bottle:.2f}"],
        ["bottleneck of 64 channels, on 256", "256 x 64 + 9 x 64 x 64 + 64 x 256", f"{bottle:,}", "1.00"],
    ]
    columns = ("block", "arithmetic", "weights", "over the bottleneck")
    print_table(columns, rows, "Basic pair and bottleneck (He et al. 2015, Fig. 5; batch norm left out)")
    print(
        f"The paper's figure sets the second beside the third: about equal cost, on maps four times as wide. The\n"
        f"often quoted {wide / bottle:.2f} to 1 sets the first beside the third: equal maps, which the paper does "
        "not compare.\n"
    )


def _print_resnext() -> None:
    rows = []
    for paths, width in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4)):
        weights = bottleneck_weights(256, paths * width, groups=paths)
        rows.append([str(paths), str(width), str(paths * width), f"{weights:,}"])
    title = "ResNeXt blocks of equal cost (Xie et al. 2017, Table 2)"
    print_table(("cardinality", "width of a path", "width of all", "weights"), rows, title)


def _print_gates() -> None:
    named = {net.name: net.parameters for net in NAMED}
    rows = []
    for depth in (50, 101, 152):
        added = named[f"se_resnet{depth}"] - named[f"resnet{depth}"]
        blocks = stages(Net(f"resnet{depth}", 0, 0).settings)
        terms = " + ".join(f"{count} x {256 * 2**index}^2" for index, count in enumerate(blocks))
        share = f"{100 * added / named[f'resnet{depth}']:.1f} %"
        rows.append(
            [f"se_resnet{depth}", f"(2 / {SE_REDUCTION}) ({terms})", f"{se_weights(depth):,}", f"{added:,}", share]
        )
    heads = ("net", "Eq. 5", "by the formula", "in the net", "more than without")
    print_table(heads, rows, "Squeeze-and-excitation (Hu et al. 2018; without biases, as in the formula)")


def _print_kernels() -> None:
    named = {net.name: net.parameters for net in NAMED}
    rows = []
    for what, kernels in (("one 5x5", [5]), ("two 3x3", [3, 3]), ("one 7x7", [7]), ("three 3x3", [3, 3, 3])):
        per_pair = sum(kernel**2 for kernel in kernels)
        rows.append([what, f"{receptive_field(kernels, [])} pixels", f"{per_pair} C^2", str(len(kernels))])
    columns = ("layers of C channels", "receptive field", "weights", "ReLUs")
    print_table(columns, rows, "Small kernels (Simonyan & Zisserman 2015, Sec. 2.3)")
    rows = []
    for variant in ("b", "b_5x5"):
        kernels, pools = vgg_kernels(variant)
        rows.append(
            [
                f"vgg_{variant}",
                str(len(kernels)),
                f"{receptive_field(kernels, pools)} pixels",
                f"{named[f'vgg_{variant}']:,}",
            ]
        )
    columns = ("net", "convolutions", "receptive field of the last", "parameters")
    print_table(columns, rows, "The pair of 3x3 and the 5x5 as nets (Sec. 4.1; resexp study vgg-5x5)")
