"""Shattered gradients: how the gradients at different inputs of a fresh net resemble each other (Balduzzi et al. 2017).

Along a line of inputs the gradient of a shallow net is like brown noise, that of a deep plain net like white noise, and
that of a deep residual net lies between. Between independent inputs the correlation falls as 2^-L in plain nets, as
(3/4)^L in residual nets without batch norm, and as L^-1/2 with it.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from resexp import UserError
from resexp.analysis.decay import ASYMPTOTIC, FEW, INPUTS, SOURCE, Net, measure_decays
from resexp.console import message
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"points": 3}  # of the settings

LAG = 5  # at which autocorrelations are compared
LAGS = 30
THIN = 8  # every THIN-th point of the line is in the pictures


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
    _check(points, depths)
    plain, residual = f"plain, {plain_depth} layers", f"residual, {residual_depth} layers"
    beta = f"residual, {residual_depth}, beta 0.1"
    kinds = {
        "1 layer": Net(1),
        plain: Net(plain_depth, norm=True),
        residual: Net(residual_depth, residual=True, norm=True),
        beta: Net(residual_depth, residual=True, norm=True, beta=0.1),
    }
    curves = {name: [line_gradient(net, width, points, seed + i) for i in range(draws)] for name, net in kinds.items()}
    curves["brown noise"] = _noise(lambda random: np.cumsum(random.standard_normal(points)), draws, seed)
    curves["white noise"] = _noise(lambda random: random.standard_normal(points), draws, seed)
    message(f"shattering: gradients of {len(kinds)} kinds of nets on a line")
    correlations = {
        name: np.array([autocorrelation(one) for one in many]).mean(axis=0) for name, many in curves.items()
    }
    decays, fits = measure_decays(width, depths, draws, seed)
    by_depth = "correlation between independent inputs"
    return Finding(
        analysis="shattering",
        title="Gradients of fresh nets at different inputs",
        about=f"{width} units a layer, ReLU, He weights, float64, batch norm over the inputs; {draws} nets of each "
        f"kind, seed {seed}; thin: infinite width. "
        f"Lines of {points} inputs from -2 to 2; decays between {INPUTS} independent normal inputs.",
        panels=[
            *_samples({name: curves[name] for name in curves if name != beta}, points),
            _correlations(correlations),
            Panel(title=by_depth, x="layers", y="", series=decays, log_y=True),
            *_pictures(curves, points),
        ],
        rows=[*_rows({name: float(many[LAG]) for name, many in correlations.items()}, plain, residual, beta), *fits],
    )


def _check(points: int, depths: Sequence[int]) -> None:
    if points < 2 * LAGS:
        raise UserError(f"shattering points={points}: at least {2 * LAGS}, for {LAGS} lags")
    if any(sum(low <= depth <= high for depth in depths) < 2 for low, high in ((1, FEW), (ASYMPTOTIC, math.inf))):
        raise UserError(
            f"shattering depths={','.join(map(str, depths))}: name at least two up to {FEW}, "
            f"and two from {ASYMPTOTIC} on"
        )


def _rows(at_lag: dict[str, float], plain: str, residual: str, beta: str) -> list[Row]:
    """The nets between white and brown noise, by their autocorrelation at the lag ``LAG``."""
    white, brown = at_lag["white noise"], at_lag["brown noise"]
    return [
        Row(
            id="plain-is-white",
            what=f"autocorrelation at lag {LAG}: {plain}",
            measured=f"{at_lag[plain]:.2f}",
            expected=f"near white noise's {white:.2f}",
            source=f"{SOURCE}, Fig. 1",
            agrees=abs(at_lag[plain] - white) < 0.15,
        ),
        Row(
            id="residual-between",
            what=f"autocorrelation at lag {LAG}: {residual}",
            measured=f"{at_lag[residual]:.2f}",
            expected=f"between white's {white:.2f} and brown's {brown:.2f}",
            source=f"{SOURCE}, Fig. 1",
            agrees=max(white, at_lag[plain]) + 0.05 < at_lag[residual] < brown,
        ),
        Row(
            id="beta",
            what="the same with beta = 0.1",
            measured=f"{at_lag[beta]:.2f}",
            expected="nearer to brown noise's",
            source=f"{SOURCE}, Fig. 2",
            agrees=at_lag[residual] < at_lag[beta],
        ),
    ]


def _samples(curves: dict[str, list[np.ndarray]], points: int) -> list[Panel]:
    """One gradient of each kind along the line."""
    line = np.linspace(-2, 2, points).tolist()
    return [
        Panel(title=name, x="input", y="gradient", series=[Series(label="", x=line, y=many[0].tolist())])
        for name, many in curves.items()
    ]


def _correlations(correlations: dict[str, np.ndarray]) -> Panel:
    lines = [
        Series(label=name, x=list(range(LAGS + 1)), y=mean.tolist(), style="thin" if "noise" in name else "line")
        for name, mean in correlations.items()
    ]
    return Panel(title="autocorrelation", x="lag", y="", series=lines)


def _pictures(curves: dict[str, list[np.ndarray]], points: int) -> list[Panel]:
    """The correlation of the gradients at each two points of the line."""
    side = np.linspace(-2, 2, points)[::THIN].tolist()
    return [
        Panel(
            title=f"{name}: correlation of the gradients",
            x="input",
            y="input",
            image=True,
            side=side,
            grid=covariance(many)[::THIN, ::THIN].tolist(),
        )
        for name, many in curves.items()
    ]


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
