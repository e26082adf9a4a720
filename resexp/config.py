"""All configuration: the dataclasses, and ``load(overrides) -> Config``. The only module that names hydra or omegaconf.

Hydra composes the YAML files of ``conf/`` with the overrides of the command line; the result is converted once into
dataclasses that check themselves. Everything behind this module sees plain Python objects.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from resexp import UserError, catalog, did_you_mean
from resexp.data.registry import READERS

_PACKAGE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it in an installed wheel.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
GROUPS = ("model", "dataset", "protocol", "launcher")


def setting(default: Any = dataclasses.MISSING, *, doc: str, decides: bool = True) -> Any:
    """A field with its explanation. ``decides=False``: it cannot change a run's result, and so not its name either."""
    metadata = {"doc": doc, "decides": decides}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check(ok: bool, key: str, value: object, rule: str) -> None:
    """Raise UserError ``key=value: rule`` unless ``ok``."""
    if not ok:
        raise UserError(f"{key}={'null' if value is None else value}: {rule}")


def check_folder(config_dir: Path | None) -> None:
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    check(value in choices, key, value, did_you_mean(value, choices))


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The net. A knob that is null has the value of the family's paper; only some families have each."""

    family: str = setting(doc="one of resexp models; model=plain56 sets family and depth")
    depth: int = setting(doc="layers with weights: 6n+2 or 9n+2 (CIFAR layout), 18 to 200 (ImageNet layout), ...")
    layout: str = setting("auto", doc="cifar (3 stages), imagenet (4 stages), auto: by the depth")
    width: int | None = setting(None, doc="channels of the first stage; null: the paper's, 16 or 64")
    stem: str = setting("auto", doc="3x3, 7x7 (stride 2 and max pooling), auto: by layout and image size")
    shortcut: str | None = setting(
        None, doc="A: identity, zero-padded; B: projection where the shape changes; C: always; null: A, or B by depth"
    )
    zero_padding: str | None = setting(
        None,
        doc="shortcut A: end: new channels of zeros after the old ones; both: half of them before, as some "
        "published weights need",
    )
    transform: str | None = setting(None, doc="basic, bottleneck, single (one convolution); null: by the depth")
    order: str | None = setting(None, doc="of batch norm and ReLU: " + ", ".join(catalog.CHOICES["order"]))
    connection: str | None = setting(None, doc=", ".join(catalog.CHOICES["connection"]))
    skip_scale: float | None = setting(None, doc="connection=scaled: factor of the shortcut")
    transform_scale: float | None = setting(None, doc="connection=scaled: factor of F")
    gate_bias: float | None = setting(None, doc="gates: their bias at the start")
    skip_dropout: float | None = setting(None, doc="connection=dropout: rate on the shortcut")
    stride_in: str | None = setting(None, doc="1x1, 3x3: the convolution of a bottleneck that has its stride")
    reduction: int | None = setting(None, doc="of a squeeze-and-excitation gate on every transform; null: no gate")
    dropout: float | None = setting(None, doc="rate inside the blocks, or of VGG's classifier")
    survival: float | None = setting(None, doc="stochastic depth: probability that the last block takes part in a step")
    cardinality: int | None = setting(None, doc="ResNeXt: paths of a block")
    group_width: int | None = setting(None, doc="ResNeXt: channels of a path in the first stage")
    form: str | None = setting(None, doc="ResNeXt: grouped, concatenated, summed: the same function")
    variant: str | None = setting(None, doc="VGG: " + ", ".join(catalog.CHOICES["variant"]))
    batch_norm: bool | None = setting(None, doc="VGG: behind every convolution")
    pools: int | None = setting(None, doc="VGG: pooling layers, at most 5; fewer for small images")
    growth: int | None = setting(None, doc="DenseNet: channels that a layer adds")
    compression: float | None = setting(None, doc="DenseNet: share of the channels that a transition keeps")
    heads: int | None = setting(None, doc="transformer: attention heads")
    patch: int | None = setting(None, doc="transformer: pixels along a side of a patch; null: by the image size")
    mlp_ratio: int | None = setting(None, doc="transformer: width of the feed-forward layer over the model's")
    residual: str | None = setting(None, doc="transformer: sub-layers with a residual: both, attention, mlp, none")
    layer_norm: str | None = setting(None, doc="transformer: sub-layers with layer norm: both, attention, mlp, none")
    norm_position: str | None = setting(None, doc="transformer: pre, post")

    def __post_init__(self) -> None:
        check_choice("family", self.family, tuple(catalog.FAMILIES))
        check_choice("model.layout", self.layout, catalog.LAYOUTS)
        check_choice("model.stem", self.stem, catalog.STEMS)
        if self.shortcut is not None and self.family != "plain":
            check_choice("model.shortcut", self.shortcut, catalog.SHORTCUTS)
        for key, value in catalog.resolve(dataclasses.asdict(self)).items():
            setattr(self, key, value)

    @property
    def name(self) -> str:
        return catalog.net_name(dataclasses.asdict(self))

    @property
    def implied(self) -> dict[str, Any]:
        """Settings that name neither a choice nor a change, because family and depth imply them.

        The first four are older than this rule: runs have them in their names.
        """
        full = catalog.resolve({"family": self.family, "depth": self.depth, "layout": self.layout})
        return {
            key: value
            for key, value in full.items()
            if key not in ("family", "depth", "layout", "width", "stem", "shortcut")
        }


def read_wnids(file: str) -> list[str]:
    """The first word of each line. Raises UserError."""
    try:
        lines = Path(file).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.wnid_file={file}: cannot read it ({error}); name a text file of wnids") from None
    wnids = [line.split()[0] for line in lines if line.strip()]
    check(bool(wnids), "dataset.wnid_file", file, "has no wnids; write one a line")
    return wnids


@dataclass(kw_only=True, slots=True)
class DatasetConfig:
    """The data set."""

    name: str = setting(doc="its name in tables and run folders")
    source: str = setting(doc="digits, cifar10, cifar100, imagefolder, synthetic")
    root: str | None = setting(None, doc="folder of the images; null: the variable RESEXP_DATA", decides=False)
    download: bool = setting(False, doc="fetch and verify the official archive if it is missing", decides=False)
    image_size: int | None = setting(
        None, doc="imagefolder: resize the short side, crop the centre; cifar: average to it; synthetic: side"
    )
    examples: int | None = setting(None, doc="synthetic: training images")
    classes: int | None = setting(None, doc="imagenet: only the first so many wnids")
    wnids: list[str] = setting([], doc="imagenet: only these, as in [n01443537,n01629819]")
    wnid_file: str | None = setting(None, doc="imagenet: a file of wnids, one a line, for dataset.wnids", decides=False)
    images_per_class: int | None = setting(None, doc="imagenet: only so many training images of each class")
    pack: str | None = setting(None, doc="imagenet: folder of the packs; null: the cache folder", decides=False)
    pack_gb: float = setting(
        8.0, doc="imagenet: up to this size images are decoded once into a pack; 0: always streamed", decides=False
    )
    workers: int | None = setting(
        None, doc="imagenet: processes that decode streamed images; null: one a core", decides=False
    )
    sweep_width: int | None = setting(None, doc="width of every net in a sweep that sets none", decides=False)

    def __post_init__(self) -> None:
        check_choice("dataset.source", self.source, list(READERS))
        folder = self.root or os.environ.get("RESEXP_DATA")
        if READERS[self.source].named_by_folder and folder:
            beneath = Path(folder).expanduser() / self.name
            named = self.root is None and (beneath / "train").is_dir()  # RESEXP_DATA may hold several data sets
            self.root = str((beneath if named else Path(folder).expanduser()).resolve())
            if self.name == self.source:
                self.name = Path(self.root).name
        if self.wnid_file:
            self.wnids, self.wnid_file = read_wnids(self.wnid_file), None
        used = {"name", "source", "sweep_width", *READERS[self.source].options}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            unset = [] if f.name == "wnids" else f.default
            rule = f"dataset={self.name} does not use it; drop it"
            check(value == unset or f.name in used, f"dataset.{f.name}", value, rule)
        check(self.pack_gb >= 0, "dataset.pack_gb", self.pack_gb, "must be at least 0")
        check(self.workers is None or self.workers >= 0, "dataset.workers", self.workers, "must be at least 0")
        for key in ("image_size", "examples", "classes", "images_per_class"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"dataset.{key}", value, "must be at least 1")
        check("/" not in self.name and bool(self.name), "dataset.name", self.name, "a plain word, please")


VIEWS = ("centre", "ten-crop", "multi-scale")


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """Everything besides net and data that decides the number."""

    name: str = setting(doc="its name in tables and run folders")
    steps: int = setting(doc="optimiser updates of the whole run")
    batch_size: int = setting(doc="images of one step")
    val_size: int = setting(0, doc="images held out of the training set, never trained on")
    lr: float = setting(doc="learning rate")
    lr_drops: list[int] = setting([], doc="steps at which the rate is multiplied by lr_drop_factor, from step 0")
    lr_drop_factor: float = setting(0.1, doc="factor of each drop")
    optimizer: str = setting("sgd", doc="sgd (with momentum), adamw (for transformers)")
    momentum: float = setting(0.9, doc="SGD momentum")
    weight_decay: float = setting(0.0, doc="L2 penalty on all parameters; adamw: decoupled")
    warmup_depth: int | None = setting(None, doc="nets of at least this depth warm up; null: none does")
    warmup_steps: int = setting(0, doc="every net warms up for so many steps; 0: only those of warmup_depth")
    warmup_lr: float = setting(0.01, doc="learning rate of the warm-up")
    warmup_error: float = setting(
        80.0, doc="that of warmup_depth ends when the mean error (%) of warmup_window batches is below this"
    )
    warmup_window: int = setting(100, doc="batches in that mean")
    warmup_limit: int = setting(4000, doc="and after so many steps at the latest")
    normalize: str = setting(
        "pixel-mean",
        doc="pixel-mean: subtract the training images' mean at each pixel; channel: their mean and standard deviation "
        "of each channel; imagenet: torchvision's of ImageNet; none",
    )
    scales: list[int] = setting(
        [],
        doc="imagenet: shorter side of the image before the crop, drawn between these two, for a crop of 224, and in "
        "proportion for others; []: the centre crop",
    )
    colour: float = setting(0.0, doc="imagenet: spread of the shift along the colours' principal components")
    norm_group: int | None = setting(
        None, doc="images whose batch-norm statistics are taken together; null: the whole batch, of all processes"
    )
    plateau_window: int | None = setting(
        None, doc="steps of a window of training error; the rate drops when windows get no better; null: lr_drops alone"
    )
    plateau_points: float = setting(0.3, doc="a window is better that is lower by so many points")
    plateau_patience: int = setting(2, doc="windows in a row that are no better, before a drop")
    plateau_drops: int = setting(2, doc="drops by plateaus, at most")
    final_view: str = setting("centre", doc="imagenet: at the last step test also on ten-crop or multi-scale")
    test_scales: list[int] = setting(
        [224, 256, 384, 480, 640], doc="multi-scale: shorter sides of the whole images, for crops of 224 in training"
    )
    pad: int = setting(0, doc="zero pixels around the image before the random crop; 0: no crop")
    flip: bool = setting(False, doc="mirror half of the images")
    precision: str = setting("fp32", doc="fp32 or bf16 (autocast; weights stay fp32)")
    eval_every: int = setting(doc="steps between evaluations on the validation and test images")
    log_every: int = setting(doc="steps between lines of the training error, the mean since the line before")
    save_seconds: float = setting(60.0, doc="seconds between checkpoints", decides=False)

    def __post_init__(self) -> None:
        def at_least(bound: float, *keys: str) -> None:
            for key in keys:
                check(getattr(self, key) >= bound, f"protocol.{key}", getattr(self, key), f"must be at least {bound}")

        at_least(1, "steps", "eval_every", "log_every", "warmup_window", "warmup_limit")
        at_least(2, "batch_size")  # batch norm has no variance of one image
        at_least(
            0,
            "lr_drop_factor",
            "warmup_error",
            "val_size",
            "momentum",
            "weight_decay",
            "pad",
            "save_seconds",
            "lr",
            "warmup_lr",
            "warmup_steps",
        )
        ordered = all(0 < a < b for a, b in zip([0.5, *self.lr_drops], self.lr_drops, strict=False))
        check(ordered, "protocol.lr_drops", self.lr_drops, "must be growing steps of at least 1")
        at_least(1, "plateau_patience")
        at_least(0, "plateau_points", "plateau_drops", "colour")
        check(
            self.plateau_window is None or self.plateau_window >= 1,
            "protocol.plateau_window",
            self.plateau_window,
            "must be at least 1, or null",
        )
        fits = self.norm_group is None or (self.norm_group >= 2 and self.batch_size % self.norm_group == 0)
        check(
            fits, "protocol.norm_group", self.norm_group, f"must be at least 2 and divide batch_size={self.batch_size}"
        )
        ranged = not self.scales or (len(self.scales) == 2 and 224 <= self.scales[0] <= self.scales[1])
        check(ranged, "protocol.scales", self.scales, "must be two sides of at least 224, as in [256,480], or []")
        check(
            bool(self.test_scales) and min(self.test_scales) >= 1,
            "protocol.test_scales",
            self.test_scales,
            "must be sides of at least 1",
        )
        check_choice("protocol.final_view", self.final_view, VIEWS)
        check_choice("protocol.normalize", self.normalize, ("pixel-mean", "channel", "imagenet", "none"))
        check_choice("protocol.optimizer", self.optimizer, ("sgd", "adamw"))
        check_choice("protocol.precision", self.precision, ("fp32", "bf16"))


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """Where the runs of a sweep run. All but ``name`` is for SLURM."""

    name: str = setting("local", doc="local: side by side here; slurm: as jobs of a cluster")
    partition: str | None = setting(None, doc="slurm: null: the cluster's default")
    hours: float = setting(24.0, doc="slurm: time limit of a job; one that reaches it saves, requeues and goes on")
    nodes: int = setting(1, doc="slurm: machines of a run")
    gpus: int = setting(0, doc="slurm: GPUs of a machine")
    processes: int = setting(1, doc="slurm: processes of a run on each machine, usually one a GPU")
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


@dataclass(kw_only=True, slots=True)
class Config:
    """One run."""

    model: ModelConfig
    dataset: DatasetConfig
    protocol: ProtocolConfig
    launcher: LauncherConfig = field(default_factory=LauncherConfig, metadata={"doc": "", "decides": False})
    seed: int = setting(0, doc="of initialisation, order and augmentation")
    fast: bool = setting(
        True, doc="the fast paths; false: torch's own operations one by one, the same up to rounding", decides=False
    )
    deterministic: bool = setting(False, doc="on a GPU: bit-identical repeats, slower", decides=False)
    device: str = setting("auto", doc="auto, cpu, cuda, cuda:1, ...", decides=False)
    threads: int | None = setting(None, doc="CPU threads; null: one for a tiny net, else all cores", decides=False)
    workers: int | None = setting(None, doc="sweep: runs side by side; null: one a core, four on a GPU", decides=False)
    activation_checkpointing: bool = setting(False, doc="less memory for one more forward pass", decides=False)
    max_minutes: float | None = setting(None, doc="stop cleanly with a checkpoint after this time", decides=False)
    output_dir: str = setting("outputs", doc="holds runs/ and figures/", decides=False)
    tensorboard: bool = setting(True, doc="write TensorBoard events into the run folder", decides=False)

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, "seed", self.seed, "must be from 0 to 4294967295")
        known = self.device in ("auto", "cpu", "cuda") or (
            self.device.startswith("cuda:") and self.device[5:].isdecimal()
        )
        check(known, "device", self.device, "choose from auto, cpu, cuda, cuda:1, ...")
        for key in ("threads", "workers"):
            value = getattr(self, key)
            check(value is None or value >= 1, key, value, "must be at least 1, or null")
        crops = READERS[self.dataset.source].photographs
        for key, unset in (("scales", []), ("colour", 0.0), ("final_view", "centre")):
            value = getattr(self.protocol, key)
            check(
                crops or value == unset,
                f"protocol.{key}",
                value,
                f"needs dataset=imagenet, and this is {self.dataset.name}",
            )
        check(
            not crops or self.protocol.pad == 0,
            "protocol.pad",
            self.protocol.pad,
            "dataset=imagenet crops by protocol.scales; set protocol.pad=0",
        )
        check(self.max_minutes is None or self.max_minutes > 0, "max_minutes", self.max_minutes, "must be above 0")

    @property
    def run_name(self) -> str:
        """``<net>-<dataset>-<protocol>-s<seed>-<hash>``, the hash over all that decides the result."""
        text = json.dumps(identity(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.model.name}-{self.dataset.name}-{self.protocol.name}-s{self.seed}-{digest}"

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / "runs" / self.run_name


METRICS = ("train_error", "val_error", "test_error", "ten_crop_error", "multi_scale_error")


@dataclass(kw_only=True, slots=True)
class Claim:
    """A statement that can be false: ``at_least < metric(net) - metric(minus) < at_most``, in points.

    ``net`` and ``minus`` are nets, and after a net the settings that tell its runs apart: ``resnet110 order=full``.
    Where these leave several settings open, runs of like settings are compared; with ``best`` each side takes the one
    whose mean training error is the lowest, whatever the other takes. ``id`` is what other files call the claim.
    """

    id: str = ""
    text: str
    metric: str
    net: str
    minus: str
    at_least: float | None = None
    at_most: float | None = None
    best: bool = False

    def __post_init__(self) -> None:
        check_choice(
            "claim.metric",
            self.metric,
            ("train_error", "val_error", "test_error", "ten_crop_error", "multi_scale_error"),
        )
        bounded = self.at_least is not None or self.at_most is not None
        check(bounded, "claim.text", self.text, "needs at_least or at_most")


@dataclass(kw_only=True, slots=True)
class Gap:
    """Two nets, as in a claim, whose difference in error is followed over the steps."""

    net: str
    minus: str


@dataclass(kw_only=True, slots=True)
class Other:
    """A published run of another length: who, after how long, and the test error of each net, in percent."""

    source: str
    length: str
    nets: dict[str, str]


@dataclass(kw_only=True, slots=True)
class Study:
    """The runs behind one published figure or table, and its claims.

    ``variants`` are words that belong together, ``model.order=full model.dropout=0.1``: the sweep is run with each.
    ``published`` gives the paper's number for a net, or a net and settings. ``published_on`` says what the paper's nets
    were trained on where the study's are not: then its numbers stand beside none of ours, only its directions do.
    ``reference`` is the folder of its reference runs; empty: that of its name. ``note`` is a caution that is printed
    after the verdicts. ``gaps`` are pairs of nets whose difference is drawn over the steps; ``others`` are published
    runs of other lengths, with their test errors by net, for a table of their own.
    """

    name: str
    title: str
    sweep: list[str]
    variants: list[str] = field(default_factory=list)
    figure: str = "curves"
    published: dict[str, str] = field(default_factory=dict)
    published_on: str = ""
    source: str = ""
    reference: str = ""
    note: str = ""
    gaps: list[Gap] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice("figure", self.figure, ("curves", "curves-depth", "depth", "parameters", "table"))

    @property
    def datasets(self) -> set[str]:
        """The data sets that its own words name."""
        words = [word for line in (*self.sweep, *self.variants) for word in line.split()]
        named = {value for word in words if word.startswith("dataset=") for value in word[8:].split(",")}
        return named or {"digits"}


def identity(settings: Any) -> dict[str, Any]:
    """What decides the result, nested, without what has its default: a key added later changes no run's name."""
    result: dict[str, Any] = {}
    implied = getattr(settings, "implied", {})
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if not f.metadata.get("decides", True):
            continue
        if dataclasses.is_dataclass(value):
            result[f.name] = identity(value)
            continue
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if value != implied.get(f.name, default):
            result[f.name] = value
    return result


def deciding(settings: Any) -> dict[str, Any]:
    """The settings of one group that can decide a result: without paths, workers and the like."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.metadata.get("decides", True)}


def completed(group: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The deciding settings of a group as a run folder keeps them; what an older run did not know has its default."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(group):
        if f.metadata.get("decides", True):
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            found[f.name] = settings.get(f.name, default)
    return found


def load(overrides: Sequence[str] = (), config_dir: Path | None = None) -> Config:
    """Compose and check the configuration of one run. Raises UserError."""
    words = _parse(overrides)
    for word in words:
        if word.is_sweep_override():
            raise UserError(f"{word.input_line}: one run takes one value; resexp sweep runs them all")
    job = next(_jobs(words, both_families=False))
    return _compose(job, config_dir)


def expand(overrides: Sequence[str], config_dir: Path | None = None) -> list[tuple[list[str], Config]]:
    """All runs of a sweep, each with its own overrides, composed and checked before the first starts. Raises UserError.

    Runs that come out the same are kept once. Without ``model.width`` the data set's ``sweep_width`` is taken.
    """
    words = _parse(overrides)
    width_given = any(_key(word) == "model.width" for word in words)
    runs: dict[str, tuple[list[str], Config]] = {}
    for job in _jobs(words, both_families=True):
        cfg = _compose(job, config_dir)
        if cfg.dataset.sweep_width and not width_given and cfg.model.family in catalog.NARROWED:
            job.append(f"model.width={cfg.dataset.sweep_width}")
            cfg = _compose(job, config_dir)
        runs.setdefault(cfg.run_name, (job, cfg))
    return list(runs.values())


def load_study(
    name: str, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> tuple[Study, list[tuple[list[str], Config]]]:
    """A study and its runs; the given overrides take the place of its own for the same keys. Raises UserError."""
    study = _read_study(name, config_dir)
    given = {_key(word) for word in _parse(overrides)}
    net_words = {"model", "depth", "family"}
    replaced = given | (net_words if given & net_words else set())
    runs: dict[str, tuple[list[str], Config]] = {}
    for variant in study.variants or [""]:
        words = [*study.sweep, *variant.split()]
        kept = [word for word in words if _key(_parse([word])[0]) not in replaced]
        for job, cfg in expand([*kept, *overrides], config_dir):
            runs.setdefault(cfg.run_name, (job, cfg))
    return study, list(runs.values())


@dataclass(frozen=True)
class Outline:
    """What a study's file says without composing its runs.

    :param datasets: of its runs; None if only composing tells.
    :param reference: the folder of its reference runs.
    """

    datasets: set[str] | None
    reference: str


def outline_study(name: str, config_dir: Path | None = None) -> Outline:
    """Raises UserError if there is no such study, or if its file is none."""
    study = _read_study(name, config_dir)
    words = [word for line in (*study.sweep, *study.variants) for word in line.split()]
    renamed = config_dir is not None or any(word.startswith("dataset.name=") for word in words)
    unknown = renamed or study.datasets & {name for name, reader in READERS.items() if reader.named_by_folder}
    return Outline(None if unknown else study.datasets, study.reference or name)


def _read_study(name: str, config_dir: Path | None) -> Study:
    path = _find("study", name, config_dir)
    with _one_line_errors(str(path)):
        merged = OmegaConf.merge(OmegaConf.structured(Study), {"name": name}, OmegaConf.load(path))
        return cast(Study, OmegaConf.to_object(merged))


def load_file(path: Path) -> Config:
    """The configuration that a run folder keeps. Raises UserError if it is none, or of another version."""
    with _one_line_errors(str(path)):
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))))


def names(group: str, config_dir: Path | None = None) -> list[str]:
    """The names of a group's files: ``names("dataset")``."""
    folders = [CONF / group, *([config_dir / group] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _find(group: str, name: str, config_dir: Path | None) -> Path:
    for folder in (*([config_dir / group] if config_dir else []), CONF / group):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise UserError(f"{group} {name}: no such {group}; {did_you_mean(name, names(group, config_dir))}")


def read_yaml(name: str) -> Any:
    """A YAML file of ``conf/`` as plain Python: ``read_yaml("published")``."""
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def to_yaml(settings: Any) -> str:
    return yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False)


def flatten(settings: Any) -> dict[str, Any]:
    """Nested settings as one level: ``{"seed": 0, "model.width": 16, ...}``."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{f.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[f.name] = value
    return flat


def first_comment(group: str, name: str, config_dir: Path | None = None) -> str:
    """The first sentence of a file's opening comment: its description in the lists."""
    lines = _find(group, name, config_dir).read_text().splitlines()
    comment = " ".join(
        line.removeprefix("#").strip() for line in itertools.takewhile(lambda x: x.startswith("#"), lines)
    )
    return re.split(r"(?<=[a-z0-9)])[.:] (?=[A-Z0-9])", comment)[0].rstrip(".:")


def describe_keys() -> Iterator[tuple[str, str]]:
    """(key, explanation) of every setting, for the help text."""

    def walk(cls: type, prefix: str) -> Iterator[tuple[str, str]]:
        for f in dataclasses.fields(cls):
            if dataclasses.is_dataclass(f.type):
                yield from walk(cast(type, f.type), f"{f.name}.")
            else:
                yield prefix + f.name, f.metadata["doc"]

    return walk(Config, "")


def _key(word: Override) -> str:
    return word.key_or_group


def _parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's grammar, with known keys only; the values are checked when the configuration is composed."""
    keys = [*GROUPS, "depth", "family", *(key for key, _ in describe_keys())]
    words = []
    for text in overrides:
        word = _parse_word(text)
        if _key(word) not in keys:
            raise UserError(f"{text}: no key {_key(word)}; {_near_key(_key(word), keys)}")
        words.append(word)
    return words


@functools.cache  # a sweep's runs share most of their words
def _parse_word(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except (OverrideParseException, HydraException):
        raise UserError(f"cannot read {text!r}: write key=value, as in model=plain56 seed=1") from None


def _near_key(key: str, keys: Sequence[str]) -> str:
    # A bare "width" means model.width: compare with the last part as well.
    for full in keys:
        if full.rpartition(".")[2] == key:
            return f"did you mean {full}?"
    near = did_you_mean(key, keys)
    return near if near.startswith("did you mean") else "resexp train --help lists the keys"


def _jobs(words: Sequence[Override], both_families: bool) -> Iterator[list[str]]:
    """The override lists of all runs, in the order of Hydra's own sweeps: the last list varies fastest."""
    net_words = [word for word in words if _key(word) in ("model", "depth", "family", "model.depth", "model.family")]
    nets = _nets(net_words, both_families)
    factors: list[list[list[str]]] = []
    for word in words:
        if net_words and word is net_words[0]:
            factors.append([[f"model={name}"] for name in nets])
        elif word not in net_words:
            factors.append([[text] for text in _values_as_overrides(word)])
    if not net_words:
        factors.insert(0, [[]])
    for combination in itertools.product(*factors):
        yield list(itertools.chain.from_iterable(combination))


def _values_as_overrides(word: Override) -> list[str]:
    if not word.is_sweep_override():
        return [word.input_line or ""]
    return [f"{word.get_key_element()}={value}" for value in _values(word)]


def _values(word: Override) -> list[str]:
    if not word.is_sweep_override():
        return [str(word.value())]
    try:
        values = list(word.sweep_string_iterator())
    except HydraException:
        raise UserError(f"{word.input_line}: write the values out, as in seed=0,1,2 or seed=range(0,3)") from None
    if not values:
        raise UserError(f"{word.input_line}: an empty list")
    return values


def _nets(words: Sequence[Override], both_families: bool) -> list[str]:
    """The nets that model=, depth= and family= name together."""
    given: dict[str, list[str]] = {}
    for word in words:
        key = _key(word).removeprefix("model.")
        if key in given:
            raise UserError(f"{word.input_line}: {key} is given twice")
        given[key] = _values(word)
    if "model" in given:
        for key in ("depth", "family"):
            if key in given:
                model = ",".join(given["model"])
                raise UserError(f"model={model} {key}={','.join(given[key])}: model= names both; drop one of the two")
        return given["model"]
    families = given.get("family", ["plain", "resnet"] if both_families else ["resnet"])
    for family in families:
        check_choice("family", family, tuple(catalog.FAMILIES))
    if "depth" not in given:
        return [catalog.default_net(family) for family in families]
    for depth in given["depth"]:
        check(depth.isdecimal(), "depth", depth, "must be a whole number, as in depth=56")
    return [f"{family}{depth}" for depth in given["depth"] for family in families]


def _compose(overrides: Sequence[str], config_dir: Path | None) -> Config:
    check_folder(config_dir)
    groups: dict[str, str] = {}
    named: dict[str, Any] = {}  # what the net's name says
    values: dict[str, Any] = {}
    left_out: list[str] = []  # ~key: as if its file did not set it
    for word in map(_parse_word, overrides):
        key = _key(word)
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
    with _one_line_errors(" ".join(overrides)):
        composed = copy.deepcopy(_checked_groups(tuple(groups.items()), tuple(left_out), config_dir))
        for key, value in (named | values).items():
            OmegaConf.update(composed, key, value)
        return cast(Config, OmegaConf.to_object(composed))


@functools.cache  # the runs of a sweep mostly differ in values
def _checked_groups(groups: tuple[tuple[str, str], ...], left_out: tuple[str, ...], config_dir: Path | None) -> Any:
    """The files of these groups, without the keys left out, in the form of the dataclasses."""
    composed = copy.deepcopy(_compose_groups(tuple(f"{k}={v}" for k, v in groups if k != "model"), config_dir))
    OmegaConf.set_struct(composed, False)  # unknown keys were refused already
    for key, name in groups:
        if key == "model":  # on its own, because a net's file decides nothing else
            composed.model = _compose_groups((f"model={name}",), config_dir).model
    for key in left_out:
        parent, _, last = key.rpartition(".")
        (OmegaConf.select(composed, parent) if parent else composed).pop(last, None)
    return OmegaConf.merge(OmegaConf.structured(Config), composed)


@functools.cache  # Hydra takes a tenth of a second
def _compose_groups(choices: tuple[str, ...], config_dir: Path | None) -> DictConfig:
    search = [f"hydra.searchpath=['file://{config_dir.resolve()}']"] if config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*choices, *search])


@contextlib.contextmanager
def _one_line_errors(where: str) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into a UserError of one line."""
    try:
        yield
    except ConfigKeyError as error:
        keys = [key for key, _ in describe_keys()]
        raise UserError(f"no key {error.full_key}; {_near_key(str(error.full_key), keys)}") from None
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{key}{str(error.msg or error).splitlines()[0]}") from None
    except (HydraException, yaml.YAMLError, TypeError) as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None
