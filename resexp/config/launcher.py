"""The settings of where a sweep's runs run."""

from dataclasses import dataclass

from resexp.config.keys import check, check_choice, setting


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """Where the runs of a sweep run. All but ``name`` is for SLURM."""

    name: str = setting("local", doc="local: side by side here; slurm: as jobs of a cluster")
    partition: str | None = setting(None, doc="slurm: null: the cluster's default")
    hours: float = setting(24.0, doc="slurm: time limit of a job; one that reaches it saves, requeues and resumes")
    nodes: int = setting(1, doc="slurm: machines of a run")
    gpus: int = setting(0, doc="slurm: GPUs of a machine")
    processes: int = setting(1, doc="slurm: processes of a run on each machine, usually one per GPU")
    cpus: int | None = setting(None, doc="slurm: cores of a process")
    memory_gb: float | None = setting(None, doc="slurm: of a machine")
    save_seconds: int = setting(90, doc="slurm: how long before the time limit a run is told to save")
    options: dict[str, str] = setting({}, doc="slurm: further options of sbatch, as in {account: me}")

    def __post_init__(self) -> None:
        check_choice("launcher.name", self.name, ("local", "slurm"))
        for key in ("nodes", "processes", "cpus", "save_seconds"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"launcher.{key}", value, "must be at least 1")
        check(self.hours > 0, "launcher.hours", self.hours, "must be above 0")
        check(self.gpus >= 0, "launcher.gpus", self.gpus, "must be at least 0")
        check(self.memory_gb is None or self.memory_gb > 0, "launcher.memory_gb", self.memory_gb, "must be above 0")
