"""Many runs side by side, each in a process of its own: skip the finished, resume the partial, survive the failing."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from resexp import UserError, catalog
from resexp.config import Config
from resexp.console import make_table, message
from resexp.data.registry import READERS
from resexp.memory import available_bytes, needed_bytes
from resexp.runs.progress import duration
from resexp.runs.reader import Run, Status, find_runs

LOG = "log.txt"  # what a run's process printed
POLL_SECONDS = 0.2
REPORT_SECONDS = 15.0  # between plain lines where there is no terminal
GPU_WORKERS = 4  # runs on one GPU: a small net leaves most of it idle
LONG = 2e10  # steps times images, pixels and layers: from here on a sweep says beforehand how long it will take
START_SECONDS = 5.0  # with less than this left of max_minutes a run is not started: it would only load


class JobState(StrEnum):
    """Where one run of a sweep stands."""

    WAITING = "waiting"
    QUEUED = "queued"  # on a cluster
    RUNNING = "running"
    UNKNOWN = "unknown"  # there is no queue to ask
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass
class Job:
    """One run of a sweep."""

    overrides: list[str]
    cfg: Config
    process: subprocess.Popen | None = None
    log: TextIO | None = None
    announced: bool = False
    began: float = 0.0
    seconds: float = 0.0  # of its process here
    outcome: JobState = JobState.WAITING
    message: str = ""
    settings: str = ""  # those in which it differs from the other jobs, besides net and seed

    @property
    def run(self) -> Run:
        """Read again at every call: the run is being written."""
        return Run(self.cfg.run_dir)

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.cfg.model.name, self.settings, f"seed {self.cfg.seed}"]))


@dataclass
class Sweep:
    """The jobs, and the signal that stopped them, if one did."""

    jobs: list[Job]
    workers: int
    memory: int | None = None  # bytes that the runs may need together; None: unknown
    stopped_by: int | None = None

    def next_job(self) -> Job | None:
        """The first waiting job that fits beside the running ones; alone, any does."""
        running = [job for job in self.jobs if job.outcome == JobState.RUNNING]
        waiting = [job for job in self.jobs if job.outcome == JobState.WAITING]
        if len(running) >= self.workers:
            return None
        if not running or self.memory is None:
            return waiting[0] if waiting else None
        left = self.memory - sum(needed_bytes(job.cfg) for job in running)
        return next((job for job in waiting if needed_bytes(job.cfg) <= left), None)

    @property
    def failed(self) -> list[Job]:
        return [job for job in self.jobs if job.outcome in (JobState.FAILED, JobState.DIVERGED)]

    @property
    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs if job.outcome != JobState.FINISHED]


def run_sweep(jobs: Sequence[tuple[list[str], Config]], *, config_dir: Path | None = None) -> Sweep:
    """Run all jobs and return what became of them. The settings of the sweep itself are those of its first job.

    Every job's process is ``resexp train`` with the job's overrides, as a user would type it. SIGINT and SIGTERM are
    passed on, so that every running job saves; ``max_minutes`` ends the sweep, its running jobs with checkpoints.
    """
    cfg = jobs[0][1]
    sweep = plan_sweep(jobs)
    extra = ["--config-dir", str(config_dir)] if config_dir else []
    todo = [job for job in sweep.jobs if job.outcome == JobState.WAITING]
    cores = len(os.sched_getaffinity(0))
    device = "cuda" if cfg.device == "auto" and Path("/dev/nvidia0").exists() else cfg.device
    sweep.workers = max(1, min(cfg.workers or choose_workers(device, cores), len(todo)))
    sweep.memory = available_bytes(device)
    threads = max(1, cores // sweep.workers)
    deadline = time.monotonic() + cfg.max_minutes * 60 if cfg.max_minutes else None
    skipped = f", {len(sweep.jobs) - len(todo)} already finished" if len(todo) < len(sweep.jobs) else ""
    message(f"{len(sweep.jobs)} runs{skipped}; {sweep.workers} side by side")

    console = Console(stderr=True)
    live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal and todo else None
    before = {number: signal.signal(number, _forwarder(sweep)) for number in (signal.SIGINT, signal.SIGTERM)}
    began = reported = time.monotonic()
    if live:
        live.start()
    try:
        while any(job.outcome in (JobState.WAITING, JobState.RUNNING) for job in todo):
            running = [job for job in todo if job.outcome == JobState.RUNNING]
            left = deadline - time.monotonic() if deadline else math.inf
            closing = sweep.stopped_by is not None or left < START_SECONDS
            if closing and not running:
                break
            if not closing and (fitting := sweep.next_job()):
                _start(fitting, extra, threads, left / 60 if deadline else None)
                continue
            time.sleep(POLL_SECONDS)
            for job in running:
                _announce(job)
                _collect(job, stopped=sweep.stopped_by is not None)
            if live:
                live.update(live_table(sweep))
            elif time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                states = (f"{job.name} {job.run.step}/{job.cfg.protocol.steps}" for job in running)
                message("running: " + ", ".join(states))
    finally:
        if live:
            live.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
        for job in todo:  # only after an error of our own: never leave processes behind
            if job.process and job.process.poll() is None:
                job.process.terminate()
                job.process.wait()
            if job.log:
                job.log.close()
    took = time.monotonic() - began
    alone = sum(job.seconds for job in todo)
    if len(todo) > 1:
        message(
            f"{len(todo)} runs in {duration(took)}; their own times add up to {duration(alone)}: "
            f"{alone / took:.2f} at once"
        )
    return sweep


def plan_sweep(jobs: Sequence[tuple[list[str], Config]]) -> Sweep:
    """The jobs with what is known of them before anything starts. Raises UserError for a run of other images."""
    sweep = Sweep([Job(list(overrides), job_cfg) for overrides, job_cfg in jobs], workers=1)
    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs))
    for job in sweep.jobs:
        own = [word for word in job.overrides if word not in shared and word.split("=")[0] not in ("model", "seed")]
        job.settings = " ".join(word.removeprefix("model.") for word in own)
        job.run.refuse_other_root(job.cfg.dataset.source, job.cfg.dataset.root)
        if job.run.status == Status.FINISHED:
            job.outcome, job.message = JobState.FINISHED, "was finished already"
    return sweep


def choose_workers(device: str, cores: int) -> int:
    """One run per core on the CPU, where small nets gain little from threads; a few per GPU, each with a core."""
    return min(GPU_WORKERS, cores) if device.startswith("cuda") else cores


def _forwarder(sweep: Sweep) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        sweep.stopped_by = number
        message("stopping: the running nets save their checkpoints")
        for job in sweep.jobs:
            if job.process and job.process.poll() is None:
                job.process.send_signal(number)

    return forward


def _start(job: Job, extra: Sequence[str], threads: int, minutes: float | None) -> None:
    run_dir = job.cfg.run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        job.log = (run_dir / LOG).open("a")
    except OSError as error:
        raise UserError(
            f"cannot write into {run_dir}: {error.strerror}; set output_dir= to a writable folder"
        ) from None
    overrides = [*job.overrides, *([f"max_minutes={minutes:.4f}"] if minutes else [])]
    job.process = subprocess.Popen(
        [sys.executable, "-m", "resexp", "train", *extra, *overrides],
        stdin=subprocess.DEVNULL,
        stdout=job.log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        process_group=0,  # a terminal's Ctrl-C reaches us alone, and we pass it on once; a new session would be nice 0
    )
    job.outcome, job.began = JobState.RUNNING, time.monotonic()


def _announce(job: Job) -> None:
    """Say where the job's process starts, once it has written its environment."""
    if job.announced or job.process is None:
        return
    env = job.run.env
    latest = (env.get("resumed") or [env])[-1]
    if latest.get("pid") == job.process.pid:
        job.announced = True
        steps, step = job.cfg.protocol.steps, latest.get("step", 0)
        message(f"{job.name}: " + (f"resuming at step {step} of {steps}" if step else f"starting at step 0 of {steps}"))


def _collect(job: Job, *, stopped: bool) -> None:
    """If the job's process has ended, find out how."""
    code = job.process.poll() if job.process else None
    if code is None:
        return
    status = job.run.status
    if status in (Status.FINISHED, Status.INTERRUPTED) and code in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        job.outcome = JobState(status)
    elif stopped and code in (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT):
        job.outcome, job.message = JobState.INTERRUPTED, "before its first step"
    elif status == Status.DIVERGED and code == 1:
        job.outcome, job.message = JobState.DIVERGED, f"diverged at step {job.run.step}"
    else:
        job.outcome = JobState.FAILED
        lines = (job.cfg.run_dir / LOG).read_text().strip().splitlines()
        last = lines[-1] if lines else "no message"
        job.message = f"killed by signal {-code}" if code < 0 else f"exit code {code}: {last}"
    summary = job.run.summary
    numbers = ""
    if job.outcome == JobState.FINISHED:
        numbers = f": train {summary['train_error']:.2f}%, test {summary['test_error']:.2f}%"
    elif summary.get("status") == Status.INTERRUPTED:
        numbers = f" at step {summary['step']}, saved"
    job.seconds = time.monotonic() - job.began
    took = duration(job.seconds)
    message(f"{job.name}: {job.outcome}{numbers}{f' ({job.message})' if job.message else ''} in {took}")


def live_table(sweep: Sweep) -> Table:
    """How far each run is, read from its folder."""
    rows = []
    for job in sweep.jobs:
        run = job.run
        records = run.metrics if job.outcome != JobState.WAITING else []
        last = {record["split"]: record for record in records}
        errors = [f"{last[split]['error']:.2f}" if split in last else "-" for split in ("train", "test")]
        rate = f"{last['train']['images_per_s']:,.0f}" if "train" in last else "-"
        step = max((record["step"] for record in records), default=0)
        rows.append([job.name, job.outcome, f"{step:,}/{job.cfg.protocol.steps:,}", *errors, rate, job.message])
    columns = ["run", "state", "step", "train error %", "test error %", "images/s", "note"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return make_table(columns, rows)


def is_long(jobs: Sequence[Job]) -> bool:
    """Whether what is left takes hours rather than minutes on a few cores: by steps, images, pixels and layers."""
    left = (job for job in jobs if job.outcome != JobState.FINISHED)
    return (
        sum(
            (job.cfg.protocol.steps - job.run.step)
            * job.cfg.protocol.batch_size
            * job.cfg.model.depth
            * (job.cfg.dataset.image_size or READERS[job.cfg.dataset.source].side) ** 2
            for job in left
        )
        > LONG
    )


def estimate_left(jobs: Sequence[Job], now: Mapping[str, float] | None = None) -> float | None:
    """Seconds of one worker that the unfinished jobs still need; None if nothing alike was measured.

    The speed of a net is that of its runs in this folder on such images; a net without any is scaled from the measured
    net nearest in size by their multiply-adds.

    :param now: images/s of nets just measured on the first job's images; it takes the place of the folder's.
    """
    macs = {net.name: net.macs for net in catalog.NAMED}
    measured: dict[tuple, dict[str, float]] = {}
    if now:
        measured[_cost_key(dataclasses.asdict(jobs[0].cfg))] = dict(now)
    for run in () if now else find_runs(jobs[0].cfg.run_dir.parent):
        if run.images_per_s:
            measured.setdefault(_cost_key(run.config), {})[catalog.net_name(run.config["model"])] = run.images_per_s
    total = 0.0
    for job in jobs:
        if job.outcome == JobState.FINISHED:
            continue
        rates = measured.get(_cost_key(dataclasses.asdict(job.cfg)), {})
        name = job.cfg.model.name
        if name not in rates:
            known = [other for other in rates if other in macs and name in macs]
            if not known:
                return None
            nearest = min(known, key=lambda other: abs(macs[other] - macs[name]))
            rates[name] = rates[nearest] * macs[nearest] / macs[name]
        total += (job.cfg.protocol.steps - job.run.step) * job.cfg.protocol.batch_size / rates[name]
    return total


def _cost_key(config: dict[str, Any]) -> tuple:
    """What images/s depend on besides the net."""
    dataset, protocol = config["dataset"], config["protocol"]
    return (
        dataset["name"],
        dataset["image_size"],
        protocol["batch_size"],
        protocol["precision"],
        config["model"]["width"],
    )
