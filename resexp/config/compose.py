"""The files of ``conf/`` and the overrides of the command line become one checked ``Config``. Hydra composes."""

import contextlib
import copy
import functools
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from resexp import UserError, catalog, did_you_mean
from resexp.config.keys import check_folder, describe_keys
from resexp.config.overrides import GROUPS, jobs_of, key_of, near_key, parse, parse_word
from resexp.config.schema import Config
from resexp.config.start import check_continuation, finished_run
from resexp.run.reader import load_yaml

_PACKAGE = Path(__file__).resolve().parent.parent
# Beside the package in a checkout, inside it in an installed wheel.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def load(overrides: Sequence[str] = (), config_dir: Path | None = None) -> Config:
    """Compose and check the configuration of one run. Raises UserError."""
    words = parse(overrides)
    for word in words:
        if word.is_sweep_override():
            raise UserError(f"{word.input_line}: one run takes one value; resexp sweep runs them all")
    job = next(jobs_of(words, both_families=False))
    return compose_config(job, config_dir)


def expand(overrides: Sequence[str], config_dir: Path | None = None) -> list[tuple[list[str], Config]]:
    """All runs of a sweep, each with its own overrides, composed and checked before the first starts. Raises UserError.

    Runs that come out the same are kept once. Without ``model.width`` the data set's ``sweep_width`` is taken.
    """
    words = parse(overrides)
    for word in words:
        if key_of(word) == "resume_from":
            raise UserError(f"{word.input_line}: resexp train goes on from one run; a sweep does not")
    width_given = any(key_of(word) == "model.width" for word in words)
    runs: dict[str, tuple[list[str], Config]] = {}
    for job in jobs_of(words, both_families=True):
        cfg = compose_config(job, config_dir)
        if cfg.dataset.sweep_width and not width_given and cfg.model.family in catalog.NARROWED:
            job.append(f"model.width={cfg.dataset.sweep_width}")
            cfg = compose_config(job, config_dir)
        runs.setdefault(cfg.run_name, (job, cfg))
    return list(runs.values())


def load_file(path: Path) -> Config:
    """The configuration that a run folder keeps. Raises UserError if it is not one, or of another version."""
    with one_line_errors(str(path)):
        kept = load_yaml(path.read_text(encoding="utf-8"))  # OmegaConf's own reader takes a name like 1e3 for a number
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(kept))))


def names(group: str, config_dir: Path | None = None) -> list[str]:
    """The names of a group's files: ``names("dataset")``."""
    folders = [CONF / group, *([config_dir / group] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def find_file(group: str, name: str, config_dir: Path | None) -> Path:
    for folder in (*([config_dir / group] if config_dir else []), CONF / group):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise UserError(f"{group} {name}: no such {group}; {did_you_mean(name, names(group, config_dir))}")


def read_yaml(name: str) -> Any:
    """A YAML file of ``conf/`` as plain Python: ``read_yaml("published")``."""
    return yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))


def about(group: str, name: str, config_dir: Path | None = None) -> str:
    """What a data set or a protocol is, as its file says; "" if it does not say."""
    path = find_file(group, name, config_dir)
    with one_line_errors(str(path)):
        return str(OmegaConf.select(OmegaConf.load(path), "about", default=""))


def protocol_settings(name: str, config_dir: Path | None = None) -> dict[str, Any]:
    """A protocol as its file has it, whatever data sets it suits. Raises UserError."""
    find_file("protocol", name, config_dir)
    with one_line_errors(f"protocol={name}"):
        composed = pickle.loads(_checked_groups((("protocol", name),), (), config_dir))
        return cast(dict[str, Any], OmegaConf.to_container(composed.protocol))


def compose_config(overrides: Sequence[str], config_dir: Path | None) -> Config:
    check_folder(config_dir)
    groups: dict[str, str] = {}
    named: dict[str, Any] = {}  # what the net's name says
    values: dict[str, Any] = {}
    left_out: list[str] = []  # ~key: as if its file did not set it
    for word in map(parse_word, overrides):
        key = key_of(word)
        if word.type == OverrideType.DEL:
            if key in GROUPS:
                raise UserError(f"{word.input_line}: a run needs a {key}; choose another with {key}=")
            left_out.append(key)
        elif key == "model":
            settings = catalog.parse_name(str(word.value()))
            groups["model"] = settings.pop("family")
            named = {f"model.{name}": value for name, value in settings.items()}
        elif key in GROUPS:
            groups[key] = str(word.value())
            if groups[key] not in names(key, config_dir):
                raise UserError(
                    f"{key}={groups[key]}: no such {key}; {did_you_mean(groups[key], names(key, config_dir))}"
                )
        else:
            values[key] = word.value()
    with one_line_errors(" ".join(overrides)):
        if folder := values.get("resume_from"):
            check_continuation(str(folder), files=[*groups, *left_out], keys=list(values))
            composed = _of_run(str(folder))
        else:
            composed = pickle.loads(_checked_groups(tuple(groups.items()), tuple(left_out), config_dir))
        for key, value in (named | values).items():
            OmegaConf.update(composed, key, value)
        return cast(Config, OmegaConf.to_object(composed))


def _of_run(folder: str) -> Any:
    """The settings of a finished run that decide its result, for a run beside it."""
    run = finished_run(folder)
    kept: dict[str, Any] = {key: run.config[key] for key in ("model", "dataset", "protocol", "seed")}
    return OmegaConf.merge(OmegaConf.structured(Config), kept, {"output_dir": str(run.path.resolve().parent.parent)})


@functools.cache  # the runs of a sweep mostly differ in values
def _checked_groups(groups: tuple[tuple[str, str], ...], left_out: tuple[str, ...], config_dir: Path | None) -> bytes:
    """The files of these groups, without the keys left out, in the form of the dataclasses.

    Pickled: a sweep of hundreds of runs takes a copy for each, and a deep copy takes more than twice as long.
    """
    composed = copy.deepcopy(_compose_groups(tuple(f"{k}={v}" for k, v in groups if k != "model"), config_dir))
    OmegaConf.set_struct(composed, False)  # unknown keys were refused already
    for key, name in groups:
        if key == "model":
            composed.model.family = name
    for key in left_out:
        parent, _, last = key.rpartition(".")
        (OmegaConf.select(composed, parent) if parent else composed).pop(last, None)
    return pickle.dumps(OmegaConf.merge(OmegaConf.structured(Config), composed))


@functools.cache  # Hydra takes a tenth of a second
def _compose_groups(choices: tuple[str, ...], config_dir: Path | None) -> DictConfig:
    search = [f"hydra.searchpath=['file://{config_dir.resolve()}']"] if config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*choices, *search])


@contextlib.contextmanager
def one_line_errors(where: str) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into a UserError of one line."""
    try:
        yield
    except ConfigKeyError as error:
        keys = [key for key, _ in describe_keys(Config)]
        raise UserError(f"no key {error.full_key}; {near_key(str(error.full_key), keys)}") from None
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{key}{str(error.msg or error).splitlines()[0]}") from None
    except (HydraException, yaml.YAMLError, TypeError) as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None
