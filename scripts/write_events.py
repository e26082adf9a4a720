#!/usr/bin/env python
"""TensorBoard's events of runs that have none, from their logs: scripts/write_events.py outputs

The reference runs are kept without events; theirs are written into outputs/tensorboard. After this, tensorboard
--logdir outputs shows every run with its curves and, under HPARAMS, its settings; make tensorboard does both.
"""

import argparse
import sys
from pathlib import Path

from resexp import UserError
from resexp.run.reader import CONFIG, EVENTS, Run, read_run
from resexp.run.store import runs_at, stores
from resexp.run.tensorboard import write_missing_events
from resexp.studies.find import REFERENCE


def stored_runs(folder: Path) -> dict[Path, Run]:
    """The reference runs, by the folder of their events."""
    runs = [(store, run) for store in stores(folder / REFERENCE) for run in runs_at(store).values()]
    return {folder / "tensorboard" / store.stem / run.path.name: run for store, run in runs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="of run folders")
    folder = parser.parse_args().folder
    written = count = 0
    try:
        for path in sorted(path.parent for path in folder.rglob(CONFIG)):
            count += 1
            try:
                written += write_missing_events(read_run(path), path / EVENTS)
            except UserError as error:
                print(f"left out: {error}", file=sys.stderr)
        for path, run in stored_runs(folder).items():
            count += 1
            written += write_missing_events(run, path)
    except (UserError, OSError) as error:
        print(f"write_events: error: {error}", file=sys.stderr)
        return 2
    if not count:
        print(f"write_events: error: {folder}: no runs below it", file=sys.stderr)
        return 2
    print(f"{count} runs, events written for {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
