"""A sweep before anything starts: its jobs, what is known of each, and how much memory it will need. No torch."""

import dataclasses
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from resexp import UserError, catalog, system
from resexp.config import Config, DatasetConfig
from resexp.data.registry import FINGERPRINT, READERS, folder_fingerprint
from resexp.run.reader import Run, Status

PROCESS_BYTES = 600_000_000  # torch itself; on a GPU the context of a process and the libraries' workspaces
SYNTHETIC_BYTES = 13  # per pixel, while random images are made
SPARE = 1.3  # gradients of activations, buffers of the libraries, what an allocator cannot use
WEIGHT_BYTES = 12  # weight, gradient and velocity


class JobState(StrEnum):
    """Where one run of a sweep stands."""

    WAITING = "waiting"
    QUEUED = "queued"  # on a cluster
    RUNNING = "running"
    ELSEWHERE = "elsewhere"  # another process trains it
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
    process: subprocess.Popen[bytes] | None = None
    log: TextIO | None = None
    announced: bool = False
    began: float = 0.0
    seconds: float = 0.0  # of its process here
    outcome: JobState = JobState.WAITING
    message: str = ""
    refusal: str = ""  # the line by which its process refused to start
    told: bool = False  # how it ended
    settings: str = ""  # those in which it differs from the other jobs, besides net and seed

    @property
    def run(self) -> Run:
        """Read again at every call: the run is being written."""
        return Run(self.cfg.run_dir)

    @property
    def is_left(self) -> bool:
        """Whether the same command would go on with it: a run that has diverged would only do so again."""
        return self.outcome not in (JobState.FINISHED, JobState.DIVERGED)

    @property
    def has_come_further(self) -> bool:
        """Whether it is past refusing to start: it trains, here or by another process, or has ended in another way."""
        ended = self.process is not None and self.outcome not in (JobState.WAITING, JobState.RUNNING)
        return self.announced or self.outcome == JobState.ELSEWHERE or (ended and not self.refusal)

    @property
    def images_left(self) -> int:
        """That it still has to train on."""
        return (self.cfg.protocol.steps - self.run.step) * self.cfg.protocol.batch_size

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
        return [job for job in self.jobs if job.is_left]

    @property
    def refused_alike(self) -> list[Job]:
        """The jobs that refused to start, if all did by one line and no other has come further; else none."""
        refused = [job for job in self.jobs if job.refusal]
        further = any(job.has_come_further for job in self.jobs)
        return refused if not further and len({job.refusal for job in refused}) == 1 else []

    @property
    def common_refusal(self) -> str:
        """The line by which two jobs, or the only one, refused to start, if the rest would do so, too; else empty.

        The rest would if it has all settings that those have in common: no images, say, or no GPU.
        """
        refused, rest = self.refused_alike, [job for job in self.unfinished if not job.refusal]
        if not refused or len(refused) < min(2, len(self.unfinished)):
            return ""
        shared = set.intersection(*(set(job.overrides) for job in refused))
        return refused[0].refusal if all(shared <= set(job.overrides) for job in rest) else ""


def plan_sweep(jobs: Sequence[tuple[list[str], Config]]) -> Sweep:
    """The jobs with what is known of them before anything starts. Raises UserError for a run of other images."""
    sweep = Sweep([Job(list(overrides), job_cfg) for overrides, job_cfg in jobs], workers=1)
    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs))
    for job in sweep.jobs:
        own = [word for word in job.overrides if word not in shared and word.split("=")[0] not in ("model", "seed")]
        job.settings = " ".join(word.removeprefix("model.") for word in own)
        refuse_other_images(job.run, job.cfg.dataset)
        status = job.run.status_to_train
        if status == Status.FINISHED:
            job.outcome, job.message = JobState.FINISHED, "was finished already"
        elif status == Status.DIVERGED:
            job.outcome, job.message = JobState.DIVERGED, diverged_before(job.run)
    return sweep


def diverged_before(run: Run) -> str:
    """What to say of a run that has diverged and is asked for again: it would do the same."""
    return f"diverged already, at step {run.step}; try a smaller protocol.lr, or remove the folder to repeat it"


def run_here(cfg: Config) -> Run:
    """The run of a configuration that is trained by this process. Raises UserError if it cannot be, or not any more."""
    if cfg.launcher.name != "local":
        raise UserError(f"launcher={cfg.launcher.name}: train runs here; resexp sweep hands runs to a launcher")
    run = Run(cfg.run_dir)
    refuse_other_images(run, cfg.dataset)
    return run


def refuse_other_images(run: Run, dataset: DatasetConfig) -> None:
    """Raise UserError if the run is finished, and its images came from another folder, or have changed since."""
    if not READERS[dataset.source].named_by_folder or run.status_to_train != Status.FINISHED:
        return
    earlier = run.config["dataset"]["root"]
    if earlier != dataset.root:
        raise UserError(
            f"{run.path}: finished with the images of {earlier}; name those of {dataset.root}: dataset.name=..."
        )
    kept = run.summary.get("images")
    if kept and kept.startswith(FINGERPRINT) and kept != folder_fingerprint(dataset.source, dataset.root):
        raise UserError(
            f"{run.path}: finished with other images than {dataset.root} has now; name these: dataset.name=..., "
            "or remove the run"
        )


def needed_bytes(cfg: Config) -> int:
    """An estimate of a run's peak memory, on the side of caution; a test holds it against measured ones."""
    reader = READERS[cfg.dataset.source]
    side = reader.side_at(cfg.dataset.image_size)
    knobs = catalog.resolve(dataclasses.asdict(cfg.model))
    floats = catalog.FAMILIES[cfg.model.family].floats(knobs, side, cfg.activation_checkpointing)
    element = 4 if cfg.protocol.precision == "fp32" else 2
    needed = SPARE * floats * cfg.protocol.batch_size * element
    pixels = reader.bytes
    if cfg.dataset.source == "synthetic":
        pixels = SYNTHETIC_BYTES * (cfg.dataset.examples or 0) * 3 * side**2
    weights = WEIGHT_BYTES * next((net.parameters for net in catalog.NAMED if net.name == cfg.model.name), 0)
    return round(PROCESS_BYTES + pixels + needed + weights)


def available_bytes(device: str) -> int | None:
    """Free memory of the machine, or of the GPU for ``cuda`` or ``cuda:1``; None if that cannot be asked."""
    try:
        if device.startswith("cuda"):
            asked = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
            index = device.partition(":")[2] or "0"
            answer = subprocess.run([*asked, f"--id={index}"], capture_output=True, text=True, check=True)
            return int(answer.stdout.split()[0]) * 2**20
        return system.available_memory()
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None
