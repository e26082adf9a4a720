"""Whether a finished run is of the images that are in their folder now: its name does not say."""

from resexp import UserError
from resexp.config.schema import DatasetConfig
from resexp.data.registry import READERS, folder_fingerprint
from resexp.run.reader import Run, Status


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
    if kept and kept != folder_fingerprint(dataset.source, dataset.root):
        raise UserError(
            f"{run.path}: finished with other images than {dataset.root} has now; name these: dataset.name=..., "
            "or remove the run"
        )
