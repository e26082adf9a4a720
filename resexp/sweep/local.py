"""Many runs side by side, each in a process of its own: skip the finished, resume the partial, survive the failing."""

import contextlib
import functools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live

from resexp import UserError, system
from resexp.config import Config
from resexp.console import FittedTable, count, message, tally
from resexp.run.lock import is_held
from resexp.run.progress import duration
from resexp.run.reader import DONE, Status
from resexp.sweep.plan import Job, JobState, Sweep, available_bytes, plan_sweep

LOG = "log.txt"  # what a run's process printed
POLL_SECONDS = 0.2
REPORT_SECONDS = 15.0  # between plain lines where there is no terminal
TABLE_FRAME = 6  # lines of the live table besides its rows
GPU_WORKERS = 4  # runs on one GPU: a small net leaves most of it idle
STOPPING = system.signal_numbers("SIGINT", "SIGTERM", "SIGHUP")
START_SECONDS = 5.0  # with less than this left of max_minutes a run is not started: it would only load


def run_sweep(jobs: Sequence[tuple[list[str], Config]], *, config_dir: Path | None = None) -> Sweep:
    """Run all jobs and return what became of them. The settings of the sweep itself are those of its first job.

    Every job's process is ``resexp train`` with the job's overrides, as a user would type it. SIGINT, SIGTERM and
    SIGHUP are passed on, so that every running job saves; ``max_minutes`` ends the sweep, its jobs with checkpoints.
    """
    cfg = jobs[0][1]
    sweep = plan_sweep(jobs)
    todo = [job for job in sweep.jobs if job.outcome == JobState.WAITING]
    cores = system.cores()
    device = (system.gpu() or "cpu") if cfg.device == "auto" else cfg.device
    sweep.workers = max(1, min(cfg.workers or choose_workers(device, cores), len(todo)))
    sweep.memory = available_bytes(device)
    done = tally([f"already {job.outcome}" for job in sweep.jobs if job.outcome != JobState.WAITING])
    message(f"{count(len(sweep.jobs), 'run')}{f', {done}' if done else ''}; {sweep.workers} side by side")

    extra = ["--config-dir", str(config_dir)] if config_dir else []
    start = functools.partial(_start, extra=extra, threads=max(1, cores // sweep.workers))
    deadline = time.monotonic() + cfg.max_minutes * 60 if cfg.max_minutes else math.inf
    began = time.monotonic()
    with _signals_passed_on(sweep), _shown(sweep) as show:
        try:
            _run(sweep, start, deadline, show)
        finally:
            _leave_no_process(sweep.jobs)
    ended = [job for job in todo if job.seconds]
    if len(ended) > 1:
        took, alone = time.monotonic() - began, sum(job.seconds for job in ended)
        message(
            f"{len(ended)} runs in {duration(took)}; their own times add up to {duration(alone)}: "
            f"{alone / took:.2f} at once"
        )
    return sweep


def _run(sweep: Sweep, start: Callable[..., None], deadline: float, show: Callable[[list[Job]], None]) -> None:
    """Start jobs as places become free, until all have ended or the sweep is stopped.

    Raises UserError if none can start, all for the same reason: no images, say, or no GPU.
    """
    pending = (JobState.WAITING, JobState.RUNNING, JobState.ELSEWHERE)
    while any(job.outcome in pending for job in sweep.jobs):
        running = [job for job in sweep.jobs if job.outcome == JobState.RUNNING]
        left = deadline - time.monotonic()
        closing = sweep.stopped_by is not None or left < START_SECONDS
        if closing and not running:
            break
        if not closing and (fitting := sweep.next_job()):
            if is_held(fitting.cfg.run_dir):
                _leave_to_others(fitting)
            else:
                start(fitting, minutes=left / 60)
            continue
        time.sleep(POLL_SECONDS)
        for job in sweep.jobs:
            if job.outcome == JobState.ELSEWHERE and not is_held(job.cfg.run_dir):
                _take_back(job)
        for job in running:
            _announce(job)
            _collect(job, stopped=sweep.stopped_by is not None)
        if refusal := sweep.common_refusal:
            raise UserError(refusal)
        for job in sweep.jobs:
            if job.refusal and not job.told and not sweep.refused_alike:
                _tell(job)
        show(running)


@contextlib.contextmanager
def _shown(sweep: Sweep) -> Iterator[Callable[[list[Job]], None]]:
    """How far the jobs are: a live table in a terminal, else a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal and sweep.unfinished:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield lambda _: live.update(live_table(sweep, most=max(1, console.height - TABLE_FRAME)))
        return
    reported = time.monotonic()

    def report(running: list[Job]) -> None:
        nonlocal reported
        if running and time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            message("running: " + ", ".join(f"{job.name} {job.run.step}/{job.cfg.protocol.steps}" for job in running))

    yield report


@contextlib.contextmanager
def _signals_passed_on(sweep: Sweep) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP reach the running jobs, which save, and end the sweep."""

    def forward(number: int, _frame: FrameType | None) -> None:
        sweep.stopped_by = number
        running = [job.process for job in sweep.jobs if job.process and job.process.poll() is None]
        message("stopping" + ": the running nets save their checkpoints" * bool(running))
        for process in running:
            system.ask_to_stop(process, number)

    left_alone = getattr(signal, "SIGHUP", None) if system.is_ignored("SIGHUP") else None  # nohup
    before = {number: signal.signal(number, forward) for number in STOPPING if number != left_alone}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_no_process(jobs: Sequence[Job]) -> None:
    """A process is still there only after an error of our own."""
    for job in jobs:
        if job.process and job.process.poll() is None:
            job.process.terminate()
            job.process.wait()
        if job.log:
            job.log.close()


def choose_workers(device: str, cores: int) -> int:
    """One run per core on the CPU, where small nets gain little from threads; a few per GPU, each with a core."""
    return min(GPU_WORKERS, cores) if device.startswith(("cuda", "mps")) else cores


def _start(job: Job, *, extra: Sequence[str], threads: int, minutes: float) -> None:
    run_dir = job.cfg.run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        job.log = (run_dir / LOG).open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write into {run_dir}: {error.strerror}; set output_dir= to a writable folder"
        ) from None
    overrides = [*job.overrides, *([f"max_minutes={minutes:.4f}"] if minutes < math.inf else [])]
    job.process = subprocess.Popen(
        [sys.executable, "-m", "resexp", "train", *extra, *overrides],
        stdin=subprocess.DEVNULL,
        stdout=job.log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), system.PARENT: str(os.getpid())},
        **system.own_group(),
    )
    job.outcome, job.began = JobState.RUNNING, time.monotonic()


def _leave_to_others(job: Job) -> None:
    job.outcome = JobState.ELSEWHERE
    message(f"{job.name}: another process trains it; waiting for that one")


def _take_back(job: Job) -> None:
    """The other process has ended: the run has a result, or goes on here."""
    status = job.run.status_to_train
    job.outcome = JobState(status) if status in DONE else JobState.WAITING
    if status in DONE:
        message(f"{job.name}: {status} by the other process")


def _announce(job: Job) -> None:
    """Say where the job's process starts, once it has written its environment."""
    if job.announced or job.process is None:
        return
    try:
        env = job.run.env
    except UserError:  # damaged, and about to be written again by the job
        return
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
    if job.log:  # a sweep of a thousand runs must not keep a thousand files open
        job.log.close()
    if code == 2 and is_held(job.cfg.run_dir):  # another process was quicker
        _leave_to_others(job)
        return
    job.seconds = time.monotonic() - job.began
    status = job.run.status_to_train
    if status == Status.FINISHED:  # whatever killed its process after that
        job.outcome = JobState.FINISHED
    elif status == Status.INTERRUPTED and code in (0, *(128 + number for number in STOPPING)):
        job.outcome = JobState.INTERRUPTED
    elif stopped and code in (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT):
        job.outcome, job.message = JobState.INTERRUPTED, "before its first step"
    elif status == Status.DIVERGED and code == 1:
        job.outcome, job.message = JobState.DIVERGED, f"diverged at step {job.run.step}"
    else:
        job.outcome = JobState.FAILED
        lines = (job.cfg.run_dir / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no message"
        job.message = f"killed by signal {-code}" if code < 0 else f"exit code {code}: {last}"
        if code == 2:  # all the others may do the same, and then it is told once
            job.refusal = last.removeprefix("resexp: error: ")
            return
    _tell(job)


def _tell(job: Job) -> None:
    """How a job has ended."""
    job.told = True
    summary = job.run.whole_summary
    numbers = ""
    if job.outcome == JobState.FINISHED:
        numbers = f": train {summary['train_error']:.2f}%, test {summary['test_error']:.2f}%"
    elif summary.get("status") == Status.INTERRUPTED:
        numbers = f" at step {summary['step']}, saved"
    took = duration(job.seconds)
    message(f"{job.name}: {job.outcome}{numbers}{f' ({job.message})' if job.message else ''} in {took}")


def live_table(sweep: Sweep, *, most: int | None = None) -> FittedTable:
    """How far each run is, read from its folder.

    :param most: rows; of more runs those that are neither waiting nor finished come first, and the others are counted.
    """
    jobs, caption = sweep.jobs, None
    if most is not None and len(jobs) > most:
        quiet = [job for job in sweep.jobs if job.outcome in (JobState.WAITING, JobState.FINISHED)]
        jobs = [job for job in sweep.jobs if job.outcome not in (JobState.WAITING, JobState.FINISHED)]
        caption = f"beside {tally([job.outcome for job in (*quiet, *jobs[most:])])}"
        jobs = jobs[:most]
    rows = []
    for job in jobs:
        run = job.run
        last = run.latest if job.outcome != JobState.WAITING else {}
        errors = [f"{last[split]['error']:.2f}" if split in last else "-" for split in ("train", "test")]
        rate = f"{last['train']['images_per_s']:,.0f}" if "train" in last else "-"
        step = max((record["step"] for record in last.values()), default=0)
        rows.append([job.name, job.outcome, f"{step:,}/{job.cfg.protocol.steps:,}", *errors, rate, job.message or "-"])
    columns = ["run", "state", "step", "train error %", "test error %", "images/s", "note"]
    return FittedTable(columns, rows, caption=caption)
