"""Why it works: each argument of the literature as an experiment on trained nets. One file per analysis."""

import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resexp import UserError, config, did_you_mean
from resexp.catalog import label_of
from resexp.run.env import versions
from resexp.run.reader import CONFIG, Run, read_run
from resexp.studies.find import RUNS, find_study
from resexp.studies.finding import Finding

ANALYSES = {  # the file, and what it measures; its ``analyze`` takes ``nets``, ``runs`` or neither, and its settings
    "responses": "how strongly each layer responds (He et al. 2015, Fig. 7)",
    "gradients": "each layer's gradient through training: batch norm, ReLU or sigmoid, He or naive weights",
    "shattering": "how gradients at different inputs resemble each other, by depth (Balduzzi et al. 2017)",
    "lesion": "the error without single blocks, without k of them, with blocks swapped (Veit et al. 2016)",
    "paths": "path lengths, the gradient of each, and training only short ones (Veit et al. 2016, Sec. 5)",
    "identity": "a deep net made from a trained shallow one, and stacks that fit y = x (He et al. 2015, Sec. 1)",
    "forward": "x_L = x_l + sum F, and the two terms of the gradient (He et al. 2016, Eq. 4 and 5)",
    "relu-collapse": "what ReLU leaves of a spiral in n dimensions (Sandler et al. 2018, Fig. 1)",
    "landscape": "the loss around the weights, along filter-normalised directions (Li et al. 2018)",
    "convergence": "steps to a given training loss at equal depth (He et al. 2015, Sec. 4.1)",
    "ensemble": "nets with stochastic depth or dropout under lesions, and the members that lesions leave, averaged",
    "sparsity": "zeros after each ReLU, and channels that no image activates, in trained nets",
    "remedies": "what nets with and without remedies start with: growth and likeness of gradients, first update",
    "rank": "how alike a fresh transformer's tokens become, with residuals and without (Dong et al. 2021)",
    "recurrent": "gates as a highway in time: an RNN and a GRU that must remember over 50, 100, 200 steps",
}


def run_analysis(
    name: str, words: Sequence[str], *, nets: Sequence[str] = (), output_dir: Path, config_dir: Path | None = None
) -> Finding:
    """One analysis, as the command line asks for it.

    :param words: run folders, or a study; settings of the analysis; or ``weights=FILE`` with the settings of its net,
        and run folders beside it.
    :param nets: of a study only these, by name.
    :raises UserError: for what does not exist or does not fit.
    """
    analyze = load_analysis(name)
    keys = settings_of(analyze)
    own = [word for word in words if word.partition("=")[0] in keys]
    rest = [word for word in words if word not in own]
    weights = [file for word in rest if word.startswith("weights=") for file in _files(word.partition("=")[2])]
    if not weights and (unknown := [word for word in rest if "=" in word and not Path(word).exists()]):
        parse_settings(name, analyze, unknown)  # raises: none of them is one
    settings = parse_settings(name, analyze, own)
    wants = subject_of(analyze)
    if wants is None:
        if rest:
            raise UserError(f"analyze {name} {rest[0]}: it builds its own nets; drop {rest[0]}")
        found = analyze(**settings)
    elif weights:
        if wants == "runs":
            raise UserError(f"analyze {name} weights={weights[0]}: takes run folders")
        from resexp.analysis.subject import read_subject, read_weights, told_apart

        folders = [word for word in rest if Path(word).is_dir()]
        words = [word for word in rest if word not in folders and not word.startswith("weights=")]
        cfgs = _configs_of(name, weights, words, config_dir)
        subjects = [read_weights(cfg, Path(file)) for cfg, file in zip(cfgs, weights, strict=True)]
        subjects += [read_subject(read_run(Path(folder))) for folder in folders]
        found = analyze(told_apart(subjects), **settings)
    else:
        runs = _find_runs(name, rest, nets, output_dir, config_dir, keys)
        if wants == "nets":
            from resexp.analysis.subject import read_subject, told_apart

            found = analyze(told_apart([read_subject(run) for run in runs]), **settings)
        else:
            found = analyze(runs, **settings)
    return dataclasses.replace(found, settings={**settings_of(analyze), **settings}, versions=versions())


def _files(text: str) -> list[str]:
    """The files of ``weights=``: one, or several with commas between."""
    return [text] if Path(text).exists() else text.split(",")


def _configs_of(
    name: str, weights: Sequence[str], words: Sequence[str], config_dir: Path | None
) -> list[config.Config]:
    """The net of each file: of ``model=resnet20,resnet56`` one per file, in their order; other settings are shared."""
    models = [model for word in words if word.startswith("model=") for model in word[6:].split(",")]
    shared = [word for word in words if not word.startswith("model=")]
    if len(weights) > 1 and len(models) != len(weights):
        raise UserError(
            f"analyze {name}: {len(weights)} files of weights and {len(models)} nets; name one net a file, "
            "as in model=resnet20,resnet56"
        )
    nets = [[f"model={model}"] for model in models] or [[]]
    return [config.load([*net, *shared], config_dir) for net in nets]


def _find_runs(
    name: str,
    words: Sequence[str],
    nets: Sequence[str],
    output_dir: Path,
    config_dir: Path | None,
    keys: dict[str, Any],
) -> list[Run]:
    if not words:
        settings = ", ".join(f"{key}={_as_word(value)}" for key, value in keys.items())
        raise UserError(
            f"analyze {name}: of which run? Name run folders, or a study: resexp study mechanisms trains "
            f"nets for all analyses. Settings: {settings}"
        )
    studies, runs = config.names("study", config_dir), []
    for word in words:
        if word in studies and not (Path(word) / CONFIG).is_file():
            found = find_study(word, output_dir, config_dir, only=RUNS)
            if found is None:
                raise UserError(
                    f"analyze {name} {word}: no runs of it under {output_dir}; train them: resexp study {word}"
                )
            runs += found.runs
        else:
            runs.append(read_run(Path(word)))
    if not nets:
        return runs
    known = [label_of(run.config["model"]) for run in runs]
    if unknown := [net for net in nets if net not in known]:
        raise UserError(f"--nets {unknown[0]}: no such run; {did_you_mean(unknown[0], sorted(set(known)))}")
    return [run for net in nets for run, of in zip(runs, known, strict=True) if of == net]


def load_analysis(name: str) -> Callable[..., Finding]:
    """The ``analyze`` of an analysis' file. Raises UserError for an unknown name."""
    if name not in ANALYSES:
        raise UserError(f"analyze {name}: no such analysis; {did_you_mean(name, list(ANALYSES))}")
    return importlib.import_module(f"resexp.analysis.{name.replace('-', '_')}").analyze


def subject_of(analyze: Callable[..., Finding]) -> str | None:
    """What it wants: ``nets`` with weights, ``runs`` with logs, or nothing."""
    return next((name for name in inspect.signature(analyze).parameters if name in ("nets", "runs")), None)


def settings_of(analyze: Callable[..., Finding]) -> dict[str, Any]:
    """Its settings with their defaults."""
    parameters = inspect.signature(analyze).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_settings(name: str, analyze: Callable[..., Finding], words: Sequence[str]) -> dict[str, Any]:
    """``["repeats=5"]`` as keywords, of the type of the defaults. Raises UserError."""
    defaults = settings_of(analyze)
    module = importlib.import_module(analyze.__module__)
    leasts = {"seed": 0, **getattr(module, "LEAST", {})}  # where a file does not say: 1 for counts, above 0 for others
    greatests = getattr(module, "GREATEST", {})
    given: dict[str, Any] = {}
    for word in words:
        key, _, text = word.partition("=")
        if key not in defaults:
            raise UserError(f"analyze {name} {word}: no setting {key}; {did_you_mean(key, list(defaults))}")
        default = defaults[key]
        kind = type(default[0]) if isinstance(default, tuple) else type(default)
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            rule = f"{kind.__name__} expected, as in {key}={_as_word(default)}"
            raise UserError(f"analyze {name} {word}: {rule}") from None
        if not isinstance(default, tuple) and len(values) > 1:
            raise UserError(f"analyze {name} {word}: one value, as in {key}={_as_word(default)}")
        least, greatest = leasts.get(key, 1 if kind is int else 0), greatests.get(key, math.inf)
        if not all(least <= value <= greatest and math.isfinite(value) for value in values):
            raise UserError(f"analyze {name} {word}: must be {_range(least, greatest)}")
        if kind is float and key not in leasts and 0 in values:
            raise UserError(f"analyze {name} {word}: must be above 0")
        given[key] = values if isinstance(default, tuple) else values[0]
    return given


def _range(least: float, greatest: float) -> str:
    return f"at least {least}" if math.isinf(greatest) else f"from {least} to {greatest}"


def _as_word(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
