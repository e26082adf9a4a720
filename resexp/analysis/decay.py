"""How the correlation between gradients at independent inputs falls with depth (Balduzzi et al. 2017, Theorems 1 to 3).

A part of the analysis ``shattering``: the nets that it takes gradients of, the theorems, and the fits beside them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from resexp.console import message
from resexp.studies.finding import Row, Series

SOURCE = "Balduzzi et al. 2017"
TOLERANCE = 0.02  # beside the interval: nets of some hundred units are no infinitely wide ones
FEW, ASYMPTOTIC = 8, 4  # layers: up to which 2^-L can be told from noise; from which L^-1/2 is meant to hold
INPUTS = 64  # independent ones


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


def measure_decays(width: int, depths: Sequence[int], draws: int, seed: int) -> tuple[list[Series], list[Row]]:
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

    :param skip: layers of the shallowest net taken, where the law is an asymptotic one.
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
