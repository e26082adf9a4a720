"""Nets trained with stochastic depth or dropout under lesions, and the members that lesions leave (Veit et al. 2016).

If a residual net is an ensemble, what is left without a few blocks is a member of it. That members are better averaged
than alone is true of nearly all classifiers and says nothing; that a net trained with its members, by stochastic depth
or dropout, bears the loss of blocks better is a claim that can fail. A dropout net's masks are members as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resexp.analysis.subject import (
    Trained,
    about,
    blocks_of,
    error_of,
    is_comparable,
    judged,
    log_probabilities,
    replaced,
)
from resexp.analysis.units import Dropped, check_fits
from resexp.console import message
from resexp.models.blocks import Transform
from resexp.studies.finding import Finding, Panel, Row, Series

GREATEST = {"most": 1}  # of the settings

SOURCE = "Veit et al. 2016, Sec. 6"
DROPOUT = "Srivastava et al. 2014, Sec. 7.5"


def analyze(
    nets: Sequence[Trained], *, members: int = 20, most: float = 0.5, images: int = 1000, seed: int = 0
) -> Finding:
    """For each net and each share of blocks dropped: the members' mean error, and that of their averaged predictions.

    :param members: random lesions of each size.
    :param most: the largest share of blocks dropped.
    :param images: number of test images, from the first.
    """
    found = []
    for net in nets:
        check_fits(net)
        part = net.images("test", images)
        count = len(blocks_of(net))
        random = np.random.default_rng(seed)
        ks = sorted({max(1, round(count * most * sixth / 6)) for sixth in range(1, 7)})
        errors = {k: member_errors(net, k, members, random, *part) for k in ks}
        message(f"ensemble: {net.label}: {members} members of each of {len(ks)} sizes")
        masks = mask_errors(net, members, seed, *part) if net.cfg.model.dropout else None
        found.append(Members(net, count, error_of(net.net, *part), errors, masks))
    panels = [
        Panel(
            title=title,
            x="blocks dropped (%)",
            y="test error (%)",
            series=[Series(label=one.net.label, x=one.dropped, y=one.curve(index)) for one in found],
        )
        for index, title in enumerate(("members alone", "members averaged"))
    ]
    return Finding(
        analysis="ensemble",
        title="Members that lesions leave, alone and averaged",
        about=about(nets) + f"; {len(part[1])} test images, {members} random lesions of each size, seed {seed}.",
        panels=panels,
        rows=[*(row for one in found for row in _rows(one, members)), *_compare(found)],
    )


@dataclass(frozen=True)
class Members:
    """What lesions leave of one net, in percent of error.

    :param blocks: of the net.
    :param whole: the error of the whole net.
    :param errors: by the number of blocks dropped: the members' mean error, and that of their averaged predictions.
    :param masks: the same of random dropout masks, for a net that was trained with dropout.
    """

    net: Trained
    blocks: int
    whole: float
    errors: dict[int, tuple[float, float]]
    masks: tuple[float, float] | None

    @property
    def dropped(self) -> list[float]:
        """In percent of the blocks."""
        return [0.0, *(100 * k / self.blocks for k in self.errors)]

    def curve(self, index: int) -> list[float]:
        """By blocks dropped; 0: the members alone, 1: averaged."""
        return [self.whole, *(pair[index] for pair in self.errors.values())]

    @property
    def cost(self) -> float:
        """Of the largest lesion, in points."""
        return self.curve(0)[-1] - self.whole

    @property
    def has_stochastic_depth(self) -> bool:
        return self.net.cfg.model.survival not in (None, 1.0)


def _rows(one: Members, members: int) -> list[Row]:
    label, whole = one.net.label, one.whole
    rows = [
        Row(
            id="members",
            what=f"{label} without {k} of {one.blocks} blocks: members alone, averaged (whole net)",
            measured=f"{mean:.2f} %, {averaged:.2f} % ({whole:.2f} %)",
        )
        for k, (mean, averaged) in one.errors.items()
    ]
    if one.masks:
        mean, averaged = one.masks
        rows.append(
            Row(
                id="masks",
                what=f"{label}: {members} dropout masks alone, averaged (whole net)",
                measured=f"{mean:.2f} %, {averaged:.2f} % ({whole:.2f} %)",
                source=DROPOUT,
                expected="the whole net comes within one point of the average",
                agrees=judged(abs(whole - averaged) <= 1, one.net),
            )
        )
    return rows


def _compare(found: Sequence[Members]) -> list[Row]:
    """What was trained with dropped blocks or units, against the first net of its kind that was not."""
    robust = [one for one in found if one.has_stochastic_depth or one.net.cfg.model.dropout]

    def usual_of(one: Members) -> Members | None:
        return next((other for other in found if other not in robust and is_alike(one.net, other.net)), None)

    def is_alike(one: Trained, other: Trained) -> bool:
        kinds = {(net.cfg.model.family, net.cfg.model.depth) for net in (one, other)}
        return len(kinds) == 1 and is_comparable(one, other)

    return [
        Row(
            id="survives" if one.has_stochastic_depth else "dropout-survives",
            what=f"what the largest lesion costs: {one.net.label} against {usual.net.label}",
            measured=f"{one.cost:.2f} points against {usual.cost:.2f}",
            expected="less",
            source=SOURCE,
            agrees=judged(one.cost < usual.cost, one.net, usual.net),
        )
        for one in robust
        if (usual := usual_of(one))
    ]


def mask_errors(net: Trained, members: int, seed: int, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """As ``member_errors``, of nets whose units dropout switches off at random, as in training."""
    transforms = [module for module in net.net.modules() if isinstance(module, Transform)]
    logs = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            for transform in transforms:
                transform.training = True  # of itself alone: its batch norms stay in evaluation mode
            logs = [log_probabilities(net.net, inputs) for _ in range(members)]
        finally:
            for transform in transforms:
                transform.training = False
    errors = [100 * float((one.argmax(dim=1) != labels).float().mean()) for one in logs]
    mean = torch.stack([one.double().exp() for one in logs]).mean(dim=0)
    return float(np.mean(errors)), 100 * float((mean.argmax(dim=1) != labels).float().mean())


def member_errors(
    net: Trained, k: int, members: int, random: np.random.Generator, inputs: Tensor, labels: Tensor
) -> tuple[float, float]:
    """The mean error of ``members`` nets without k random blocks, and the error of the mean of their probabilities."""
    places = blocks_of(net)
    mean, errors = torch.zeros((), dtype=torch.float64), []
    for _ in range(members):
        chosen = [places[index] for index in random.choice(len(places), k, replace=False)]
        with replaced(chosen, [Dropped(stage[index]) for stage, index in chosen]):
            logs = log_probabilities(net.net, inputs)
        errors.append(100 * float((logs.argmax(dim=1) != labels).float().mean()))
        mean = mean.to(logs.device) + logs.double().exp() / members
    averaged = 100 * float((mean.argmax(dim=1) != labels).float().mean())
    return float(np.mean(errors)), averaged
