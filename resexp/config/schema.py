"""The settings of one run: dataclasses that check themselves."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from resexp.config.dataset import DatasetConfig
from resexp.config.keys import check, check_choice, check_name, identity, setting
from resexp.config.launcher import LauncherConfig
from resexp.config.model import ModelConfig
from resexp.config.start import digest_of, finished_run, name_of
from resexp.data.registry import READERS
from resexp.system import expand_home

MOST_THREADS, MOST_IMAGES = 4096, 10**7
PRECISIONS = ("fp32", "bf16", "fp16")
PAD_MODES = ("zeros", "reflect")
VIEWS = ("centre", "ten-crop", "multi-scale")


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """Everything besides net and data that decides the number."""

    name: str = setting(doc="its name in tables and run folders")
    about: str = setting("", doc="what it is, in one line for the lists", decides=False)
    steps: int = setting(doc="optimiser updates of the whole run")
    batch_size: int = setting(doc="images of one step")
    val_size: int | float = setting(
        0, doc="images held out of the training set, never trained on: how many, or a share, as in 0.1"
    )
    lr: float = setting(doc="learning rate")
    lr_drops: list[int] = setting([], doc="steps at which the rate is multiplied by lr_drop_factor, from step 0")
    lr_drop_factor: float = setting(0.1, doc="factor of each drop")
    fade: list[int] = setting(
        [], doc="model.connection=fading: steps between which the shortcuts go from whole to gone, as in [0,640]"
    )
    optimizer: str = setting("sgd", doc="sgd (with momentum), adamw (for transformers)")
    momentum: float = setting(0.9, doc="SGD momentum")
    nesterov: bool = setting(False, doc="SGD: Nesterov's momentum")
    clip_norm: float | None = setting(None, doc="longest gradient, over all parameters; a longer one is shortened")
    weight_decay: float = setting(
        0.0, doc="L2 penalty on all parameters but learned slopes and Dirac scales; adamw: decoupled"
    )
    warmup_depth: int | None = setting(None, doc="nets of at least this depth warm up; null: none does")
    warmup_steps: int = setting(0, doc="steps of warm-up for every net; 0: only for nets of warmup_depth")
    warmup_lr: float = setting(0.01, doc="learning rate of the warm-up")
    warmup_error: float = setting(
        80.0, doc="the warm-up of deep nets ends when the mean error (%) of warmup_window batches is below this"
    )
    warmup_window: int = setting(100, doc="batches in that mean")
    warmup_limit: int = setting(4000, doc="and after this many steps at the latest")
    normalize: str = setting(
        "pixel-mean",
        doc="pixel-mean: subtract the training images' mean at each pixel; channel: their mean and standard deviation "
        "of each channel; imagenet: torchvision's of ImageNet; none",
    )
    mean: list[float] = setting([], doc="of each channel, from 0 to 1, in place of normalize: [0.49,0.48,0.45]")
    std: list[float] = setting([], doc="what divides each channel after the mean is subtracted; []: nothing")
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
    plateau_points: float = setting(0.3, doc="points by which a better window must be lower")
    plateau_patience: int = setting(2, doc="windows in a row that are no better, before a drop")
    plateau_drops: int = setting(2, doc="drops by plateaus, at most")
    final_view: str = setting("centre", doc="imagenet: at the last step test also on ten-crop or multi-scale")
    test_scales: list[int] = setting(
        [224, 256, 384, 480, 640], doc="multi-scale: shorter sides of the whole images, for crops of 224 in training"
    )
    pad: int = setting(0, doc="pixels around the image before the random crop; 0: no crop")
    pad_mode: str = setting("zeros", doc="what these pixels are: zeros; reflect: the image's own, mirrored at its edge")
    flip: bool = setting(False, doc="mirror half of the images")
    precision: str = setting("fp32", doc=f"{', '.join(PRECISIONS)}; of fp16 the loss is scaled; weights stay fp32")
    eval_every: int = setting(doc="steps between evaluations on the validation and test images")
    log_every: int = setting(doc="steps between lines of the training error, the mean since the line before")
    save_seconds: float = setting(60.0, doc="seconds between checkpoints", decides=False)

    def __post_init__(self) -> None:
        def at_least(bound: float, *keys: str) -> None:
            for key in keys:
                check(getattr(self, key) >= bound, f"protocol.{key}", getattr(self, key), f"must be at least {bound}")

        check(self.batch_size <= MOST_IMAGES, "protocol.batch_size", self.batch_size, f"must be at most {MOST_IMAGES}")
        check_name("protocol.name", self.name)
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
        whole = self.val_size < 1 or isinstance(self.val_size, int)
        check(whole, "protocol.val_size", self.val_size, "must be a number of images, or a share below 1")
        ordered = all(0 < a < b for a, b in zip([0.5, *self.lr_drops], self.lr_drops, strict=False))
        check(ordered, "protocol.lr_drops", self.lr_drops, "must be growing steps of at least 1")
        falls = not self.fade or (len(self.fade) == 2 and 0 <= self.fade[0] < self.fade[1] < self.steps)
        check(falls, "protocol.fade", self.fade, f"must be two growing steps below {self.steps}, as in [0,640], or []")
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
        check_choice("protocol.pad_mode", self.pad_mode, PAD_MODES)
        padded = self.pad > 0 or self.pad_mode == "zeros"
        check(padded, "protocol.pad_mode", self.pad_mode, "has no effect with protocol.pad=0; set it to zeros")
        check_choice("protocol.final_view", self.final_view, VIEWS)
        check_choice("protocol.normalize", self.normalize, ("pixel-mean", "channel", "imagenet", "none"))
        check(not self.std or self.mean != [], "protocol.std", self.std, "needs protocol.mean")
        fits = len(self.std) in (0, len(self.mean))
        check(fits, "protocol.std", self.std, "must have as many values as protocol.mean")
        check(all(one > 0 for one in self.std), "protocol.std", self.std, "must be above 0")
        check_choice("protocol.optimizer", self.optimizer, ("sgd", "adamw"))
        check_choice("protocol.precision", self.precision, PRECISIONS)
        check(self.clip_norm is None or self.clip_norm > 0, "protocol.clip_norm", self.clip_norm, "must be above 0")
        scaled = self.clip_norm is not None and self.precision == "fp16"
        check(not scaled, "protocol.clip_norm", self.clip_norm, "not with fp16, whose gradients are scaled; take bf16")
        moves = self.optimizer == "sgd" and self.momentum > 0
        check(not self.nesterov or moves, "protocol.nesterov", self.nesterov, "needs sgd with momentum; drop it")


@dataclass(kw_only=True, slots=True)
class Config:
    """One run."""

    model: ModelConfig
    dataset: DatasetConfig
    protocol: ProtocolConfig
    launcher: LauncherConfig = field(default_factory=LauncherConfig, metadata={"doc": "", "decides": False})
    seed: int = setting(0, doc="of initialisation, order and augmentation")
    init_from: str | None = setting(
        None, doc="a file of weights to start from in place of fresh ones; its content names the run", decides=False
    )
    init_digest: str | None = setting(None, doc="of that file's content; taken by itself")
    resume_from: str | None = setting(
        None, doc="a finished run to go on from, with its settings but for those given here", decides=False
    )
    resumed_run: str | None = setting(None, doc="that run, and its last step; taken by itself")
    fast: bool = setting(
        True, doc="the fast paths; false: torch's own operations one by one, the same up to rounding", decides=False
    )
    deterministic: bool = setting(False, doc="on a GPU: bit-identical repeats, slower", decides=False)
    device: str = setting("auto", doc="auto, cpu, cuda, cuda:1, mps", decides=False)
    threads: int | None = setting(None, doc="CPU threads; null: one for a tiny net, else all cores", decides=False)
    workers: int | None = setting(None, doc="sweep: runs side by side; null: one per core, four per GPU", decides=False)
    activation_checkpointing: bool = setting(False, doc="less memory for one more forward pass", decides=False)
    max_minutes: float | None = setting(None, doc="stop cleanly with a checkpoint after this time", decides=False)
    output_dir: str = setting("outputs", doc="holds runs/ and figures/", decides=False)
    tensorboard: bool = setting(True, doc="write TensorBoard events into the run folder", decides=False)
    wandb: bool = setting(False, doc="log to Weights & Biases too, offline (needs resexp[wandb])", decides=False)

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, "seed", self.seed, "must be from 0 to 4294967295")
        known = self.device in ("auto", "cpu", "cuda", "mps") or (
            self.device.startswith("cuda:") and self.device[5:].isdecimal()
        )
        check(known, "device", self.device, "choose from auto, cpu, cuda, cuda:1, mps")
        self.output_dir = str(expand_home(self.output_dir, "output_dir"))
        self._name_start()
        fades, fade = self.model.connection == "fading", self.protocol.fade
        check(not fade or fades, "protocol.fade", fade, "acts only with model.connection=fading; drop it")
        check(not fades or bool(fade), "model.connection", "fading", "needs protocol.fade, as in protocol.fade=[0,640]")
        for key in ("threads", "workers"):
            value = getattr(self, key)
            check(value is None or 1 <= value <= MOST_THREADS, key, value, f"must be from 1 to {MOST_THREADS}, or null")
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

    def _name_start(self) -> None:
        """What the run starts from, unless a run folder says it already: the file may be gone by then."""
        check(not (self.init_from and self.resume_from), "init_from", self.init_from, "drop it, or drop resume_from")
        if self.init_from and not self.init_digest:
            self.init_digest = digest_of(self.init_from)
            self.init_from = str(expand_home(self.init_from, "init_from").resolve())
        if self.resume_from and not self.resumed_run:
            run = finished_run(self.resume_from)
            rule = f"must be more than the {run.step} of {self.resume_from}, to go on from it"
            check(self.protocol.steps > run.step, "protocol.steps", self.protocol.steps, rule)
            self.resumed_run, self.resume_from = name_of(run), str(run.path.resolve())

    @property
    def run_name(self) -> str:
        """``<net>-<dataset>-<protocol>-s<seed>-<hash>``, the hash over all that decides the result."""
        return self.run_names([self.seed])[0]

    def run_names(self, seeds: Iterable[int]) -> list[str]:
        """The names of this run with each of these seeds."""
        start, settings = self.name_start, identity(self)
        settings.pop("seed", None)
        found = []
        for seed in seeds:
            own = settings | ({"seed": seed} if seed else {})  # the default is in no hash
            digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
            found.append(f"{start}-s{seed}-{digest}")
        return found

    @property
    def name_start(self) -> str:
        """``<net>-<dataset>-<protocol>``, with which the names of its runs begin."""
        return f"{self.model.name}-{self.dataset.name}-{self.protocol.name}"

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / "runs" / self.run_name
