"""A sweep as jobs of a SLURM cluster, through submitit. The queue is SLURM's, the results are in run folders."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from resexp import UserError, did_you_mean
from resexp.config import Config, LauncherConfig
from resexp.console import count, message
from resexp.run.files import write_json
from resexp.run.lock import is_held
from resexp.run.reader import Status
from resexp.sweep.local import LOG, live_table
from resexp.sweep.plan import Job, JobState, Sweep, plan_sweep

JOB = "slurm.json"  # in a run's folder: the job that was last submitted for it
ACTIVE = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "SUSPENDED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
}
POLL_SECONDS = 5.0
TIMEOUTS = 1000  # how often a job may reach its time limit and resume
FIRST_PORT, PORTS = 20_000, 20_000  # the processes of one job meet at a port that its number gives


class TrainJob:
    """What a job does: ``resexp train`` in a process of its own, told to save when SLURM says that time is up.

    submitit calls it in each task of the job, and ``checkpoint`` on SLURM's warning, before it requeues the job.
    """

    def __init__(self, words: Sequence[str], run_dir: Path, folder: Path) -> None:
        self.words, self.run_dir, self.folder = list(words), run_dir, folder
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / LOG).open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "resexp", "train", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **meeting_point()},
            )
            code = self.process.wait()
        if code in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGUSR2):
            return code
        raise RuntimeError(f"exit code {code}: {_last_line(self.run_dir)}")  # SLURM then calls the job failed

    def checkpoint(self) -> Any:
        """Wait until the run has saved, and ask for the same again."""
        from submitit.helpers import DelayedSubmission

        if self.process:
            self.process.send_signal(signal.SIGUSR2)
            # Not Popen.wait: this is a signal's handler, and the call that it interrupts holds Popen's lock.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainJob(self.words, self.run_dir, self.folder))


def meeting_point() -> dict[str, str]:
    """The variables by which the tasks of one job find each other, as torchrun sets them."""
    from submitit import JobEnvironment

    env = JobEnvironment()
    if env.num_tasks == 1:
        return {}
    port = FIRST_PORT + int(env.raw_job_id) % PORTS
    return {
        "RANK": str(env.global_rank),
        "LOCAL_RANK": str(env.local_rank),
        "WORLD_SIZE": str(env.num_tasks),
        "MASTER_ADDR": env.hostnames[0],
        "MASTER_PORT": str(port),
    }


def submit_sweep(jobs: Sequence[tuple[list[str], Config]], *, config_dir: Path | None = None) -> Sweep:
    """Submit every run that is neither finished nor in the queue. Raises UserError if SLURM cannot take them."""
    cfg = jobs[0][1]
    launcher = cfg.launcher
    check_slurm(launcher)
    import submitit

    sweep = plan_sweep(jobs)
    refresh(sweep)
    if unknown := [job for job in sweep.jobs if job.outcome == JobState.UNKNOWN]:
        what = f"{count(len(unknown), 'run')} submitted before may still be in the queue, and squeue does not answer"
        raise UserError(f"launcher=slurm: {what}; repeat the command when it does")
    todo = [job for job in sweep.unfinished if job.outcome not in (JobState.QUEUED, JobState.RUNNING)]
    folder = Path(cfg.output_dir).resolve() / "slurm"
    extra = ["--config-dir", str(config_dir.resolve())] if config_dir else []
    if todo:
        try:  # first, so that the number of every job that is submitted has its place
            for path in (folder, *(job.cfg.run_dir for job in todo)):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            where = f"cannot write into {cfg.output_dir}: {error.strerror}"
            raise UserError(f"{where}; nothing was started; set output_dir= to a writable folder") from None
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
            executor.update_parameters(**parameters(launcher, cfg.workers or len(todo)))
            with executor.batch():
                submitted = [
                    executor.submit(TrainJob([*extra, *_own_words(job)], job.cfg.run_dir.resolve(), Path.cwd()))
                    for job in todo
                ]
        except (OSError, subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"launcher=slurm: SLURM refused the jobs ({reason}); nothing was started") from None
        for job, ticket in zip(todo, submitted, strict=True):
            write_json(job.cfg.run_dir / JOB, {"job": ticket.job_id, "time": time.time()})
    kept = len(sweep.jobs) - len(todo)
    message(f"{count(len(sweep.jobs), 'run')}: {len(todo)} submitted, {kept} finished or in the queue already")
    refresh(sweep)
    return sweep


def _own_words(job: Job) -> list[str]:
    """A job's overrides without the launcher's, which are the sweep's."""
    return [word for word in job.overrides if not word.startswith("launcher")]


def parameters(launcher: LauncherConfig, at_once: int) -> dict[str, Any]:
    """submitit's words for the settings; those left open are the cluster's defaults."""
    wanted = {
        "name": "resexp",
        "timeout_min": max(1, round(launcher.hours * 60)),
        "nodes": launcher.nodes,
        "tasks_per_node": launcher.processes,
        "cpus_per_task": launcher.cpus,
        "gpus_per_node": launcher.gpus or None,
        "mem_gb": launcher.memory_gb,
        "slurm_partition": launcher.partition,
        "slurm_array_parallelism": at_once,
        "slurm_signal_delay_s": launcher.save_seconds,
        "slurm_additional_parameters": {"requeue": True, **launcher.options},
    }
    return {key: value for key, value in wanted.items() if value is not None}


def check_slurm(launcher: LauncherConfig) -> None:
    """Raise UserError if submitit or SLURM is missing, does not answer, or has no such partition."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError("launcher=slurm: submitit is not installed; pip install 'resexp[slurm]'") from None
    if not shutil.which("sbatch"):
        raise UserError(
            "launcher=slurm: no sbatch on this machine; go to one of the cluster's, or start a SLURM to "
            "try: scripts/local_slurm.sh start DIR"
        )
    answer = _ask("sinfo", "--noheader", "--format=%R")
    if answer is None:
        raise UserError(
            "launcher=slurm: SLURM does not answer; is slurmctld running, and SLURM_CONF set? (sinfo asks the same)"
        )
    partitions = sorted(set(answer.split()))
    if launcher.partition is not None and launcher.partition not in partitions:
        raise UserError(
            f"launcher.partition={launcher.partition}: no such partition; "
            f"{did_you_mean(launcher.partition, partitions)}"
        )


def _ask(*words: str) -> str | None:
    """What a SLURM command prints; None if there is no answer."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def queue_states() -> dict[str, str] | None:
    """SLURM's word for each job of this user that it still knows; None where there is no SLURM to ask."""
    if not shutil.which("squeue"):
        return None
    answer = _ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T")
    return None if answer is None else dict(line.split(maxsplit=1) for line in answer.splitlines())


def refresh(sweep: Sweep) -> None:
    """Read what became of each run: from its folder, and from SLURM's queue where there is one to ask."""
    states = queue_states()
    for job in sweep.jobs:
        run = job.run
        status = run.status_to_train
        number = _job_number(job.cfg.run_dir)
        state = (states or {}).get(number or "", "")
        job.message = f"job {number}" if number else ""
        if status == Status.FINISHED:
            job.outcome = JobState.FINISHED
        elif state in ACTIVE:
            job.outcome = JobState.RUNNING if state in ("RUNNING", "COMPLETING") else JobState.QUEUED
            job.message += f", {state.lower()}"
        elif status in (Status.DIVERGED, Status.FAILED, Status.INTERRUPTED):
            job.outcome = JobState(status)
            if status == Status.DIVERGED:
                job.message = f"diverged at step {run.step}"
        elif is_held(job.cfg.run_dir):
            job.outcome = JobState.RUNNING
        elif number is None and status == Status.PARTIAL:
            job.outcome = JobState.INTERRUPTED
            job.message = f"killed, saved before step {run.step}" if run.step else "killed"
        elif number is None:
            job.outcome = JobState.WAITING
        elif states is None:
            job.outcome = JobState.UNKNOWN  # no queue to ask: it may run elsewhere
        else:
            job.outcome = JobState.FAILED
            job.message += f" is gone ({state.lower() or 'not in the queue'}): {_last_line(job.cfg.run_dir)}"


def wait_for(sweep: Sweep) -> None:
    """Show the table until no job is in the queue. Ctrl-C leaves the jobs as they are.

    A queue that does not answer, as a busy one may, is asked again.
    """
    going_on = {JobState.QUEUED, JobState.RUNNING} | ({JobState.UNKNOWN} if shutil.which("squeue") else set())
    console = Console(stderr=True)
    seen: dict[str, str] = {}
    with Live(console=console, transient=True) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            refresh(sweep)
            if live:
                live.update(live_table(sweep))
            for job in sweep.jobs:
                if seen.get(job.name) != job.outcome:
                    seen[job.name] = job.outcome
                    message(f"{job.name}: {job.outcome}{f' ({job.message})' if job.message else ''}")
            if all(job.outcome not in going_on for job in sweep.jobs):
                return
            time.sleep(POLL_SECONDS)


def _job_number(run_dir: Path) -> str | None:
    try:
        return json.loads((run_dir / JOB).read_text(encoding="utf-8"))["job"]
    except (OSError, ValueError, KeyError):
        return None


def _last_line(run_dir: Path) -> str:
    try:
        lines = (run_dir / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "no message"
