"""Weights & Biases, offline: ``wandb sync RUN/wandb/offline-run-*`` uploads a run later, or never."""

import os
from pathlib import Path

from resexp import UserError
from resexp.run.reader import Run
from resexp.run.tensorboard import hyper_parameters

FOLDER = "wandb"  # in a run folder, made by wandb itself


class WandbRun:
    """A run of the project ``resexp`` under the run's own name. One that resumes goes on under the same identity.

    Offline unless the environment says otherwise: ``WANDB_MODE=online``.
    """

    def __init__(self, run: Run, run_dir: Path) -> None:
        """:raises UserError: without the package, or where it cannot start."""
        try:
            import wandb
        except ImportError:
            raise UserError("wandb=true: wandb is not installed; pip install 'resexp[wandb]', or drop it") from None
        try:
            self.run = wandb.init(
                project="resexp",
                name=run.path.name,
                id=run.path.name,
                resume="allow",
                dir=run_dir,
                config=hyper_parameters(run.config),
                mode=None if "WANDB_MODE" in os.environ else "offline",
                settings=wandb.Settings(console="off", silent=True),  # our own lines are enough
            )
        except (wandb.Error, OSError) as error:
            raise UserError(f"wandb=true: it cannot start ({str(error).splitlines()[0]}); drop it") from None

    def write(self, split: str, values: dict[str, float], *, step: int) -> None:
        """``error/test``, ``loss/train`` and so on, as in TensorBoard."""
        self.run.log({f"{name}/{split}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self.run.finish()
