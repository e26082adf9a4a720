#!/usr/bin/env python
"""The weights of a trained residual net of single convolutions as those of a plain net that computes the same.

    resexp train model=resnet20 model.transform=single
    scripts/fold_shortcuts.py outputs/runs/RUN --to folded.safetensors
    resexp train model=plain20 model.transform=single model.norm=none init_from=folded.safetensors

The second training goes on without shortcuts: does the net need them still, or did it need them only to begin?
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from safetensors.torch import save_file

from resexp import UserError, config
from resexp.models.fold import fold
from resexp.run.reader import CONFIG, read_run
from resexp.trained import load_trained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.safetensors")
    args = parser.parse_args()
    try:
        read_run(args.run)
        cfg = dataclasses.replace(config.load_file(args.run / CONFIG), device="cpu")
        state = fold(load_trained(args.run, cfg)[1])
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, args.to)
    except (UserError, ValueError, OSError) as error:
        print(f"fold_shortcuts: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.to}: for model=plain{cfg.model.depth} model.transform=single model.norm=none, width {cfg.model.width}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
