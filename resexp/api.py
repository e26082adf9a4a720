"""The Python interface: what the commands do, as functions and objects.

Everything that is meant to be used from Python is here and in ``resexp`` itself; all other modules are private and may
change. Wrong names and values raise ``UserError``, a ValueError whose one line says what to do.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resexp import UserError, config
from resexp.run import reader
from resexp.run.reader import CONFIG, DONE, find_runs, read_run
from resexp.studies import finding
from resexp.studies.claims import Verdict, judge
from resexp.studies.find import RUNS, StudyRuns, find_study
from resexp.studies.tables import TABLE_COLUMNS, table_rows
from resexp.sweep.plan import run_here

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Finding", "Picture", "Run", "Study", "Verdict", "analyze", "build", "runs", "study", "train"]


@dataclasses.dataclass(frozen=True)
class Run(reader.Run):
    """A run: ``summary``, ``config``, ``env``, and ``curve("test")``, which is (steps, errors in percent)."""

    def net(self) -> "nn.Module":
        """The net with its trained weights, in evaluation mode, on the CPU.

        :raises UserError: without a checkpoint, or where its images, which tell the net's form, are not there any more.
        """
        from resexp.trained import load_trained

        cfg = dataclasses.replace(config.load_file(self.path / CONFIG), device="cpu")
        with _torch_as_it_was():
            return load_trained(self.path, cfg)[1].eval()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that has been written; a notebook shows it."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@dataclasses.dataclass(frozen=True)
class Study:
    """A study and its runs: one's own if they are whole, else those committed with the project."""

    found: StudyRuns
    output_dir: Path

    @property
    def runs(self) -> list[reader.Run]:
        """Those of the project have no nets, only what was logged."""
        return [Run(run.path) if run.path.is_dir() else run for run in self.found.runs]

    def table(self) -> Any:
        """Final errors beside published ones: a pandas DataFrame, or a list of dicts where pandas is not installed."""
        return _frame(TABLE_COLUMNS, table_rows(self.found.groups, self.found.study))

    def verdicts(self) -> list[Verdict]:
        """Each claim with its effect, its interval and the word for it."""
        return judge(self.found.study.claims, self.found.groups)

    def figure(self) -> Picture:
        """The study's figure, drawn into ``output_dir/figures``."""
        from resexp.figures.study import draw_study

        path = self.output_dir / "figures" / self.found.study.name
        kind, title = self.found.study.figure, self.found.study.title
        return Picture(draw_study(self.found.groups, path, kind=kind, title=title, note=self.found.note)[0])


@dataclasses.dataclass(frozen=True)
class Finding:
    """What an analysis found: ``found.rows`` and ``found.panels``, as a table and a figure."""

    found: finding.Finding
    path: Path

    def table(self) -> Any:
        """As ``Study.table``: what was measured, what was expected, and whether it agrees."""
        return _frame(finding.COLUMNS, finding.table(self.found))

    def figure(self) -> Picture:
        """Drawn into ``output_dir/analysis``."""
        from resexp.figures.finding import draw_finding

        return Picture(draw_finding(self.found, self.path)[0])


def build(
    name: str,
    *,
    classes: int = 10,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    seed: int = 0,
    weights: str | Path | None = None,
    **settings: Any,
) -> "nn.Module":
    """A net as a plain module: ``build("resnet56", classes=10)``, ``build("plain20", width=8, shortcut="A")``.

    :param image_shape: (channels, height, width).
    :param weights: a file of weights, in place of fresh ones of ``seed``.
    :param settings: of ``model.``, as ``resexp train --help`` lists them.
    """
    words = [f"model.{key}={'null' if value is None else value}" for key, value in settings.items()]
    cfg = config.load([f"model={name}", *words])
    from resexp.models.build import build_model

    net = build_model(**dataclasses.asdict(cfg.model), image_shape=image_shape, classes=classes, seed=seed)
    if weights is not None:
        from resexp.weights import load_weights

        load_weights(net, Path(weights))
    return net


def train(*overrides: str) -> Run:
    """Train one net as ``resexp train`` does: ``train("model=plain20", "protocol=smoke")``.

    A run that has finished or diverged is returned as it is, a partial one resumes. Ctrl-C, or a notebook's stop, ends
    it with a checkpoint: its status is then ``interrupted``, and the same call goes on. In a thread there are no
    signals.
    """
    cfg = config.load(overrides)
    if run_here(cfg).status_to_train not in DONE:
        from resexp.run_folder import open_run
        from resexp.runtime import stop_signals
        from resexp.training import train as train_net

        with _torch_as_it_was(), stop_signals() as stop, open_run(cfg, cfg.run_dir) as folder:
            train_net(cfg, folder, stop)
    return Run(cfg.run_dir)


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """A run sets torch's number of threads, its generator, and whether its operations are deterministic.

    The caller's own work goes on with what there was before.
    """
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if torch.are_deterministic_algorithms_enabled() != deterministic:
                torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def runs(output_dir: str | Path = "outputs") -> list[Run]:
    """All runs below ``output_dir/runs``, by name."""
    return [Run(run.path) for run in find_runs(Path(output_dir) / RUNS)]


def study(name: str, *, output_dir: str | Path = "outputs") -> Study:
    """A study that has been run, here or by the project. Raises UserError if there are no runs of it."""
    found = find_study(name, Path(output_dir))
    if found is None:
        raise UserError(f"study {name}: no runs of it under {output_dir}; train them: resexp study {name}")
    return Study(found, Path(output_dir))


def analyze(
    name: str, subjects: Sequence[Run | str | Path], *, output_dir: str | Path = "outputs", **settings: Any
) -> Finding:
    """Measure a mechanism on trained nets: ``analyze("lesion", [run], images=200)``; ``resexp analyze`` lists them.

    :param subjects: runs, or their folders.
    :param settings: of the analysis.
    """
    from resexp.analysis.runner import run_analysis

    folders = [str(one.path if isinstance(one, reader.Run) else one) for one in subjects]
    for folder in folders:
        read_run(Path(folder))
    listed = {key: value if isinstance(value, list | tuple) else [value] for key, value in settings.items()}
    words = [*folders, *(f"{key}={','.join(map(str, values))}" for key, values in listed.items())]
    found = run_analysis(name, words, nets=[], output_dir=Path(output_dir), config_dir=None)
    return Finding(found, Path(output_dir) / "analysis" / name)


def _frame(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    try:
        import pandas
    except ImportError:
        return records
    return pandas.DataFrame(records, columns=list(columns))
