"""Shattered gradients: how the gradients at different inputs of a fresh net resemble each other (Balduzzi et al. 2017).

Along a line of inputs the gradient of a shallow net is like brown noise, that of a deep plain net like white noise, and
that of a deep residual net lies between. Between independent inputs the correlation falls as 2^-L in plain nets, as
(3/4)^L in residual nets without batch norm, and as L^-1/2 with it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from resexp import UserError
from resexp.console import message
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"points": 3}  # of the settings

SOURCE = "Balduzzi et al. 2017"
LAG = 5  # at which autocorrelations are compared
TOLERANCE = 0.02  # beside the interval: nets of some hundred units are no infinitely wide ones
LAGS = 30
THIN = 8  # of the points of the line each so many-th in the pictures
FEW, ASYMPTOTIC = 8, 4  # layers: up to which 2^-L can be told from noise; from which L^-1/2 is meant to hold
INPUTS = 64  # independent ones, for the decay with depth


@dataclass(frozen=True)
class Net:
    """A fully connected net as in the paper's Sec. 1: layers ``W relu(norm(x))``, added to x if it is residual.

    :param init: ``he``, or ``looks-linear`` (Sec. 4): layers [W, -W] of [relu(x), relu(-x)], with W orthogonal.
    :param beta: what the transform is multiplied with before it is added.
    """

    depth: int
    residual: bool = False
    norm: bool = False
    beta: float = 1.0
    init: str = "he"

    def layer(self, x: Tensor, weight: Tensor, active: list[Tensor] | None = None) -> Tensor:
        """(N, width) -> (N, width). Batch norm's statistics count as constants, as in the theorems."""
        inner = x
        if self.norm:
            detached = x.detach()
            inner = (x - detached.mean(dim=0)) / detached.std(dim=0, correction=0).clamp(min=1e-6)
        if active is not None:
            active.append(inner.detach() > 0)
        fx = (inner.relu() - (-inner).relu() if self.init == "looks-linear" else inner.relu()) @ weight
        return x + self.beta * fx if self.residual else fx

    def weights(self, width: int, random: torch.Generator) -> list[Tensor]:
        drawn = [torch.randn(width, width, generator=random, dtype=torch.float64) for _ in range(self.depth)]
        if self.init == "looks-linear":
            return [torch.linalg.qr(weight).Q for weight in drawn]
        return [weight * math.sqrt(2 / width) for weight in drawn]


def analyze(
    *,
    width: int = 200,
    points: int = 256,
    draws: int = 20,
    plain_depth: int = 24,
    residual_depth: int = 50,
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50),
    seed: int = 0,
) -> Finding:
    """Gradients on a line with their autocorrelation, and the decay of the correlation with depth.

    :param points: of the line from -2 to 2.
    :param draws: nets of each kind.
    :param depths: of the decay; plain nets stop where the correlation is lost in noise.
    """
    if points < 2 * LAGS:
        raise UserError(f"shattering points={points}: at least {2 * LAGS}, for {LAGS} lags")
    if any(sum(low <= depth <= high for depth in depths) < 2 for low, high in ((1, FEW), (ASYMPTOTIC, math.inf))):
        raise UserError(
            f"shattering depths={','.join(map(str, depths))}: name at least two up to {FEW}, "
            f"and two from {ASYMPTOTIC} on"
        )
    kinds = {
        "1 layer": Net(1),
        f"plain, {plain_depth} layers": Net(plain_depth, norm=True),
        f"residual, {residual_depth} layers": Net(residual_depth, residual=True, norm=True),
        f"residual, {residual_depth}, beta 0.1": Net(residual_depth, residual=True, norm=True, beta=0.1),
    }
    noises = {
        "brown noise": lambda random: np.cumsum(random.standard_normal(points)),
        "white noise": lambda random: random.standard_normal(points),
    }
    line = np.linspace(-2, 2, points)
    curves = {name: [line_gradient(net, width, points, seed + i) for i in range(draws)] for name, net in kinds.items()}
    curves |= {name: _noise(noise, draws, seed) for name, noise in noises.items()}
    message(f"shattering: gradients of {len(kinds)} kinds of nets on a line")
    correlations = {name: np.array([autocorrelation(one) for one in many]) for name, many in curves.items()}
    lags = list(range(correlations["1 layer"].shape[1]))
    acf = [
        Series(label=name, x=lags, y=many.mean(axis=0).tolist(), style="thin" if "noise" in name else "line")
        for name, many in correlations.items()
    ]
    at_lag = {name: float(many.mean(axis=0)[LAG]) for name, many in correlations.items()}
    plain, residual = at_lag[f"plain, {plain_depth} layers"], at_lag[f"residual, {residual_depth} layers"]
    white, brown = at_lag["white noise"], at_lag["brown noise"]
    beta = at_lag[f"residual, {residual_depth}, beta 0.1"]
    rows = [
        Row(
            id="plain-is-white",
            what=f"autocorrelation at lag {LAG}: plain, {plain_depth} layers",
            measured=f"{plain:.2f}",
            expected=f"near white noise's {white:.2f}",
            source=f"{SOURCE}, Fig. 1",
            agrees=abs(plain - white) < 0.15,
        ),
        Row(
            id="residual-between",
            what=f"autocorrelation at lag {LAG}: residual, {residual_depth} layers",
            measured=f"{residual:.2f}",
            expected=f"between white's {white:.2f} and brown's {brown:.2f}",
            source=f"{SOURCE}, Fig. 1",
            agrees=max(white, plain) + 0.05 < residual < brown,
        ),
        Row(
            id="beta",
            what="the same with beta = 0.1",
            measured=f"{beta:.2f}",
            expected="nearer to brown noise's",
            source=f"{SOURCE}, Fig. 2",
            agrees=residual < beta,
        ),
    ]
    decays, fits = _decays(width, depths, draws, seed)
    samples = [
        Panel(
            title=name, x="input", y="gradient", series=[Series(label="", x=line.tolist(), y=curves[name][0].tolist())]
        )
        for name in (*list(kinds)[:3], "brown noise", "white noise")
    ]
    pictures = [
        Panel(
            title=f"{name}: correlation of the gradients",
            x="input",
            y="input",
            image=True,
            side=line[::THIN].tolist(),
            grid=covariance(curves[name])[::THIN, ::THIN].tolist(),
        )
        for name in curves
    ]
    return Finding(
        analysis="shattering",
        title="Gradients of fresh nets at different inputs",
        about=f"{width} units a layer, ReLU, He weights, float64, batch norm over the inputs; {draws} nets of each "
        f"kind, seed {seed}; thin: infinite width. "
        f"Lines of {points} inputs from -2 to 2; decays between {INPUTS} independent normal inputs.",
        panels=[
            *samples,
            Panel(title="autocorrelation", x="lag", y="", series=acf),
            Panel(title="correlation between independent inputs", x="layers", y="", series=decays, log_y=True),
            *pictures,
        ],
        rows=[*rows, *fits],
        settings={
            "width": width,
            "points": points,
            "draws": draws,
            "plain_depth": plain_depth,
            "residual_depth": residual_depth,
            "depths": depths,
            "seed": seed,
        },
    )


def _noise(draw: Callable[[np.random.Generator], np.ndarray], draws: int, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [draw(random) for _ in range(draws)]


def line_gradient(net: Net, width: int, points: int, seed: int) -> np.ndarray:
    """df/dx at each point of the line, (points,), for f: a first layer with biases, the layers, a random sum."""
    random = torch.Generator().manual_seed(seed)
    x = torch.linspace(-2, 2, points, dtype=torch.float64)[:, None].requires_grad_()
    first, bias = (torch.randn(1, width, generator=random, dtype=torch.float64) for _ in range(2))
    h = x @ first + bias
    for weight in net.weights(width, random):
        h = net.layer(h, weight)
    f = h @ torch.randn(width, 1, generator=random, dtype=torch.float64) / math.sqrt(width)
    return torch.autograd.grad(f.sum(), x)[0][:, 0].numpy()


def autocorrelation(values: np.ndarray, most: int = LAGS) -> np.ndarray:
    """For the lags 0 to ``most``: covariance of the series with itself, over its variance."""
    centred = values - values.mean()
    power = max(float(centred @ centred), 1e-300)
    return np.array([float(centred[: len(values) - lag] @ centred[lag:]) / power for lag in range(most + 1)])


def covariance(gradients: Sequence[np.ndarray]) -> np.ndarray:
    """Between the gradients at each two points of the line, over the nets, as correlations: (points, points).

    About zero, not about the mean over the nets: a fresh net's gradient has the mean zero (Balduzzi et al. 2017, Fig.
    2).
    """
    many = np.array(gradients)  # (nets, points)
    product = many.T @ many
    size = np.sqrt(np.diag(product)).clip(1e-300)
    return product / np.outer(size, size)


def input_correlation(net: Net, width: int, seed: int) -> tuple[float, float]:
    """Of the gradients at independent inputs: mean covariance over mean variance; and the co-active share of units.

    The share is that of pairs of inputs between which a unit of the last layer is active for both.
    """
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(INPUTS, width, generator=random, dtype=torch.float64, requires_grad=True)
    active: list[Tensor] = []
    h = x
    for weight in net.weights(width, random):
        h = net.layer(h, weight, active)
    out = torch.randn(width, generator=random, dtype=torch.float64)
    g = torch.autograd.grad((h @ out).sum(), x)[0]
    total, own = float(g.sum(dim=0).square().sum()), float(g.square().sum())
    on = active[-1].double()
    together = (on.sum(dim=0).square() - on.sum(dim=0)).sum() / (INPUTS * (INPUTS - 1) * width)
    return (total - own) / (INPUTS - 1) / own, float(together)


def mean_field(net: Net, depths: Sequence[int]) -> list[float]:
    """The correlation between gradients at independent inputs of an infinitely wide net, exactly.

    The theorems take a unit as active for two inputs in a quarter of the cases, at every layer. That holds where batch
    norm centres each layer. Without it the inputs' images draw together, by ReLU's kernel (Cho & Saul 2009), and units
    are co-active more often. With it, centring leaves the variance 1 - 1/pi of ReLU's 1, so that a residual net's own
    variance grows more slowly than Theorem 3 has it, and each layer weighs more.
    """
    if net.init == "looks-linear":
        return [1.0] * len(depths)
    found, gradient, cosine, variance = [], 1.0, 0.0, 1.0
    for _ in range(max(depths)):
        angle = math.acos(min(1.0, cosine))
        alike = 0.5 if net.norm else 1 - angle / math.pi  # co-active, given that one of them is
        kernel = (math.sqrt(max(0.0, 1 - cosine**2)) + (math.pi - angle) * cosine) / math.pi
        share = net.beta**2 / variance if net.norm else net.beta**2
        if net.residual:
            gradient *= (1 + share * alike) / (1 + share)
            variance += net.beta**2 * (1 - 1 / math.pi)
            cosine = (cosine + net.beta**2 * kernel) / (1 + net.beta**2)
        else:
            gradient *= alike
            cosine = kernel
        found.append(gradient)
    return [found[depth - 1] for depth in depths]


@dataclass(frozen=True)
class Decay:
    """A kind of net, and the law that a theorem has for it.

    :param law: ``base``, b of b^L, or ``power``, p of L^p.
    :param deepest: beyond it the correlation is lost in the noise of finite widths.
    :param outside: the theorem's assumption, a quarter of the units co-active, does not hold for these nets (the
        paper's Sec. 3 says so too), and the theorem is not tested by them.
    """

    name: str
    net: Net
    law: str
    constant: float
    theorem: str
    deepest: int = 10**9
    outside: bool = False


DECAYS = (
    Decay("plain", Net(0), "base", 0.5, "Theorem 1", deepest=FEW, outside=True),
    Decay("plain, batch norm", Net(0, norm=True), "base", 0.5, "Theorem 1", deepest=FEW),
    Decay("residual", Net(0, residual=True), "base", 0.75, "Theorem 2", deepest=20, outside=True),
    Decay("residual, batch norm", Net(0, residual=True, norm=True), "power", -0.5, "Theorem 3"),
    Decay("looks-linear", Net(0, init="looks-linear"), "base", 1.0, "Sec. 4"),
)


def _decays(width: int, depths: Sequence[int], draws: int, seed: int) -> tuple[list[Series], list[Row]]:
    """Correlations by depth, their fits beside the theorems and the mean-field curves, and the co-active units."""
    series, rows, together = [], [], {}
    for decay in DECAYS:
        used = [depth for depth in depths if depth <= decay.deepest]
        found = np.array(
            [
                [input_correlation(replace(decay.net, depth=depth), width, seed + draw) for draw in range(draws)]
                for depth in used
            ]
        )  # (depths, draws, 2)
        correlation = found[:, :, 0]
        exact = mean_field(decay.net, used)
        series.append(Series(label=decay.name, x=used, y=correlation.mean(axis=1).clip(1e-4).tolist()))
        series.append(Series(label="", x=used, y=exact, style="thin"))
        together[decay.name] = float(found[-1, :, 1].mean())
        skip = 1 if decay.law == "base" else ASYMPTOTIC
        value, low, high = fit(used, correlation, decay.law, skip=skip)
        law, name = ("b^L", "b") if decay.law == "base" else ("L^p", "p")
        measured = f"{name} = {value:.3f} (95 %: {low:.3f} to {high:.3f})"
        wide = fit(used, np.array(exact)[:, None], decay.law, skip=skip)[0]
        for expected, source in ((decay.constant, f"{SOURCE}, {decay.theorem}"), (wide, "mean field, infinite width")):
            agrees = low - TOLERANCE <= expected <= high + TOLERANCE
            theorem = source.endswith(decay.theorem)
            rows.append(
                Row(
                    id=f"{'theorem' if theorem else 'mean-field'}-{decay.name.replace(', ', '-').replace(' ', '-')}",
                    what=f"{decay.name}: correlation as {law}, {used[0]} to {used[-1]} layers",
                    measured=measured,
                    expected=f"{expected:.3f}",
                    source=source,
                    agrees=None if theorem and decay.outside else agrees,
                )
            )
        message(f"shattering: {decay.name}: {len(used)} depths")
    rows.append(
        Row(
            id="co-active",
            what="units active for two inputs at once, batch norm (without)",
            expected="25 % (more)",
            measured=f"{100 * together['plain, batch norm']:.1f} % ({100 * together['plain']:.1f} %)",
            source=f"{SOURCE}, Sec. 3",
            agrees=abs(together["plain, batch norm"] - 0.25) < 0.02 and together["plain"] > 0.27,
        )
    )
    return series, rows


def fit(depths: Sequence[int], found: np.ndarray, law: str, *, skip: int) -> tuple[float, float, float]:
    """The base b of a b^L, or the power p of a L^p, fitted to correlations (depths, draws), with a 95 % interval.

    Each group of a fifth of the draws gives a fit of its own; the interval is Student's over these.

    :param skip: only depths of at least so many layers, where the law is an asymptotic one.
    """
    kept = [index for index, depth in enumerate(depths) if depth >= skip]
    x = np.array([depths[index] for index in kept], dtype=float)
    if law == "power":
        x = np.log(x)
    groups = np.array_split(np.arange(found.shape[1]), min(5, found.shape[1]))
    slopes = [np.polyfit(x, np.log(found[kept][:, group].mean(axis=1).clip(1e-6)), 1)[0] for group in groups]
    mean = float(np.mean(slopes))
    count = len(slopes)
    error = float(np.std(slopes, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    spread = error * float(student.ppf(0.975, count - 1)) if count > 1 else 0.0
    values = mean, mean - spread, mean + spread
    return values if law == "power" else tuple(float(np.exp(v)) for v in values)  # type: ignore[return-value]
