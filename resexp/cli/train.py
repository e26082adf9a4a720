"""``train``: one net."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from resexp.system import rank

if TYPE_CHECKING:
    from resexp.config import Config


def train_net(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.run.reader import DONE, Status
    from resexp.sweep.plan import diverged_before, run_here

    cfg = config.load(args.overrides, args.config_dir)
    run = run_here(cfg)
    if run.status_to_train in DONE:
        diverged = run.status_to_train == Status.DIVERGED
        if rank() == 0:
            said = diverged_before(run) if diverged else "finished already; another seed= is another run"
            print(f"{cfg.run_dir}: {said}", file=sys.stderr)
            print(result_line(cfg, run.summary))
        return int(diverged)
    from resexp.parallel import end_process, launched_in_parallel
    from resexp.run_folder import open_run
    from resexp.runtime import stop_signals
    from resexp.training import train

    # The signals are caught first, so that none ends the process before it has said why.
    with stop_signals() as stop, open_run(cfg, cfg.run_dir) as folder:
        summary = train(cfg, folder, stop)
    if rank() == 0:
        _report(cfg, summary)
    code = 128 + summary["signal"] if summary["signal"] else int(summary["status"] == Status.DIVERGED)
    if launched_in_parallel():
        end_process(code)
    return code


def _report(cfg: "Config", summary: dict[str, Any]) -> None:
    """How a run ended, on stdout; what to do about a run that diverged, on stderr."""
    from resexp.run.reader import Status

    print(result_line(cfg, summary))
    if summary["status"] == Status.DIVERGED:
        saved = (cfg.run_dir / "checkpoint.pt").is_file()
        kept = "the last good checkpoint is kept" if saved else "there was no checkpoint yet"
        where = f"the loss or a weight is not finite at step {summary['step']}"
        print(f"resexp: {where}; {kept}; try a smaller protocol.lr", file=sys.stderr)


def result_line(cfg: "Config", summary: dict[str, Any]) -> str:
    from resexp.run.reader import Status
    from resexp.studies.published import published_like

    reached = f"{summary['status']} at step {summary['step']:,} of {cfg.protocol.steps:,}"
    parts = [f"{cfg.model.name} on {cfg.dataset.name}: {reached}"]
    for key in ("train_error", "val_error", "test_error", "ten_crop_error", "multi_scale_error"):
        if summary.get(key) is not None:
            parts.append(f"{key.removesuffix('_error').replace('_', '-')} error {summary[key]:.2f}%")
    if known := published_like(dataclasses.asdict(cfg), summary.get("classes")):
        parts.append(f"published {known}% ({known.source})")
    if summary["status"] == Status.INTERRUPTED:
        parts.append("the same command resumes")
    return "; ".join(parts)
