"""All configuration: ``load(overrides) -> Config``. The only package that names hydra or omegaconf."""

from resexp.config.compose import CONF, about, expand, load, load_file, names, protocol_settings, read_yaml
from resexp.config.dataset import DatasetConfig
from resexp.config.keys import (
    check,
    check_choice,
    check_folder,
    completed,
    deciding,
    describe_keys,
    flatten,
    identity,
    setting,
    to_yaml,
)
from resexp.config.launcher import LauncherConfig
from resexp.config.model import ModelConfig
from resexp.config.overrides import GROUPS
from resexp.config.schema import Config, ProtocolConfig
from resexp.config.start import digest_of
from resexp.config.studies import Claim, Gap, Other, Outline, Study, load_study, outline_study, own_runs

__all__ = [
    "CONF",
    "GROUPS",
    "Claim",
    "Config",
    "DatasetConfig",
    "Gap",
    "LauncherConfig",
    "ModelConfig",
    "Other",
    "Outline",
    "ProtocolConfig",
    "Study",
    "about",
    "check",
    "check_choice",
    "check_folder",
    "completed",
    "deciding",
    "describe_keys",
    "digest_of",
    "expand",
    "flatten",
    "identity",
    "load",
    "load_file",
    "load_study",
    "names",
    "outline_study",
    "own_runs",
    "protocol_settings",
    "read_yaml",
    "setting",
    "to_yaml",
]
