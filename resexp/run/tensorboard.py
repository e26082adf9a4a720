"""TensorBoard's event files."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from resexp.run.reader import QUANTITIES, Run, is_number


class TensorBoardEvents:
    """TensorBoard's event file, written at once: its own writer's thread would print a traceback on a full disk.

    It begins with the run's settings, for TensorBoard's table of hyper-parameters.

    :param folder: takes the file; it is made if need be.
    :param step: TensorBoard is told to hide what an earlier process wrote past this step.
    """

    def __init__(self, run: Run, folder: Path, *, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event_pb2, self.summary_pb2 = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb")
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(summary=hparams_pb(hyper_parameters(run.config), trial_id=run.path.name))
        if step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=step + 1, session_log=start)

    def write(self, split: str, values: dict[str, float], *, step: int) -> None:
        """``error/test``, ``loss/train`` and so on: one chart a quantity and split, with a curve a run."""
        Value = self.summary_pb2.Summary.Value
        summary = [Value(tag=f"{name}/{split}", simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self.summary_pb2.Summary(value=summary))

    def close(self) -> None:
        self.file.close()

    def _write(self, **content: Any) -> None:
        self.records.write(self.event_pb2.Event(wall_time=time.time(), **content).SerializeToString())
        self.file.flush()


def hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's result, without what its net does not have."""
    groups = ("model", "dataset", "protocol")
    known = {"seed": config["seed"], **{f"{group}.{key}": v for group in groups for key, v in config[group].items()}}
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in known.items()
        if value is not None and key != "dataset.root"
    }


def write_missing_events(run: Run, folder: Path) -> bool:
    """TensorBoard's events from the log of a run, if the folder has none. Returns whether it had none."""
    if any(folder.glob("events.*")):
        return False
    with contextlib.closing(TensorBoardEvents(run, folder, step=0)) as events:
        for record in run.metrics:
            values = {key: record[key] for key in QUANTITIES if is_number(record.get(key))}
            events.write(record["split"], values, step=record["step"])
    return True
