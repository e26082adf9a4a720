#!/usr/bin/env python
"""Are shortcuts, or few layers, needed only to begin? Half of a training with them, the other half as a plain net.

    scripts/remedies_halfway.py [--seeds 0,1,2] [key=value ...]     on digits, 3 minutes a seed on one core

Either half has 640 of the 1,280 steps of the protocol digits: the first at the full rate, the second at a tenth and,
from its middle on, a hundredth of it. Between them a residual net of 56 layers has its shortcuts folded into its
convolutions, and a plain net of 20 is deepened to 56 by identity blocks. What the nets compute stays the same there.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

import resexp
from resexp.analysis.subject import read_subject
from resexp.api import Run
from resexp.builder import build_net
from resexp.config import load
from resexp.console import print_table
from resexp.models.deepen import deepen
from resexp.models.fold import fold

COMMON = ("dataset=digits", "model.width=8")
FIRST = ("protocol.steps=640", "protocol.lr_drops=[]")
SECOND = ("protocol.steps=640", "protocol.lr_drops=[320]")
SINGLE = "model.transform=single"  # only such blocks fold
FOLDED = ("model=plain56", SINGLE, "model.norm=none")
PLAIN_RATE, RESIDUAL_RATE = 0.03, 0.01  # their best in resexp study remedies-rates
FOLDED_RATES = (0.001, 0.0003, 0.0001)  # without batch norm a tenth of the residual net's rate may be too much


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0", metavar="0,1,2")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="for every run")
    args = parser.parse_args()
    rows = []
    try:
        for seed in args.seeds.split(","):
            rows += [[seed, *row] for row in halfway([*COMMON, f"seed={seed}", *args.settings])]
    except resexp.UserError as error:
        print(f"remedies_halfway: error: {error}", file=sys.stderr)
        return 2
    print_table(
        ("seed", "first half", "training error %", "second half", "rate", "training error %"), rows, "Halfway to plain"
    )
    return 0


def halfway(words: list[str]) -> list[list[str]]:
    """A row for each training in two halves, and for the whole ones beside them."""
    shallow = resexp.train("model=plain20", f"protocol.lr={PLAIN_RATE}", *FIRST, *words)
    deep = ["model=plain56", *words]
    trained = read_subject(shallow, device="cpu")
    deepened = deepen(trained.net, build_net(load(deep), trained.data), trained.images("train")[0])
    rows = [_second(shallow, "plain20", deepened, deep, PLAIN_RATE / 10, "plain56, deepened")]
    residual = resexp.train("model=resnet56", SINGLE, f"protocol.lr={RESIDUAL_RATE}", *FIRST, *words)
    folded = fold(residual.net())
    for rate in FOLDED_RATES:
        rows.append(_second(residual, "resnet56 single", folded, [*FOLDED, *words], rate, "plain56 single, folded"))
    for name, net, rate in (
        ("plain20", ["model=plain20"], PLAIN_RATE),
        ("plain56", ["model=plain56"], PLAIN_RATE),
        ("resnet56 single", ["model=resnet56", SINGLE], RESIDUAL_RATE),
        ("plain56 single norm=none", list(FOLDED), RESIDUAL_RATE),
    ):
        whole = resexp.train(*net, f"protocol.lr={rate}", *words)
        rows.append([name, "", "the same", f"{rate:g}", f"{whole.summary['train_error']:.2f}"])
    return rows


def _second(first: Run, name: str, state: dict[str, Tensor], words: list[str], rate: float, then: str) -> list[str]:
    """The second half, from the weights that were made of the first half's."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "start.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
        run = resexp.train(*words, f"protocol.lr={rate:g}", f"init_from={file}", *SECOND)
    errors = [f"{one.summary['train_error']:.2f}" for one in (first, run)]
    return [name, errors[0], then, f"{rate:g}", errors[1]]


if __name__ == "__main__":
    sys.exit(main())
