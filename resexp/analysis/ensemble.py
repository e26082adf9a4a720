"""Nets trained with stochastic depth or dropout under lesions, and the members that lesions leave (Veit et al. 2016).

If a residual net is an ensemble, what is left without a few blocks is a member of it. That members are better averaged
than alone is true of nearly all classifiers and says nothing; that a net trained with its members, by stochastic depth
or dropout, bears the loss of blocks better is a claim that can fail. A dropout net's masks are members as well.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resexp.analysis.lesion import Dropped
from resexp.analysis.subject import Trained, about, blocks_of, error_of, judged, log_probabilities, replaced
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
    :param images: the first so many test images.
    """
    alone, together, rows = [], [], []
    gain: dict[str, float] = {}
    for net in nets:
        inputs, labels = net.images("test", images)
        count = len(blocks_of(net))
        random = np.random.default_rng(seed)
        ks = sorted({max(1, round(count * most * part / 6)) for part in range(1, 7)})
        errors = [member_errors(net, k, members, random, inputs, labels) for k in ks]
        whole = error_of(net.net, inputs, labels)
        x = [0.0, *(100 * k / count for k in ks)]
        alone.append(Series(label=net.label, x=x, y=[whole, *(mean for mean, _ in errors)]))
        together.append(Series(label=net.label, x=x, y=[whole, *(averaged for _, averaged in errors)]))
        gain[net.label] = errors[-1][0] - whole
        message(f"ensemble: {net.label}: {members} members of each of {len(ks)} sizes")
        for k, (mean, averaged) in zip(ks, errors, strict=True):
            rows.append(
                Row(
                    id="members",
                    what=f"{net.label} without {k} of {count} blocks: members alone, averaged (whole net)",
                    measured=f"{mean:.2f} %, {averaged:.2f} % ({whole:.2f} %)",
                )
            )
        if net.cfg.model.dropout:
            mean, averaged = mask_errors(net, members, seed, inputs, labels)
            rows.append(
                Row(
                    id="masks",
                    what=f"{net.label}: {members} dropout masks alone, averaged (whole net)",
                    measured=f"{mean:.2f} %, {averaged:.2f} % ({whole:.2f} %)",
                    source=DROPOUT,
                    expected="the whole net comes within one point of the average",
                    agrees=judged(abs(whole - averaged) <= 1, net),
                )
            )
    dropped = [net for net in nets if net.cfg.model.survival not in (None, 1.0) or net.cfg.model.dropout]
    usual = [net for net in nets if net not in dropped]
    for net in dropped if usual else ():
        rows.append(
            Row(
                id="survives" if net.cfg.model.survival not in (None, 1.0) else "dropout-survives",
                what=f"what the largest lesion costs: {net.label} against {usual[0].label}",
                measured=f"{gain[net.label]:.2f} points against {gain[usual[0].label]:.2f}",
                expected="less",
                source=SOURCE,
                agrees=judged(gain[net.label] < gain[usual[0].label], net, usual[0]),
            )
        )
    return Finding(
        analysis="ensemble",
        title="Members that lesions leave, alone and averaged",
        about=about(nets) + f"; {len(labels)} test images, {members} random lesions of each size, seed {seed}.",
        panels=[
            Panel(title="members alone", x="blocks dropped (%)", y="test error (%)", series=alone),
            Panel(title="members averaged", x="blocks dropped (%)", y="test error (%)", series=together),
        ],
        rows=rows,
        settings={"members": members, "most": most, "images": images, "seed": seed},
    )


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
