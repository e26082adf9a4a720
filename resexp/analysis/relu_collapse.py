"""What ReLU leaves of a spiral: through a random map to n dimensions, ReLU, and back (Sandler et al. 2018, Fig. 1).

In few dimensions ReLU folds the curve onto itself and loses it; in many a copy survives. Hence linear bottlenecks.
"""

import numpy as np

from resexp.finding import Finding, Panel, Row, Series

SOURCE = "Sandler et al. 2018, Fig. 1"
POINTS = 1000
DEAD_LAYERS = 5


def analyze(*, dims: tuple[int, ...] = (2, 3, 5, 15, 30), draws: int = 200, seed: int = 0) -> Finding:
    """The part of the spiral's variance that comes back, with ReLU and without, and units that are never active.

    :param dims: of the embedding.
    :param draws: random maps for each.
    """
    random = np.random.default_rng(seed)
    curve = spiral()
    lost = {dim: [lost_variance(curve, random.standard_normal((dim, 2))) for _ in range(draws)] for dim in dims}
    linear = {dim: lost_variance(curve, random.standard_normal((dim, 2)), relu=False) for dim in dims}
    dead = {dim: float(np.mean([dead_units(random, dim) for _ in range(draws)])) for dim in dims}
    pictures = []
    for dim in dims:
        back = there_and_back(curve, random.standard_normal((dim, 2)))
        pictures.append(Panel(title=f"n = {dim}", x="", y="", series=[
            Series(label="", x=curve[:, 0].tolist(), y=curve[:, 1].tolist(), style="thin"),
            Series(label="", x=back[:, 0].tolist(), y=back[:, 1].tolist()),
        ]))  # fmt: skip
    median = {dim: float(np.median(values)) for dim, values in lost.items()}
    quartiles = {dim: np.percentile(values, (25, 75)).tolist() for dim, values in lost.items()}
    summary = Panel(title="what is lost", x="n", y="share of the variance", series=[
        Series(label="with ReLU", x=list(dims), y=list(median.values()), low=[q[0] for q in quartiles.values()],
               high=[q[1] for q in quartiles.values()]),
        Series(label="linear", x=list(dims), y=list(linear.values()), style="thin"),
        Series(label="dead units, n wide", x=list(dims), y=list(dead.values()), style="dots"),
    ])  # fmt: skip
    few, many = dims[0], dims[-1]
    rows = [
        Row(what=f"lost with ReLU in {dim} dimensions, median", measured=f"{100 * median[dim]:.1f} %",
            expected="points collapse" if dim <= 3 else "kept" if dim >= 15 else "", source=SOURCE,
            agrees=median[dim] > 0.1 if dim <= 3 else median[dim] < 0.1 if dim >= 15 else None)
        for dim in dims
    ]  # fmt: skip
    rows += [
        Row(what="lost by a linear bottleneck, at most", measured=f"{100 * max(linear.values()):.1e} %",
            expected="nothing", source="linear algebra: n >= 2", agrees=max(linear.values()) < 1e-9),
        Row(what=f"less is lost in {many} dimensions than in {few}", expected="less", source=SOURCE,
            measured=f"{median[many]:.3f} against {median[few]:.3f}", agrees=median[many] < median[few]),
        Row(what=f"units that nothing activates in layer {DEAD_LAYERS}, at widths {', '.join(map(str, dims))}",
            measured=", ".join(f"{100 * value:.1f} %" for value in dead.values()), expected="the fewer the wider",
            agrees=dead[many] < dead[few]),
    ]  # fmt: skip
    return Finding(
        analysis="relu-collapse", title="A spiral through a random map, ReLU, and back",
        about=f"{POINTS} points; back by least squares; {draws} random normal maps for each n, medians and quartiles; "
        f"the pictures are single draws; dead: units that no point of a normal cloud activates, in layer {DEAD_LAYERS} "
        f"of nets of that width; seed {seed}.",
        panels=[summary, *pictures], rows=rows, settings={"dims": dims, "draws": draws, "seed": seed},
    )  # fmt: skip


def spiral() -> np.ndarray:
    """(POINTS, 2), around 0, of unit variance."""
    angle = np.linspace(0, 4 * np.pi, POINTS)
    curve = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
    return (curve - curve.mean(axis=0)) / curve.std()


def there_and_back(curve: np.ndarray, matrix: np.ndarray, *, relu: bool = True) -> np.ndarray:
    """(N, 2) through ``matrix`` (n, 2) and ReLU to (N, n), and back by its pseudo-inverse: (N, 2)."""
    high = curve @ matrix.T
    return (np.maximum(high, 0) if relu else high) @ np.linalg.pinv(matrix).T


def lost_variance(curve: np.ndarray, matrix: np.ndarray, *, relu: bool = True) -> float:
    """The share of the curve's variance that no affine map of the image explains: 0 if nothing is lost, at most 1.

    The best affine map and not the pseudo-inverse alone, which would call a mere scaling by a half a loss.
    """
    back = there_and_back(curve, matrix, relu=relu)
    design = np.column_stack([back, np.ones(len(back))])
    fit = design @ np.linalg.lstsq(design, curve, rcond=None)[0]
    return float(((curve - fit) ** 2).sum() / ((curve - curve.mean(axis=0)) ** 2).sum())


def dead_units(random: np.random.Generator, width: int) -> float:
    """The share of units in the last of ``DEAD_LAYERS`` layers, with He weights, that no point of a cloud activates."""
    x = random.standard_normal((256, width))
    for _ in range(DEAD_LAYERS):
        x = np.maximum(x @ random.standard_normal((width, width)) * np.sqrt(2 / width), 0)
    return float((x == 0).all(axis=0).mean())
