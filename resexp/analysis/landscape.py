"""The loss around a trained net's weights, along random directions as long as they, filter by filter (Li et al. 2018).

Without the normalisation a net with small weights would look sharp, as the same step changes it more. The paper's
measure of how convex the surface is are the extreme eigenvalues of the Hessian over the plane (Sec. 6, Fig. 7): where
the most negative one is small beside the most positive one, the surface is convex there, in all directions and not in
two.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from resexp import UserError
from resexp.analysis.subject import Trained, about, judged, loss_of, of_one_depth
from resexp.console import message
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"points": 3, "side": 0, "curvature": 0}  # of the settings; a side of 1 is no plane

SOURCE = "Li et al. 2018, Sec. 6"
TOLERANCE = 0.05  # of an eigenvalue
TIE = 0.1  # ratios of eigenvalues that differ by less are equal: twice their tolerance
PRODUCTS = 40  # of the Hessian with a vector, about: for both ends of its spectrum


def analyze(
    nets: Sequence[Trained],
    *,
    points: int = 41,
    side: int = 17,
    radius: float = 1.0,
    directions: int = 3,
    curvature: int = 3,
    images: int = 256,
    seed: int = 0,
) -> Finding:
    """The loss along lines, in a plane, and the curvature over the plane.

    :param points: along a line; ``side``: along each edge of the plane, 0 leaves it out.
    :param radius: of both, in lengths of the weights.
    :param directions: random lines; the first two span the plane.
    :param curvature: points along each edge of the plane at which the Hessian's extreme eigenvalues are taken, beside
        the centre; 1: the centre alone, 0: none.
    :param images: number of training images, from the first.
    """
    if side == 1:
        raise UserError("landscape side=1: a plane needs 2 points or more along each edge; 0 leaves it out")
    surfaces = []
    for net in nets:
        part = net.images("train", images)
        copied = copy.deepcopy(net.net)  # the stored net is never changed
        along = [direction(copied, seed + number) for number in range(max(2, directions))]
        steps, edge = (torch.linspace(-radius, radius, count).tolist() for count in (points, side))
        curves = [[loss_at(copied, [(a, one)], *part) for a in steps] for one in along[:directions]]
        grid = [[loss_at(copied, [(a, along[0]), (b, along[1])], *part) for a in edge] for b in edge]
        message(f"landscape: {net.label}: {len(curves) * len(steps) + len(edge) ** 2} losses")
        centre = loss_at(copied, [], *part)
        spots = [[], *([(a, along[0]), (b, along[1])] for a, b in places(curvature, radius))] if curvature else []
        spectrum = [extremes(copied, spot, *part) for spot in spots]
        if spectrum:
            message(f"landscape: {net.label}: curvature at {len(spectrum)} points")
        surfaces.append(Surface(net, steps, curves, edge, grid, centre, spectrum))
    by_label = {surface.net.label: surface for surface in surfaces}
    rows = [row for surface in surfaces for row in _rows(surface)]
    for plain, residual in of_one_depth(nets):
        rows += _compare(by_label[plain.label], by_label[residual.label])
    return Finding(
        analysis="landscape",
        title="The loss around the trained weights, filter-normalised directions",
        about=about(nets) + f"; {images} training images, evaluation mode, batch norm kept; seed {seed}.",
        panels=_panels(surfaces),
        rows=rows,
    )


@dataclass(frozen=True)
class Surface:
    """The loss around one net's weights.

    :param steps: along each line, in lengths of the weights; ``curves`` holds a line's losses.
    :param edge: along each edge of the plane; ``grid`` holds its losses.
    :param centre: the loss at the weights.
    :param spectrum: least and greatest eigenvalue of the Hessian, first at the weights, then over the plane.
    """

    net: Trained
    steps: list[float]
    curves: list[list[float]]
    edge: list[float]
    grid: list[list[float]]
    centre: float
    spectrum: list[tuple[float, float]]

    @property
    def convex(self) -> list[float]:
        """The share of each line that bends upwards, in percent."""
        return [100 * convexity(values) for values in self.curves]

    @property
    def ratios(self) -> list[float]:
        """NaN where an eigenvalue is unknown."""
        return [abs(low / high) if high else math.nan for low, high in self.spectrum]

    @property
    def greatest_ratio(self) -> float:
        """NaN if one of them is: it may be the greatest."""
        return float(np.max(self.ratios))


def _panels(surfaces: Sequence[Surface]) -> list[Panel]:
    lines = [
        Series(
            label=one.net.label if number == 0 else "",
            x=one.steps,
            y=values,
            style="line" if number == 0 else "thin",
        )
        for one in surfaces
        for number, values in enumerate(one.curves)
    ]
    x = "distance, in lengths of the weights"
    return [
        Panel(title="along random directions", x=x, y="training loss", series=lines, log_y=True),
        *(
            Panel(title=one.net.label, x="first direction", y="second direction", grid=one.grid, side=one.edge)
            for one in surfaces
            if one.edge
        ),
    ]


def _rows(one: Surface) -> list[Row]:
    label = one.net.label
    rises = ", ".join(f"{max(values) - one.centre:.3g}" for values in one.curves)
    rows = [
        Row(
            id="line",
            what=f"{label}: loss at the weights; highest rise along each of {len(one.curves)} lines",
            measured=f"{one.centre:.3f}; {rises}",
            source=SOURCE,
        ),
        Row(
            id="bends",
            what=f"{label}: share of each line that bends upwards",
            source=SOURCE,
            measured=", ".join(f"{share:.0f} %" for share in one.convex),
        ),
    ]
    if one.spectrum:
        low, high = one.spectrum[0]
        rows.append(
            Row(
                id="curvature",
                what=f"{label}: least and greatest eigenvalue of the Hessian at the weights; their ratio "
                f"there, and the greatest of {len(one.ratios)} points of the plane",
                measured=f"{low:.3g}, {high:.3g}; {one.ratios[0]:.2f}, {one.greatest_ratio:.2f}",
                source=f"{SOURCE}, Fig. 7",
                expected="near 0 where the surface is convex",
            )
        )
    return rows


def _compare(plain: Surface, residual: Surface) -> list[Row]:
    """By lines and by the Hessian, which need not agree."""
    nets = plain.net, residual.net
    smooth, rough = (float(np.median(one.convex)) for one in (residual, plain))
    rows = [
        Row(
            id="line-more-convex",
            what=f"share of a line that bends upwards: {residual.net.label} above {plain.net.label}",
            measured=f"{smooth:.0f} % against {rough:.0f} %, medians",
            expected="no published number: it is ours",
        )
    ]
    if plain.spectrum and residual.spectrum:
        smooth, rough = residual.greatest_ratio, plain.greatest_ratio
        decided = abs(smooth / rough - 1) > TIE if rough else False  # and never where one is NaN
        rows.append(
            Row(
                id="hessian-more-convex",
                what=f"largest ratio of eigenvalues: {residual.net.label} below {plain.net.label}",
                measured=f"{smooth:.3f} against {rough:.3f}",
                expected=f"lower by more than {100 * TIE:.0f} %; closer than that is a tie",
                source=f"{SOURCE}, Fig. 7",
                agrees=judged(smooth < rough, *nets) if decided else None,
            )
        )
    return rows


def places(count: int, radius: float) -> list[tuple[float, float]]:
    """``count`` times ``count`` points of the square but for its centre; none for a count of 1."""
    edge = np.linspace(-radius, radius, count).tolist() if count > 1 else []
    return [(a, b) for b in edge for a in edge if (a, b) != (0.0, 0.0)]


def direction(net: nn.Module, seed: int) -> list[Tensor]:
    """A random direction, each filter as long as the net's; zero for biases and batch norm (Li et al., Sec. 4)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for weight in net.parameters():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2:
            found.append(torch.zeros_like(drawn))
            continue
        lengths, wanted = (t.detach().flatten(1).norm(dim=1) for t in (drawn, weight))
        scale = (wanted / lengths.clamp(min=1e-12)).view(-1, *[1] * (weight.dim() - 1))
        found.append(drawn * scale)
    return found


class Moved:
    """A ``with`` in which a net's weights are moved by the sum of distance times direction; then they are put back."""

    def __init__(self, net: nn.Module, moves: Sequence[tuple[float, list[Tensor]]]) -> None:
        self.net, self.moves = net, moves

    @torch.no_grad()
    def __enter__(self) -> None:
        self.before = [weight.clone() for weight in self.net.parameters()]
        for distance, along in self.moves:
            for weight, step in zip(self.net.parameters(), along, strict=True):
                weight.add_(distance * step)

    @torch.no_grad()
    def __exit__(self, *_error: object) -> None:
        for weight, old in zip(self.net.parameters(), self.before, strict=True):
            weight.copy_(old)


@torch.no_grad()
def loss_at(net: nn.Module, moves: Sequence[tuple[float, list[Tensor]]], inputs: Tensor, labels: Tensor) -> float:
    """The loss at the moved weights."""
    with Moved(net, moves):
        return loss_of(net, inputs, labels)


def extremes(
    net: nn.Module, moves: Sequence[tuple[float, list[Tensor]]], inputs: Tensor, labels: Tensor
) -> tuple[float, float]:
    """The least and the greatest eigenvalue of the loss' Hessian at the moved weights, by Lanczos' method.

    In evaluation mode: batch norm's statistics are constants. NaN where the loss is not finite.
    """
    weights = list(net.parameters())
    sizes = [weight.numel() for weight in weights]
    with Moved(net, moves), sdpa_kernel(SDPBackend.MATH):  # attention's fast ways cannot be differentiated twice
        loss = F.cross_entropy(net.eval()(inputs), labels)
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        if not all(bool(one.isfinite().all()) for one in (loss, *gradient)):
            return math.nan, math.nan

        def product(vector: np.ndarray) -> np.ndarray:
            parts = torch.from_numpy(vector.astype(np.float32)).to(inputs.device).split(sizes)
            shaped = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
            found = torch.autograd.grad(gradient, weights, shaped, retain_graph=True)
            return torch.cat([one.reshape(-1) for one in found]).double().cpu().numpy()

        operator = LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(sum(sizes))
        try:
            values = eigsh(
                operator,
                k=2,
                which="BE",
                ncv=PRODUCTS // 2,
                maxiter=3,
                tol=TOLERANCE,
                v0=start,
                return_eigenvectors=False,
            )
        except ArpackNoConvergence as error:  # what has converged so far: in most cases the greatest
            values = error.eigenvalues
        except ArpackError:  # products that are not finite, or all zero
            return math.nan, math.nan
    low, high = (float(values.min()), float(values.max())) if len(values) > 1 else (math.nan, math.nan)
    return low, high


def convexity(values: Sequence[float]) -> float:
    """The share of inner points at which the curve bends upwards."""
    bends = [values[i - 1] + values[i + 1] - 2 * values[i] for i in range(1, len(values) - 1)]
    return sum(bend >= 0 for bend in bends) / len(bends)
