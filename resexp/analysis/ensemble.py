"""Nets trained with stochastic depth or dropout under lesions, and the members that lesions leave (Veit et al. 2016).

If a residual net is an ensemble, what is left without a few blocks is a member of it; members that differ are better
averaged than alone. Stochastic depth trains the members themselves.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resexp.analysis.lesion import Dropped
from resexp.analysis.subject import Trained, about, blocks_of, error_of, log_probabilities, replaced
from resexp.console import message
from resexp.finding import Finding, Panel, Row, Series

SOURCE = "Veit et al. 2016, Sec. 6"


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
            rows.append(Row(what=f"{net.label} without {k} of {count} blocks: members alone, averaged (whole net)",
                            measured=f"{mean:.2f} %, {averaged:.2f} % ({whole:.2f} %)",
                            expected="averaged below alone", source=SOURCE, agrees=averaged <= mean))  # fmt: skip
    dropped = [net.label for net in nets if net.cfg.model.survival not in (None, 1.0) or net.cfg.model.dropout]
    usual = [net.label for net in nets if net.label not in dropped]
    for label in dropped if usual else ():
        rows.append(Row(what=f"what the largest lesion costs: {label} against {usual[0]}",
                        measured=f"{gain[label]:.2f} points against {gain[usual[0]]:.2f}", expected="less",
                        source=SOURCE, agrees=gain[label] < gain[usual[0]]))  # fmt: skip
    return Finding(
        analysis="ensemble", title="Members that lesions leave, alone and averaged",
        about=about(nets) + f"; {len(labels)} test images, {members} random lesions of each "
        f"size, seed {seed}.",
        panels=[
            Panel(title="members alone", x="blocks dropped (%)", y="test error (%)", series=alone),
            Panel(title="members averaged", x="blocks dropped (%)", y="test error (%)", series=together),
        ],
        rows=rows, settings={"members": members, "most": most, "images": images, "seed": seed},
    )  # fmt: skip


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
