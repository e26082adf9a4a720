#!/usr/bin/env python
"""TensorBoard's events of runs that have none, from their logs: scripts/write_events.py outputs

The reference runs are committed without events. After this, tensorboard --logdir outputs shows every run with its
curves and, under HPARAMS, its settings; make tensorboard does both.
"""

import argparse
import sys
from pathlib import Path

from resexp import UserError
from resexp.runs.reader import CONFIG, read_run
from resexp.runs.tensorboard import write_missing_events


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="holds run folders, at any depth")
    folder = parser.parse_args().folder
    paths = sorted(path.parent for path in folder.rglob(CONFIG))
    if not paths:
        print(f"write_events: error: {folder}: no run folders below it", file=sys.stderr)
        return 2
    written = 0
    for path in paths:
        try:
            written += write_missing_events(read_run(path))
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
        except OSError as error:
            print(f"write_events: error: cannot write into {path}: {error.strerror}", file=sys.stderr)
            return 2
    print(f"{len(paths)} runs, events written for {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
