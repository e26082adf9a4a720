"""The run folder as the training loop sees it: restore, log, show progress, save, finish. Rank 0 writes."""

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from resexp import RunError, UserError, checkpoint
from resexp.config import Config, digest_of, identity, to_yaml
from resexp.data.dataset import Dataset
from resexp.data.registry import folder_fingerprint
from resexp.meter import Diverged, Window, summary_of
from resexp.models.build import count_macs, count_parameters
from resexp.models.kernels import are_outdated, load_kernels
from resexp.parallel import World, join_world, leave_world, lost_a_process
from resexp.run.env import write_env
from resexp.run.files import CHECKSUMS, crc32_of, write_bytes, write_checked, write_json, write_text
from resexp.run.lock import open_folder
from resexp.run.log import MetricsLog
from resexp.run.progress import ProgressLine
from resexp.run.reader import CHECKPOINT, CONFIG, ENV, METRICS, SUMMARY, Status
from resexp.runtime import choose_threads, device_name, multiplies, peak_memory
from resexp.state import FORMAT, State
from resexp.system import NO_MEMORY, lacks_memory
from resexp.weights import comparable, load_weights

RESULTS = ("test_error", "val_error", "best_val_step", "best_val_error", "best_val_test_error")  # null if not measured
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # a disk that takes no more


class RunFolder:
    """One run on the disk, held by this process.

    Every rank calls every method: each restores its own part; saving collects the parts of all, and rank 0 writes.
    """

    def __init__(self, cfg: Config, path: Path, world: World) -> None:
        self.cfg, self.path, self.world = cfg, path, world
        self.opened = time.perf_counter()
        self.facts: dict[str, Any] = {}  # of net, data and machine, for checkpoint and summary
        self.log_size, self.log_crc32 = 0, None
        self.starts_from = ""  # where fresh weights are not
        self.metrics: MetricsLog | None = None
        self.progress: ProgressLine | None = None

    @property
    def show_seconds(self) -> float:
        """Between two updates of the progress."""
        return self.progress.seconds if self.progress else float("inf")

    def restore(self, state: State, data: Dataset) -> None:
        """Put ``state`` where the checkpoint left it, if there is one, and set the number of CPU threads.

        :raises UserError: for a checkpoint that is damaged or does not belong to this run.
        """
        cfg, path, device = self.cfg, self.path, state.watch.device
        macs = count_macs(state.net, data.image_shape)
        threads = choose_threads(macs * cfg.protocol.batch_size / self.world.size)
        saved = checkpoint.load_matching(path / CHECKPOINT, cfg) or self._resumed()
        self.facts = {"data": data.digest(), "device": device.type, "world_size": self.world.size}
        if saved:
            if saved.get("format") != FORMAT:
                raise UserError(f"{path}: {checkpoint.EARLIER_VERSION}; remove it to start the run again")
            checkpoint.check_data(saved, self.facts["data"], cfg.dataset.name, path)
            if saved["device"] != device.type:
                raise UserError(
                    f"{path}: started on {saved['device']}; resume it there, or start again with another output_dir"
                )
            if saved["world_size"] == self.world.size:
                threads = saved["threads"]
            self.log_size, self.log_crc32 = saved["log_size"], saved.get("log_crc32")
        self.facts |= {"threads": cfg.threads or threads, "macs": macs, "params": count_parameters(state.net)}
        torch.set_num_threads(self.facts["threads"])
        state.watch.started = self.opened
        if saved:
            try:
                state.load_state_dict(saved)
            except (KeyError, RuntimeError, TypeError) as error:
                if lacks_memory(error):
                    raise
                raise UserError(f"{path}: {checkpoint.EARLIER_VERSION}; remove it to start the run again") from None
        elif cfg.init_from:
            self._take_weights(state, Path(cfg.init_from))

    def _resumed(self) -> dict[str, Any] | None:
        """The checkpoint of the run that this one goes on from, and its log; None if it goes on from none."""
        if not self.cfg.resume_from:
            return None
        earlier = Path(self.cfg.resume_from)
        try:
            saved = checkpoint.load(earlier / CHECKPOINT)
            if saved.get("format") != FORMAT:
                raise UserError(f"resume_from={earlier}: {checkpoint.EARLIER_VERSION}; train that run again")
            log = (earlier / METRICS).read_bytes()[: saved["log_size"]]
        except FileNotFoundError as error:
            raise UserError(f"resume_from={earlier}: {error.filename} is gone") from None
        if f"{earlier.name}@{saved['step']}" != self.cfg.resumed_run:
            raise UserError(f"resume_from={earlier}: changed since; it was {self.cfg.resumed_run}")
        if self.world.is_first:
            write_bytes(self.path / METRICS, log)
        self.starts_from = f"the end of {earlier}"
        return saved

    def _take_weights(self, state: State, file: Path) -> None:
        """Start from the weights of a file; a classifier for other classes stays fresh."""
        if digest_of(str(file)) != self.cfg.init_digest:
            raise UserError(f"init_from={file}: changed since this run was named; repeat the command")
        taken = load_weights(state.net, file, key="init_from", new_classes=True)
        fresh = "" if len(taken) == len(comparable(state.net.state_dict())) else ", with a fresh classifier"
        self.starts_from = f"the weights of {file}{fresh}"

    def begin(self, state: State, data: Dataset, *, recorded: bool) -> None:
        """Write settings and environment, open the log, and say what is trained.

        :param recorded: whether the steps are a CUDA graph.
        """
        self.facts["classes"] = len(data.classes)
        if not self.world.is_first:
            return
        cfg, device, threads = self.cfg, state.watch.device, self.facts["threads"]
        write_text(self.path / CONFIG, to_yaml(cfg))
        (self.path / SUMMARY).unlink(missing_ok=True)  # it is written last, when this process ends
        paths = fast_paths(cfg, device, recorded=recorded)
        write_env(
            self.path,
            step=state.step,
            device=device_name(device),
            threads=threads,
            fast_paths=paths,
            world_size=self.world.size,
        )
        self.facts["images"] = folder_fingerprint(cfg.dataset.source, cfg.dataset.root)
        self.metrics = MetricsLog(
            self.path,
            size=self.log_size,
            crc32=self.log_crc32,
            step=state.step,
            tensorboard=cfg.tensorboard,
            wandb=cfg.wandb,
        )
        self.progress = ProgressLine(step=state.step, steps=cfg.protocol.steps)
        for line in self._introduction(state, data, paths):
            self.progress.note(line)

    def _introduction(self, state: State, data: Dataset, paths: list[str]) -> Iterator[str]:
        cfg, p, facts = self.cfg, self.cfg.protocol, self.facts
        threads, device = facts["threads"], device_name(state.watch.device)
        together = f"{self.world.size} processes of " if self.world.size > 1 else ""
        yield str(self.path)
        yield (
            f"{cfg.model.name}, width {cfg.model.width}: {facts['params']:,} parameters, "
            f"{facts['macs'] / 1e6:,.2f} M multiply-adds; {device}, {together}{threads} thread{'s' * (threads > 1)}, "
            f"{p.precision}, {' and '.join(paths) or 'plain torch'}"
        )
        if not multiplies(p.precision, state.watch.device):
            yield (
                f"{p.precision}: this processor has no instructions for it, so that it is slower than fp32; "
                "take protocol.precision=fp32"
            )
        if cfg.fast and state.watch.device.type == "cpu" and are_outdated():
            yield "kernels of another checkout or machine are not used, which is slower; make install builds new ones"
        yield (
            f"{cfg.dataset.name}: {len(data.train):,} training, {len(data.val or ()):,} validation, "
            f"{len(data.test):,} test images; protocol {p.name}: {p.steps:,} steps of {p.batch_size}"
        )
        origin = f" from {self.starts_from}" if self.starts_from else ""
        yield f"{'resuming' if state.step else 'starting'} at step {state.step} of {p.steps}{origin}"

    def log(self, state: State, split: str, loss: float, error: float, rate: float) -> None:
        """One line of the log.

        :param error: in percent.
        :param rate: images/s.
        """
        if self.metrics:
            epoch = state.step * self.cfg.protocol.batch_size / state.counts.size
            self.metrics.write(
                step=state.step,
                epoch=epoch,
                split=split,
                loss=loss,
                error=error,
                lr=state.optimizer.lr,
                images_per_s=rate,
            )

    def show(self, state: State, window: Window) -> None:
        """Update the progress on the terminal."""
        if self.progress:
            rate, test_error = state.watch.rate(), state.results.get("test_error")
            self.progress.show(state.step, loss=window.loss, train_error=window.error, test_error=test_error, rate=rate)

    def save(self, state: State) -> None:
        """Write a checkpoint. Raises Diverged for weights that are not finite, OSError for a full disk."""
        if not all(bool(weight.isfinite().all()) for weight in state.net.parameters()):
            raise Diverged(state.step)
        whole = state.state_dict()
        if self.metrics:
            kept = {key: self.facts[key] for key in ("data", "device", "threads", "world_size")}
            log = {"log_size": self.metrics.size(), "log_crc32": self.metrics.crc32()}
            own = {"identity": identity(self.cfg), **log, **kept}
            checkpoint.save(self.path / CHECKPOINT, {**whole, **own})

    def finish(self, state: State, *, diverged_at: int | None, signal: int | None) -> dict[str, Any]:
        """Write the summary and return it: plain values; errors in percent, None for what was not measured."""
        finished = state.step == self.cfg.protocol.steps
        status = Status.DIVERGED if diverged_at else Status.FINISHED if finished else Status.INTERRUPTED
        measured = summary_of(state.counts, state.watch, state.step, diverged=diverged_at is not None)
        summary = {
            "status": status,
            "step": diverged_at or state.step,
            "train_error": measured["train_error"],
            **{key: state.results.get(key) for key in RESULTS},
            **{key: value for key, value in state.results.items() if key not in RESULTS},
            "warmup_ended_at": state.schedule.warmup_ended_at,
            **{key: self.facts[key] for key in ("classes", "params", "macs")},
            "seconds": measured["seconds"],
            "images_per_s": measured["images_per_s"],
            "peak_memory_bytes": peak_memory(state.watch.device),
            "signal": signal if status == Status.INTERRUPTED else None,
        }
        if self.metrics:
            self.metrics.size()  # on the disk
            summary |= {"images": self.facts["images"], CHECKSUMS: crc32_of(self.path, CONFIG, ENV, METRICS)}
            write_checked(self.path / SUMMARY, summary)
        self.world.barrier()
        return summary

    def close(self) -> None:
        for part in (self.progress, self.metrics):
            if part:
                part.close()


@contextlib.contextmanager
def open_run(cfg: Config, path: Path) -> Iterator[RunFolder]:
    """Join the processes of a run and hold its folder. What can go wrong around a run ends here, in one line.

    :raises UserError: for bad data, a folder that cannot be written, a full disk, or a checkpoint that does not fit.
    :raises RunError: if another process of the run is gone.
    """
    world = join_world(cfg.protocol.batch_size, cfg.protocol.norm_group)
    run = RunFolder(cfg, path, world)
    with open_folder(path) if world.is_first else contextlib.nullcontext():
        try:
            yield run
        except UserError:
            raise
        except BrokenPipeError:  # whoever read our output is gone
            raise
        except OSError as error:
            raise UserError(_disk_error(path, error)) from error
        except Exception as error:
            if world.is_first:
                with contextlib.suppress(OSError):
                    write_json(path / SUMMARY, {"status": Status.FAILED, "error": f"{type(error).__name__}: {error}"})
            if world.size > 1 and lost_a_process(error):
                raise RunError(_lost(path, world, error)) from error
            if lacks_memory(error):
                raise UserError(f"{path}: {NO_MEMORY}") from error
            raise
        finally:
            run.close()
            leave_world()


def _disk_error(path: Path, error: OSError) -> str:
    """One line that says what the disk refused, and what to do."""
    kept = " (the last checkpoint is intact)" if (path / CHECKPOINT).is_file() else ""
    reason = error.strerror or error
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{path}: {reason}; allow more of them, as by ulimit -n 1024, and repeat{kept}"
    if error.errno in NO_ROOM:
        return f"cannot write into {path}: {reason}; make room and repeat{kept}"
    return f"{error.filename or path}: {reason}; check the disk and its permissions, and repeat{kept}"


def _lost(path: Path, world: World, error: Exception) -> str:
    """One line for whoever finds the run ended."""
    kept = "there is no checkpoint yet, so it starts again"
    if (path / CHECKPOINT).is_file():
        step = checkpoint.load(path / CHECKPOINT)["step"]
        kept = f"it resumes from the checkpoint of step {step:,}"
    reason = str(error).splitlines()[0][:120]
    return f"{path}: process {world.rank} of {world.size} lost another one ({reason}); repeat the same command: {kept}"


def fast_paths(cfg: Config, device: torch.device, *, recorded: bool) -> list[str]:
    """The names of the fast paths in use."""
    if not cfg.fast:
        return []
    first = ["recorded step"] if recorded else ["own kernels"] if device.type == "cpu" and load_kernels() else []
    return [*first, "fused update"]
