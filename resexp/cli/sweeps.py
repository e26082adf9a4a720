"""``sweep`` and ``study``: many nets, side by side here or on a cluster."""

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resexp import UserError
from resexp.cli.show import draw, show_verdicts

if TYPE_CHECKING:
    from resexp.config import Config, Study
    from resexp.studies.groups import Group
    from resexp.sweep.plan import Job, Sweep

    Jobs = list[tuple[list[str], Config]]

# What makes another study of one; but for where its images are, and how they are read.
DECIDING = ("model", "depth", "family", "dataset", "protocol", "init_from", "resume_from")
READING = ("dataset.root", "dataset.download", "dataset.pack", "dataset.workers")
MEASURED_STEPS = 4  # of a training, several times: about ten seconds for a net of 20 layers


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="launcher=slurm: stay until no job is left, then draw")
    parser.add_argument("--status", action="store_true", help="start nothing, show how far each run is")


def study_arguments(parser: argparse.ArgumentParser) -> None:
    sweep_arguments(parser)
    parser.add_argument("name", metavar="NAME", help="resexp studies lists them")


def sweep(args: argparse.Namespace) -> int:
    from resexp import config

    jobs = config.expand(args.overrides, args.config_dir)
    from resexp.figures.study import slug

    narrowed = {word for overrides, _ in jobs for word in overrides if word.startswith("model.width=")}
    for word in sorted(narrowed - set(args.overrides)):
        print(f"{word}: nets are narrowed, for speed; set model.width for another width", file=sys.stderr)
    sweep = _launch(jobs, args)
    if sweep is None:
        return 0
    nets = list(dict.fromkeys(cfg.model.name for _, cfg in jobs))
    title = ", ".join(nets) if len(nets) <= 6 else f"{len(nets)} nets"
    datasets = " ".join(dict.fromkeys(cfg.dataset.name for _, cfg in jobs))
    _show_sweep(sweep, title=title, stem=slug(f"{title} {datasets} {_digest(jobs)}"))
    return _sweep_exit_code(sweep)


def _digest(jobs: "Jobs") -> str:
    return hashlib.sha256(" ".join(sorted(cfg.run_name for _, cfg in jobs)).encode()).hexdigest()[:6]


def _own_title(title: str, overrides: "list[str]") -> str:
    """A study's title with the settings that make other runs of it."""
    changed = [word for word in overrides if word.startswith(DECIDING) and not word.startswith(READING)]
    return f"{title} ({' '.join(changed)})" if changed else title


def study(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.studies.alike import is_its_own, is_whole

    study, jobs = config.load_study(args.name, args.overrides, args.config_dir)
    print(study.title, file=sys.stderr)
    sweep = _launch(jobs, args)
    if sweep is None:
        return 0
    title, stem = study.title, study.name
    configs = [dataclasses.asdict(cfg) for _, cfg in jobs]
    if not is_whole(study, configs):
        title, stem = _own_title(title, args.overrides), f"{stem}-{_digest(jobs)}"
    if not all(is_its_own(study, one) for one in configs):
        print("not the study's own runs: figures, verify and report leave them out", file=sys.stderr)
    groups = _show_sweep(sweep, title=title, stem=stem, study=study)
    from resexp.studies.claims import Outcome
    from resexp.studies.verdicts import in_words

    verdicts = show_verdicts(study, groups)
    print(in_words(study, groups, verdicts))
    return _sweep_exit_code(sweep) or int(any(verdict.word == Outcome.FAILS for verdict in verdicts))


def _launch(jobs: "Jobs", args: argparse.Namespace) -> "Sweep | None":
    """Run all jobs where the launcher says; None if they were only submitted, or only shown."""
    from resexp.console import stdout
    from resexp.sweep import slurm
    from resexp.sweep.local import live_table, run_sweep
    from resexp.sweep.plan import plan_sweep

    on_cluster = jobs[0][1].launcher.name == "slurm"
    if args.wait and not (on_cluster or args.status):
        raise UserError("--wait is for launcher=slurm; a local sweep waits anyway")
    if args.status:
        sweep = plan_sweep(jobs)
        slurm.refresh(sweep)
    elif not on_cluster:
        _say_how_long(jobs)
        return run_sweep(jobs, config_dir=args.config_dir)
    else:
        sweep = slurm.submit_sweep(jobs, config_dir=args.config_dir)
    if args.wait:
        slurm.wait_for(sweep)
        return sweep
    stdout().print(live_table(sweep))
    return None


def _say_how_long(jobs: "Jobs") -> None:
    """Before a sweep of hours: how many, from a measurement of its smallest net now; and how many in bf16.

    Not within a time box, which the measurement would only shorten.
    """
    from resexp.console import count, message
    from resexp.run.progress import duration
    from resexp.sweep.estimate import is_long, seconds_left
    from resexp.sweep.plan import plan_sweep

    todo = plan_sweep(jobs).unfinished
    if not todo or jobs[0][1].max_minutes is not None or not is_long(todo):
        return
    from resexp.bench.measure import measure_together
    from resexp.runtime import multiplies, set_up_device

    cfg = min(todo, key=lambda job: job.cfg.model.depth).cfg
    measured = measure_together(cfg, 1, MEASURED_STEPS)
    if "failed" in measured:
        message(f"how long it takes is unknown: {cfg.model.name} could not be measured: {measured['failed']}")
        return
    rate = measured["images_per_s"]
    seconds = seconds_left(todo, (cfg, rate))
    if seconds is None:
        message("how long it takes is unknown: not every net can be built, as its run will say")
        return
    left = sum(seconds)
    message(
        f"about {duration(left)} of training for {count(len(todo), 'run')} one after another, by {cfg.model.name}'s "
        f"{rate:,.0f} images/s here now; you can stop it, and the same command resumes"
    )
    if cfg.protocol.precision == "fp32" and multiplies("bf16", set_up_device(cfg)):
        half = dataclasses.replace(cfg, protocol=dataclasses.replace(cfg.protocol, precision="bf16"))
        faster = measure_together(half, 1, MEASURED_STEPS).get("images_per_s")
        if faster:
            message(f"in bf16 about {duration(left * rate / faster)}: protocol.precision=bf16, which are other runs")


def _show_sweep(sweep: "Sweep", *, title: str, stem: str, study: "Study | None" = None) -> "list[Group]":
    """Figure, table, and what is left. Returns the groups of runs."""
    from resexp.console import count
    from resexp.run.progress import duration
    from resexp.run.reader import CONFIG
    from resexp.studies.groups import group_runs
    from resexp.sweep.estimate import seconds_left, seconds_together

    output_dir = Path(sweep.jobs[0].cfg.output_dir)
    groups = group_runs([job.run for job in sweep.jobs if (job.cfg.run_dir / CONFIG).is_file()])
    if groups:
        draw(groups, output_dir / "figures" / stem, title=title, note="Own runs.", study=study)
    for job in sweep.failed:
        print(f"{job.name}: {job.message}; see {_log_of(job)}", file=sys.stderr)
    if sweep.unfinished:
        left = seconds_left(sweep.jobs)
        together = f"about {duration(seconds_together(left, sweep.workers))} at the measured speed" if left else ""
        steps = sum(job.cfg.protocol.steps - job.run.step for job in sweep.unfinished)
        print(
            f"left: {len(sweep.unfinished)} of {count(len(sweep.jobs), 'run')}, {count(steps, 'step')}, "
            f"{together or 'speed unknown'}; the same command resumes",
            file=sys.stderr,
        )
    return groups


def _log_of(job: "Job") -> Path:
    """What the job printed; submitit's folder, if it ended before resexp began."""
    own = job.cfg.run_dir / "log.txt"
    return own if own.is_file() or job.cfg.launcher.name == "local" else Path(job.cfg.output_dir) / "slurm"


def _sweep_exit_code(sweep: "Sweep") -> int:
    if sweep.stopped_by is not None:
        return 128 + sweep.stopped_by
    return 1 if sweep.failed else 0
