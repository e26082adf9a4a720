"""What a run starts from, besides fresh weights: the weights of a file, or the end of another run. No torch."""

import hashlib
from collections.abc import Iterable

from resexp import UserError
from resexp.config.keys import check
from resexp.run.reader import CHECKPOINT, Run, Status, read_run
from resexp.system import expand_home

KEPT = ("seed", "protocol.batch_size", "protocol.val_size", "protocol.optimizer")


def digest_of(file: str) -> str:
    """Of a file's content, which names the run wherever the file lies. Raises UserError if it cannot be read."""
    try:
        with expand_home(file, "init_from").open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"init_from={file}: {error.strerror or error}; name a weights file") from None


def finished_run(folder: str) -> Run:
    """The run that another one goes on from. Raises UserError unless it is finished and has its checkpoint."""
    run = read_run(expand_home(folder, "resume_from"))
    remedy = "; the command that began it resumes it" if run.status == Status.INTERRUPTED else ""
    check(run.status == Status.FINISHED, "resume_from", folder, f"is {run.status}, not finished{remedy}")
    check((run.path / CHECKPOINT).is_file(), "resume_from", folder, f"has no {CHECKPOINT}; repeat the run to make one")
    return run


def name_of(run: Run) -> str:
    """Which run, and how far it went: ``resnet20-...-1f2e3d4c@1280``."""
    return f"{run.path.resolve().name}@{run.step}"


def check_continuation(folder: str, *, files: Iterable[str], keys: Iterable[str]) -> None:
    """Raise UserError for what stays as it was in the run that is gone on from.

    :param files: groups that are chosen, and keys that are left out of them.
    """
    stays = [key for key in keys if key in KEPT or key.partition(".")[0] in ("model", "dataset")]
    for key in (*files, *stays):
        can = "protocol.steps, protocol.lr, protocol.lr_drops and the like can change"
        raise UserError(f"{key}: stays that of resume_from={folder}; drop it ({can})")
