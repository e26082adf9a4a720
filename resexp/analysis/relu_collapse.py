"""What ReLU leaves of a spiral: through a random map to n dimensions, ReLU, and back (Sandler et al. 2018, Fig. 1).

In few dimensions ReLU folds the curve onto itself and loses it; in many a copy survives. Hence linear bottlenecks.
"""

import functools
import itertools
import math

import numpy as np

from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"dims": 2}  # of the settings

SOURCE = "Sandler et al. 2018, Fig. 1"
POINTS = 1000
DEAD_LAYERS = 5
ZERO_DIMS = (1, 2, 4, 8)
LINEAR, LINEAR_LAYERS = 16, 20  # units and layers of a stack without activations
NARROW, NARROW_LAYERS, STEPS = 8, 6, 300  # of a net in which units are dead at the start


def analyze(*, dims: tuple[int, ...] = (2, 3, 5, 15, 30), draws: int = 200, seed: int = 0) -> Finding:
    """The part of the spiral's variance that comes back, with ReLU and without, and units that are never active.

    :param dims: of the embedding.
    :param draws: random maps for each.
    """
    random = np.random.default_rng(seed)
    curve = spiral()
    dims = tuple(sorted(set(dims)))
    lost = {dim: [lost_variance(curve, random.standard_normal((dim, 2))) for _ in range(draws)] for dim in dims}
    linear = {dim: lost_variance(curve, random.standard_normal((dim, 2)), relu=False) for dim in dims}
    dead = {dim: float(np.mean([dead_units(random, dim) for _ in range(draws)])) for dim in dims}
    pictures = [_picture(curve, random, dim) for dim in dims]
    zero = {dim: all_zero(random, dim, draws * 100) for dim in ZERO_DIMS}
    apart = linear_stack_error(random)
    median = {dim: float(np.median(values)) for dim, values in lost.items()}
    return Finding(
        analysis="relu-collapse",
        title="A spiral through a random map, ReLU, and back",
        about=f"{POINTS} points; back by least squares; {draws} random normal maps for each n, medians and quartiles; "
        f"the pictures are single draws; dead: units that no point of a normal cloud activates, in layer {DEAD_LAYERS} "
        f"of nets of that width; seed {seed}.",
        panels=[_summary(lost, linear, dead), *pictures],
        rows=[
            *_lost_rows(median),
            _zero_row(zero, draws * 100),
            _linear_row(apart),
            _revived_row(*revived_units(seed)),
            _bottleneck_row(linear),
            *_width_rows(median, dead),
        ],
    )


def _picture(curve: np.ndarray, random: np.random.Generator, dim: int) -> Panel:
    """The spiral, and what comes back of it from ``dim`` dimensions."""
    back = there_and_back(curve, random.standard_normal((dim, 2)))
    series = [
        Series(label="", x=curve[:, 0].tolist(), y=curve[:, 1].tolist(), style="thin"),
        Series(label="", x=back[:, 0].tolist(), y=back[:, 1].tolist()),
    ]
    return Panel(title=f"n = {dim}", x="", y="", series=series)


def _summary(lost: dict[int, list[float]], linear: dict[int, float], dead: dict[int, float]) -> Panel:
    dims = list(lost)
    quartiles = [np.percentile(values, (25, 75)).tolist() for values in lost.values()]
    with_relu = Series(
        label="with ReLU",
        x=dims,
        y=[float(np.median(values)) for values in lost.values()],
        low=[low for low, _ in quartiles],
        high=[high for _, high in quartiles],
    )
    others = [
        Series(label="linear", x=dims, y=list(linear.values()), style="thin"),
        Series(label="dead units, n wide", x=dims, y=list(dead.values()), style="dots"),
    ]
    return Panel(title="what is lost", x="n", y="share of the variance", series=[with_relu, *others])


def _lost_rows(median: dict[int, float]) -> list[Row]:
    return [
        Row(
            id=f"lost-{dim}",
            what=f"lost with ReLU in {dim} dimensions, median",
            measured=f"{100 * value:.1f} %",
            expected="points collapse" if dim <= 3 else "kept" if dim >= 15 else "",
            source=SOURCE,
            agrees=value > 0.1 if dim <= 3 else value < 0.1 if dim >= 15 else None,
        )
        for dim, value in median.items()
    ]


def _zero_row(zero: dict[int, float], count: int) -> Row:
    """Within four standard deviations of ``count`` draws."""
    return Row(
        id="all-zero",
        what=f"inputs that ReLU maps to 0 in all of n = {', '.join(map(str, ZERO_DIMS))} dimensions",
        measured=", ".join(f"{100 * one:.2f} %" for one in zero.values()),
        source="each sign with probability 1/2",
        expected="2^-n: " + ", ".join(f"{100 * 2.0**-dim:.2f} %" for dim in ZERO_DIMS),
        agrees=all(abs(one - 2.0**-dim) < 4 * math.sqrt(2.0**-dim / count) for dim, one in zero.items()),
    )


def _linear_row(apart: float) -> Row:
    return Row(
        id="linear-collapses",
        what=f"{LINEAR_LAYERS} linear layers against one matrix, largest difference",
        measured=f"{apart:.1e}",
        expected="0, to 1e-12: without an activation they are one layer",
        source="linear algebra",
        agrees=apart < 1e-12,
    )


def _revived_row(dead_at_start: int, revived: int) -> Row:
    return Row(
        id="revived",
        what=f"of units that no image activates at the start, those that are active after training "
        f"({NARROW_LAYERS} layers of {NARROW} units on digits, no batch norm)",
        measured=f"{revived} of {dead_at_start}",
        expected="0, if a unit that gives 0 can never recover",
        source="popular articles",
        agrees=revived == 0 if dead_at_start else None,
    )


def _bottleneck_row(linear: dict[int, float]) -> Row:
    return Row(
        id="linear-bottleneck",
        what="lost by a linear bottleneck, at most",
        measured=f"{100 * max(linear.values()):.1e} %",
        expected="nothing",
        source="linear algebra: n >= 2",
        agrees=max(linear.values()) < 1e-9,
    )


def _width_rows(median: dict[int, float], dead: dict[int, float]) -> list[Row]:
    """The fewest dimensions against the most."""
    few, many = min(median), max(median)
    return [
        Row(
            id="less-lost-in-many",
            what=f"less is lost in {many} dimensions than in {few}",
            expected="less",
            source=SOURCE,
            measured=f"{median[many]:.3f} against {median[few]:.3f}",
            agrees=median[many] < median[few] if few < many else None,
        ),
        Row(
            id="dead-units",
            what=f"units that nothing activates in layer {DEAD_LAYERS}, at widths {', '.join(map(str, dead))}",
            measured=", ".join(f"{100 * value:.1f} %" for value in dead.values()),
            expected="the fewer the wider",
            agrees=dead[many] < dead[few] if few < many else None,
        ),
    ]


def linear_stack_error(random: np.random.Generator) -> float:
    """The largest difference between a stack of linear layers and the one matrix that it is, of the largest output."""
    stack = [random.standard_normal((LINEAR, LINEAR)) / math.sqrt(LINEAR) for _ in range(LINEAR_LAYERS)]
    cloud = random.standard_normal((256, LINEAR))
    through = functools.reduce(np.matmul, stack, cloud)
    at_once = cloud @ functools.reduce(np.matmul, stack)
    return float(np.abs(through - at_once).max() / np.abs(through).max())


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


def all_zero(random: np.random.Generator, dim: int, count: int) -> float:
    """The share of inputs that a random layer of ``dim`` units and ReLU maps to zero altogether; each with its own."""
    return float(
        (random.standard_normal((count, dim, 8)) @ random.standard_normal((count, 8, 1)) <= 0).all(axis=(1, 2)).mean()
    )


def revived_units(seed: int, nets: int = 20) -> tuple[int, int]:
    """Over ``nets`` narrow nets on the digits: units that no image activates at the start, and how many of them are
    active after training. The layers before a dead unit still learn, and may bring it back.
    """
    import torch

    from resexp.data.registry import build_data

    data = build_data("digits").train
    images, labels = data.sample().flatten(1).float() / 255 - 0.5, data.labels
    dead_at_start = revived = 0
    for number in range(nets):
        with torch.random.fork_rng():
            torch.manual_seed(seed + number)
            sizes = [images.shape[1], *[NARROW] * NARROW_LAYERS]
            layers = torch.nn.ModuleList([torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
            head = torch.nn.Linear(NARROW, 10)

            def activations(x: torch.Tensor, layers: torch.nn.ModuleList = layers) -> list[torch.Tensor]:
                found = []
                for layer in layers:
                    x = layer(x).relu()
                    found.append(x)
                return found

            def dead() -> torch.Tensor:
                with torch.no_grad():
                    return torch.stack([(x == 0).all(dim=0) for x in activations(images)])

            before = dead()
            weights = [*layers.parameters(), *head.parameters()]
            optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
            for _ in range(STEPS):
                chosen = torch.randint(len(images), (64,))
                loss = torch.nn.functional.cross_entropy(head(activations(images[chosen])[-1]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            dead_at_start += int(before.sum())
            revived += int((before & ~dead()).sum())
    return dead_at_start, revived
