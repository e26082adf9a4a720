"""The error of a trained net without one block, without k of them, with blocks swapped (Veit et al. 2016, Sec. 4).

If a residual net behaves like an ensemble of paths, a lost block costs little, and the error grows smoothly with more.
A plain net has one path. It loses single layers, as VGG does in the paper, and not pairs of them.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from resexp import UserError
from resexp.analysis.subject import Trained, about, blocks_of, error_of, judged, replaced
from resexp.analysis.units import Dropped, LayersDropped, Unit, check_fits, connection_of, shape_of, units_of
from resexp.console import message
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"deletions": 0, "swaps": 0}  # of the settings

SOURCE = "Veit et al. 2016, Fig. 3"
MOST = 20  # blocks dropped together: about where the published curve reaches chance
SMALL, CHANCE = 5.0, 0.75  # points of error that are little; the part of chance's error that counts as chance
MONOTONE = 0.9  # in order: Spearman's correlation is at least this
JUMP = 0.25  # smooth: and no step is more of the whole rise
LEAST_STEPS = 8  # of a rise that is judged: an even one has steps of half the bound then


def analyze(
    nets: Sequence[Trained],
    *,
    deletions: int = 0,
    repeats: int = 10,
    swaps: int = 12,
    images: int = 1000,
    seed: int = 0,
) -> Finding:
    """The three lesions on each net; ``repeats`` draws for each number of deletions and of swaps.

    :param deletions: most blocks, or layers of a plain net, dropped together; 0: 20, or all of a net that has fewer.
    :param swaps: most exchanges of two blocks of one shape.
    :param images: number of test images, from the first.
    """
    _check_deletions(nets, deletions)
    singles, several, swapped, rows = [], [], [], []
    for net in nets:
        check_fits(net)
        inputs, labels = net.images("test", images)
        count = len(units_of(net))
        whole = error_of(net.net, inputs, labels)
        one = [_error_without(net, [index], inputs, labels) for index in range(count)]
        message(f"lesion: {net.label}: {count} single {_kind(net)} dropped")
        singles.append(Series(label=net.label, x=range(1, count + 1), y=one))
        random = np.random.default_rng(seed)
        ks = range(1, (deletions or min(MOST, count)) + 1)
        found = [
            [_error_without(net, random.choice(count, k, replace=False), inputs, labels) for _ in range(repeats)]
            for k in ks
        ]
        several.append(_quartiles(net.label, ks, found))
        message(f"lesion: {net.label}: up to {ks[-1]} dropped together")
        swapped.append(_swap(net, swaps, repeats, random, inputs, labels))
        message(f"lesion: {net.label}: up to {swaps} swaps")
        rows += _judge(net, whole, one)
        if not _is_plain(net):
            dropped = [float(np.median(errors)) for errors in found]
            rows += _judge_smooth(net, [whole, *dropped])
            rows += _judge_order(net, whole, swapped[-1])
    return Finding(
        analysis="lesion",
        title="Lesions: blocks dropped and swapped after training",
        about=about(nets) + f"; {len(labels)} test images; {repeats} draws each, median and quartiles, seed {seed}.",
        panels=[
            Panel(title="one block, or plain layer, dropped", x="block or layer", y="test error (%)", series=singles),
            Panel(title="k random ones dropped", x="k", y="test error (%)", series=several),
            Panel(
                title="blocks of one shape swapped", x="Kendall's tau of the order", y="test error (%)", series=swapped
            ),
        ],
        rows=rows,
    )


def _check_deletions(nets: Sequence[Trained], deletions: int) -> None:
    for net in nets:
        if deletions > len(units_of(net)):
            raise UserError(
                f"lesion deletions={deletions}: {net.label} has {len(units_of(net))} {_kind(net)}; drop no more"
            )


def _error_without(net: Trained, indices: Sequence[int] | np.ndarray, inputs: Tensor, labels: Tensor) -> float:
    units = units_of(net)
    dropped: dict[tuple[int, int], list[Unit]] = {}
    for unit in (units[index] for index in indices):
        dropped.setdefault((id(unit.stage), unit.index), []).append(unit)
    places, parts = [], []
    for members in dropped.values():
        stage, index = members[0].stage, members[0].index
        layers = [unit.layer for unit in members if unit.layer is not None]
        places.append((stage, index))
        parts.append(LayersDropped(stage[index], layers) if layers else Dropped(stage[index]))
    with replaced(places, [part.eval() for part in parts]):
        return error_of(net.net, inputs, labels)


def _swap(
    net: Trained, swaps: int, repeats: int, random: np.random.Generator, inputs: Tensor, labels: Tensor
) -> Series:
    """Errors after exchanges of blocks of one shape, by how far the order is kept."""
    places = blocks_of(net)
    shapes = [shape_of(stage[index]) for stage, index in places]
    alike = [[i for i, shape in enumerate(shapes) if shape == wanted] for wanted in dict.fromkeys(shapes)]
    alike = [members for members in alike if len(members) > 1]
    found: dict[float, list[float]] = {}
    for count in range(1, swaps + 1) if alike else ():
        for _ in range(repeats):
            order = list(range(len(places)))
            for _ in range(count):
                members = alike[random.choice(len(alike), p=_shares(alike))]
                first, second = random.choice(members, 2, replace=False)
                order[first], order[second] = order[second], order[first]
            moved = [i for i, j in enumerate(order) if i != j]
            parts = [places[order[i]][0][places[order[i]][1]] for i in moved]
            with replaced([places[i] for i in moved], parts):
                error = error_of(net.net, inputs, labels)
            tau = kendalltau(range(len(order)), order).statistic
            found.setdefault(round(round(tau * 50) / 50, 2), []).append(error)
    taus = sorted(found, reverse=True)
    return _quartiles(net.label, taus, [found[tau] for tau in taus])


def _shares(alike: list[list[int]]) -> list[float]:
    total = sum(map(len, alike))
    return [len(members) / total for members in alike]


def _quartiles(label: str, x: Sequence[float], values: list[list[float]]) -> Series:
    low, middle, high = ([float(np.percentile(one, q)) for one in values] for q in (25, 50, 75))
    return Series(label=label, x=list(x), y=middle, low=low, high=high)


def _is_plain(net: Trained) -> bool:
    return all(connection_of(stage[index]) is None for stage, index in blocks_of(net))


def _kind(net: Trained) -> str:
    return "layers" if _is_plain(net) else "blocks"


def _judge(net: Trained, whole: float, one: list[float]) -> list[Row]:
    median, worst = float(np.median(one)), max(one)
    kind, plain = _kind(net).removesuffix("s"), _is_plain(net)
    number = one.index(worst) + 1
    measured = f"{whole:.1f} % whole, {median:.1f} % in the median, {worst:.1f} % at most ({kind} {number})"
    expected = "near chance" if plain else f"little: at most {SMALL:g} points in the median"
    agrees = median >= CHANCE * net.chance if plain else median <= whole + SMALL
    return [
        Row(
            id="plain-layer" if plain else "residual-block",
            what=f"{net.label}: one {kind} dropped",
            measured=measured,
            expected=expected,
            source=SOURCE,
            agrees=judged(agrees, net),
        )
    ]


def _judge_smooth(net: Trained, medians: Sequence[float]) -> list[Row]:
    """Whether the median errors rise smoothly with the number of dropped blocks: in order, and without a jump."""
    if len(medians) <= LEAST_STEPS:
        return []
    rise, rank = max(medians) - medians[0], _order_of(medians)
    jump = max(after - before for before, after in itertools.pairwise(medians)) / rise if rise > 0 else 0.0
    return [
        Row(
            id="smooth",
            what=f"{net.label}: k blocks dropped: Spearman's correlation of k with the median error; "
            "largest step, of the whole rise",
            measured=f"{rank:.2f}; {100 * jump:.0f} %",
            expected=f"smooth: at least {MONOTONE}, at most {100 * JUMP:.0f} %",
            source="Veit et al. 2016, Fig. 5a",
            agrees=judged(rank >= MONOTONE and jump <= JUMP, net),
        )
    ]


def _judge_order(net: Trained, whole: float, swapped: Series) -> list[Row]:
    """Whether the error rises with the disorder. Steps between taus tell nothing: some have a single draw."""
    medians = [whole, *(error for tau, error in zip(swapped.x, swapped.y, strict=True) if tau < 1)]
    if len(medians) <= LEAST_STEPS:
        return []
    rank = _order_of(medians)
    return [
        Row(
            id="order",
            what=f"{net.label}: blocks swapped: Spearman's correlation of 1 - tau with the median error",
            measured=f"{rank:.2f}",
            expected=f"at least {MONOTONE}",
            source="Veit et al. 2016, Fig. 5b",
            agrees=judged(rank >= MONOTONE, net),
        )
    ]


def _order_of(medians: Sequence[float]) -> float:
    """Spearman's correlation of errors with their places; 0 if none is above the first."""
    return float(spearmanr(range(len(medians)), medians).statistic) if max(medians) > medians[0] else 0.0
