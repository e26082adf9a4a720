"""How alike the tokens of a fresh transformer become, layer by layer, with residuals and without (Dong et al. 2021).

Attention replaces each token by an average of all. Without residuals the tokens become one, and their distance from it
falls doubly exponentially: the bound on it is cubed by each layer of attention (Dong et al. 2021, Sec. 2).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from resexp import config
from resexp.builder import build_net, load_data
from resexp.data.dataset import Dataset
from resexp.data.normalize import normalization_of
from resexp.models.transformer import Transformer
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"depth": 4}  # of the settings

SOURCE = "Dong et al. 2021, abstract"
CUBED = 3  # the exponent of the bound
TINY = 1e-300  # for a distance that rounding has made 0
FAR = 0.1  # of the distance at the input: tokens that keep more have not become one
ALONE = "attention alone"
KINDS = {  # model.residual
    "none": "no residual",
    "mlp": "feed-forward residual alone",
    "attention": "attention residual alone",
    "both": "both residuals",
}


def analyze(*, depth: int = 24, width: int = 32, heads: int = 2, images: int = 64, draws: int = 5) -> Finding:
    """The distance of the tokens from their mean, over their size, at the input and behind each layer.

    :param images: test images of the digits, from the first.
    :param draws: fresh nets of each kind.
    """
    data = load_data(config.load(["dataset=digits"]))
    crops, _ = next(iter(data.test.take(slice(0, images)).views("centre", images)))
    inputs = normalization_of(data.train, "pixel-mean")(crops[0]).double()
    found: dict[str, list[list[float]]] = {}
    for kind, label in KINDS.items():
        for seed in range(draws):
            net = _fresh(data, kind, depth, width, heads, seed)
            found.setdefault(label, []).append(distances(net, inputs))
            if kind == "none":
                found.setdefault(ALONE, []).append(distances(net, inputs, feed_forward=False))
    mean = {label: [math.fsum(at) / draws for at in zip(*each, strict=True)] for label, each in found.items()}
    return Finding(
        analysis="rank",
        title="How alike the tokens of a fresh transformer become",
        about=f"Transformers of {depth} layers, width {width}, {heads} heads, layer norm first, float64; {images} test "
        f"images of the digits; means of {draws} fresh nets, seeds 0 to {draws - 1}.",
        panels=[
            _panel("no residual around attention", mean, (ALONE, KINDS["none"], KINDS["mlp"])),
            _panel("a residual around attention", mean, (KINDS["attention"], KINDS["both"])),
        ],
        rows=[
            _collapse(ALONE, found[ALONE], f"a power of {CUBED}, as in the bound of Sec. 2"),
            _collapse(KINDS["none"], found[KINDS["none"]], "stopped by the feed-forward layers: no power above 1"),
            _collapse(KINDS["mlp"], found[KINDS["mlp"]]),
            *_kept(mean, depth),
        ],
    )


def _fresh(data: Dataset, kind: str, depth: int, width: int, heads: int, seed: int) -> Transformer:
    words = [f"model=transformer{depth}", f"model.residual={kind}", f"model.width={width}", f"model.heads={heads}"]
    net = build_net(config.load([*words, "model.mlp_ratio=2", f"seed={seed}"]), data)
    assert isinstance(net, Transformer)
    return net.double().eval()


@torch.inference_mode()
def distances(net: Transformer, images: Tensor, *, feed_forward: bool = True) -> list[float]:
    """|x - mean of its tokens| / |x|, the mean over the images, at the input and behind each layer.

    :param images: (N, C, H, W).
    :param feed_forward: False: without the feed-forward layers.
    """
    x = net.patches(images).flatten(2).transpose(1, 2) + net.position  # (N, T, width)
    found = [_distance(x)]
    for layer in net.layers:
        attention, mlp = layer.children()
        x = attention(x)
        x = mlp(x) if feed_forward else x
        found.append(_distance(x))
    return found


def _distance(x: Tensor) -> float:
    off = x - x.mean(dim=1, keepdim=True)
    return float((off.norm(dim=(1, 2)) / x.norm(dim=(1, 2))).mean())


def _panel(title: str, mean: dict[str, list[float]], labels: Sequence[str]) -> Panel:
    series = [Series(label=label, x=range(len(mean[label])), y=mean[label]) for label in labels]
    return Panel(title=title, x="layer", y="distance from the mean, over size", series=series, log_y=True)


def _collapse(label: str, draws: Sequence[Sequence[float]], expected: str = "") -> Row:
    """The power to which a layer raises the distance, from layer 1 to 2 and 2 to 3; later ones are lost in rounding."""
    logs = [[math.log(max(distance, TINY)) for distance in each] for each in draws]
    powers = sorted(each[i + 1] / each[i] for each in logs for i in (1, 2))
    middle = powers[len(powers) // 2]
    first = ", ".join(f"{sorted(each[i] for each in draws)[len(draws) // 2]:.1g}" for i in (1, 2, 3))
    agrees = abs(middle - CUBED) < 0.5 if label == ALONE else powers[-1] <= 1
    return Row(
        id="collapse" if label == ALONE else "",
        what=f"{label}: distance behind layers 1, 2, 3; each as a power of the one before, median and range",
        measured=f"{first}; {middle:.2f} ({powers[0]:.2f} to {powers[-1]:.2f})",
        expected=expected,
        source=SOURCE if expected else "",
        agrees=agrees if expected else None,
    )


def _kept(mean: dict[str, list[float]], depth: int) -> list[Row]:
    both, attention = (mean[KINDS[kind]] for kind in ("both", "attention"))
    return [
        Row(
            id="residuals-keep",
            what=f"both residuals: distance behind layer {depth}, over that at the input",
            measured=f"{both[-1] / both[0]:.2f}",
            expected=f"does not collapse: above {FAR}",
            source=SOURCE,
            agrees=both[-1] / both[0] > FAR,
        ),
        Row(
            id="attention-residual",
            what=f"{KINDS['attention']}: distance behind layer {depth}, over that at the input",
            measured=f"{attention[-1] / attention[0]:.1g}",
        ),
    ]
