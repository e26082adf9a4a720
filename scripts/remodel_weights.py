#!/usr/bin/env python
"""The weights of a trained run as those of another net that computes the same, for a training that goes on from them.

    resexp train model=resnet20 model.transform=single
    scripts/remodel_weights.py outputs/runs/RUN --fold --to folded.safetensors
    resexp train model=plain20 model.transform=single model.norm=none init_from=folded.safetensors

    resexp train model=plain20
    scripts/remodel_weights.py outputs/runs/RUN --deepen-to 56 --to deepened.safetensors
    resexp train model=plain56 init_from=deepened.safetensors

Folded, a residual net goes on without shortcuts: does it need them still, or did it need them only to begin? Deepened
by blocks that pass on what they get, a plain net is a deep one that is as good as the shallow one: does it stay so?
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from safetensors.torch import save_file

from resexp import UserError
from resexp.analysis.subject import read_subject
from resexp.builder import build_net
from resexp.models.deepen import deepen
from resexp.models.fold import fold
from resexp.run.reader import read_run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--fold", action="store_true", help="shortcuts into the convolutions beside them")
    how.add_argument("--deepen-to", type=int, metavar="DEPTH", help="by identity blocks at the end of each stage")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.safetensors")
    args = parser.parse_args()
    try:
        trained = read_subject(read_run(args.run), device="cpu")
        cfg = trained.cfg
        depth = args.deepen_to or cfg.model.depth
        if args.fold:
            state, words = fold(trained.net), " model.transform=single model.norm=none"
        else:
            model = dataclasses.replace(cfg.model, depth=depth)
            deeper = build_net(dataclasses.replace(cfg, model=model), trained.data)
            state, words = deepen(trained.net, deeper, trained.images("train")[0]), ""
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, args.to)
    except (UserError, ValueError, OSError) as error:
        print(f"remodel_weights: error: {error}", file=sys.stderr)
        return 2
    print(f"{args.to}: for model=plain{depth}{words}, width {cfg.model.width}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
