#!/usr/bin/env python
"""Kill one run many times at random moments, let it finish, and compare it bit for bit with one that never stopped.

    tests/kill_and_resume.py --kills 10 protocol=smoke

Prints the step at which every process resumed, and exits with 1 if anything but times differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from helpers import differences, end_state

from resexp import config
from resexp.runs.reader import METRICS


def train(words: Sequence[str], kill_after: float | None = None) -> tuple[bool, str]:
    """Run ``resexp train``, killed ``kill_after`` seconds after its first log line. Was it killed, and its stderr."""
    log = config.load(words).run_dir / METRICS
    command = [sys.executable, "-m", "resexp", "train", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if kill_after is not None:
        before = log.stat().st_mtime_ns if log.is_file() else None
        while process.poll() is None and not (
            log.is_file() and log.stat().st_mtime_ns != before and log.stat().st_size
        ):
            time.sleep(0.01)
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1]
    return process.returncode == -signal.SIGKILL, errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0, help="longest wait before a kill (default: 3)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the run")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = ([*args.overrides, f"output_dir={folder}/{name}"] for name in ("whole", "killed"))
        train(whole)
        kills = 0
        for kill in range(args.kills + 1):
            last = kill == args.kills
            was_killed, errors = train(killed, None if last else random.uniform(0, args.seconds))
            kills += was_killed
            starts = [line for line in errors.splitlines() if line.startswith(("starting at", "resuming at"))]
            print(f"{starts[0] if starts else 'no start'}, {'killed' if was_killed else 'ended'}", flush=True)
        paths = differences(end_state(config.load(whole).run_dir), end_state(config.load(killed).run_dir))
    print(f"differs in {', '.join(paths[:5])}" if paths else f"bit-identical after {kills} kills")
    if kills < args.kills:
        print(f"only {kills} of {args.kills} kills met a running process: take more protocol.steps, or fewer --seconds")
    return 1 if paths or kills < args.kills else 0


if __name__ == "__main__":
    sys.exit(main())
