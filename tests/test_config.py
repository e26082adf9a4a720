"""Names, overrides and run folders; every mistake is one line that helps."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml
from helpers import write_run

from resexp import UserError, catalog, config
from resexp.run.reader import read_run
from resexp.studies.claims import Outcome, judge
from resexp.studies.groups import group_runs, matches


@pytest.mark.parametrize("dataset", config.names("dataset"))
@pytest.mark.parametrize("family", list(catalog.FAMILIES))
def test_every_family_composes_with_every_data_set(dataset: str, family: str) -> None:
    cfg = config.load([f"dataset={dataset}", f"family={family}"])
    assert (cfg.dataset.name, cfg.model.family) == (dataset, family)


@pytest.mark.parametrize("dataset", config.names("dataset"))
@pytest.mark.parametrize("protocol", config.names("protocol"))
def test_every_protocol_composes_with_the_data_sets_that_it_suits(dataset: str, protocol: str) -> None:
    words = [f"dataset={dataset}", f"protocol={protocol}"]
    if ("imagenet" in dataset) != ("imagenet" in protocol):
        with pytest.raises(UserError, match="dataset=imagenet"):  # padded crops for some images, scales for others
            config.load(words)
        return
    cfg = config.load(words)
    assert (cfg.dataset.name, cfg.protocol.name) == (dataset, protocol)


@pytest.mark.parametrize("name", config.names("study"))
def test_every_study_composes_and_its_claims_and_published_numbers_speak_of_its_nets(name: str, tmp_path: Path) -> None:
    study, jobs = config.load_study(name)
    runs = [write_run(tmp_path, job) for job, _ in jobs]
    groups = group_runs(runs)
    assert len({run.path for run in runs}) == len(jobs)
    words = [*study.published, *(words for claim in study.claims for words in (claim.net, claim.minus))]
    for side in words:
        assert any(matches(group, side) for group in groups), side
    assert study.claims and all(verdict.word != Outcome.OPEN for verdict in judge(study.claims, groups))
    assert not study.published or study.source


def test_every_published_entry_says_where_it_stands() -> None:
    for entry in yaml.safe_load((config.CONF / "published.yaml").read_text()):
        assert entry["source"] and entry["dataset"] and entry["nets"]


def test_each_data_set_names_its_protocol_and_the_command_line_wins() -> None:
    assert config.load(["dataset=cifar10"]).protocol.name == "he2015-cifar"
    assert config.load(["dataset=cifar10", "protocol=smoke"]).protocol.name == "smoke"


def test_he2015_cifar_is_the_papers_protocol() -> None:
    p = config.load(["dataset=cifar10"]).protocol
    assert (p.steps, p.batch_size, p.lr, p.lr_drops, p.lr_drop_factor) == (64_000, 128, 0.1, [32_000, 48_000], 0.1)
    assert (p.momentum, p.weight_decay, p.val_size, p.normalize, p.pad, p.flip) == (
        0.9,
        1e-4,
        5000,
        "pixel-mean",
        4,
        True,
    )
    assert (p.warmup_depth, p.warmup_lr, p.warmup_error, p.warmup_window, p.precision) == (110, 0.01, 80, 100, "fp32")


def test_the_other_papers_protocols_are_theirs() -> None:
    """He et al. 2015, Sec. 3.4; Simonyan & Zisserman 2015, Sec. 3.1; He et al. 2016, Appendix."""
    imagenet, vgg, cifar = (
        config.load([f"dataset={data}", f"protocol={name}"]).protocol
        for data, name in (("imagenet", "he2015-imagenet"), ("imagenet", "vgg-imagenet"), ("cifar10", "he2016-cifar"))
    )
    for p, steps, lr, decay, drops, scales, group in (
        (imagenet, 600_000, 0.1, 1e-4, 2, [256, 480], 32),  # 8 GPUs of 32 images
        (vgg, 370_000, 0.01, 5e-4, 3, [256, 256], None),
    ):
        assert (p.steps, p.lr, p.weight_decay) == (steps, lr, decay)
        assert (p.plateau_drops, p.scales, p.norm_group) == (drops, scales, group)
        assert (p.batch_size, p.momentum, p.lr_drop_factor, p.flip, p.final_view) == (256, 0.9, 0.1, True, "ten-crop")
    first = config.load(["dataset=cifar10"]).protocol
    warmup = {"warmup_depth": None, "warmup_steps": 400, "warmup_lr": 0.01}
    assert dataclasses.replace(first, name=cifar.name, about=cifar.about, val_size=0, **warmup) == cifar


def test_the_full_protocol_differs_in_the_held_out_images_alone() -> None:
    a, b = (
        config.load(["dataset=cifar10", f"protocol={name}"]).protocol for name in ("he2015-cifar", "he2015-cifar-full")
    )
    assert dataclasses.replace(a, name=b.name, about=b.about, val_size=0) == b


def test_a_name_is_a_family_and_a_depth() -> None:
    assert config.load(["model=plain56"]) == config.load(["depth=56", "family=plain"])
    assert config.load(["model=plain20"]).model.width == 16
    assert config.load(["model=resnet34"]).model.width == 64


def test_hydras_other_signs_work_too() -> None:
    assert config.load(["+seed=3", "++protocol.lr=0.2"]) == config.load(["seed=3", "protocol.lr=0.2"])
    assert config.load(["~protocol.lr_drops"]).protocol.lr_drops == []
    with pytest.raises(UserError, match="a run needs a protocol"):
        config.load(["~protocol"])


def test_a_depth_sweep_means_plain_and_residual() -> None:
    jobs = config.expand(["depth=18,34"])
    assert [cfg.model.name for _, cfg in jobs] == ["plain18", "resnet18", "plain34", "resnet34"]
    assert {cfg.model.width for _, cfg in jobs} == {8}
    assert {cfg.model.width for _, cfg in config.expand(["depth=18", "model.width=64"])} == {64}
    assert {cfg.model.width for _, cfg in config.expand(["depth=18", "dataset=cifar10"])} == {64}


def test_a_sweep_varies_the_last_list_fastest_and_keeps_equal_runs_once() -> None:
    jobs = config.expand(["seed=range(0,2)", "model=plain20,resnet20"])
    assert [(cfg.seed, cfg.model.name) for _, cfg in jobs] == [
        (0, "plain20"),
        (0, "resnet20"),
        (1, "plain20"),
        (1, "resnet20"),
    ]
    assert len(config.expand(["seed=0,0,1"])) == 2


@pytest.mark.parametrize("word", ["protocol.lr=interval(0,1)", "dataset=glob(c*)", "seed=range(0,0)"])
def test_a_sweep_over_nothing_countable_is_answered(word: str) -> None:
    with pytest.raises(UserError, match=r"write the values out|an empty list"):
        config.expand([word])


def test_the_overrides_of_a_job_compose_to_the_same_job() -> None:
    for overrides, cfg in config.expand(["depth=20,56", "seed=1,2", "protocol.lr_drops=[3,9]"]):
        assert config.load(overrides) == cfg


def test_given_words_take_the_place_of_a_studys_own() -> None:
    _, jobs = config.load_study("degradation", ["seed=0,1", "depth=20"])
    assert {(cfg.model.name, cfg.seed) for _, cfg in jobs} == {(n, s) for n in ("plain20", "resnet20") for s in (0, 1)}


def test_the_hash_of_a_run_is_settled() -> None:
    """If this fails, finished runs of users would be run again: a new setting must keep its default out of the hash."""
    assert config.load(["model=plain56"]).run_name == "plain56-digits-digits-s0-70c584db"
    assert config.load(["model=resnet110", "dataset=cifar10"]).run_name == "resnet110-cifar10-he2015-cifar-s0-d76faf1f"


def test_what_cannot_change_the_result_does_not_change_the_run() -> None:
    name = config.load([]).run_name
    for word in (
        "max_minutes=3",
        "device=cpu",
        "threads=2",
        "workers=3",
        "tensorboard=false",
        "deterministic=true",
        "activation_checkpointing=true",
        "protocol.save_seconds=5",
        "output_dir=x",
    ):
        assert config.load([word]).run_name == name, word
    for word in (
        "seed=1",
        "model.width=8",
        "protocol.lr=0.2",
        "protocol.precision=bf16",
        "model.shortcut=B",
        "protocol.eval_every=7",
        "dataset=synthetic",
    ):
        assert config.load([word]).run_name != name, word


def test_only_these_settings_cannot_change_the_result() -> None:
    """All others are in a run's name; those of the launcher are in none."""

    def undecided(settings: object, before: str = "") -> list[str]:
        found = []
        for field in dataclasses.fields(settings):  # type: ignore[arg-type]
            value, key = getattr(settings, field.name), before + field.name
            if not field.metadata.get("decides", True):
                found.append(key)
            elif dataclasses.is_dataclass(value):
                found += undecided(value, key + ".")
        return found

    machine = {"device", "threads", "workers", "activation_checkpointing", "fast", "deterministic", "launcher"}
    saved = {"output_dir", "tensorboard", "wandb", "max_minutes", "protocol.save_seconds"}
    files = {"init_from", "resume_from"}  # by their content: init_digest, resumed_run
    data = {f"dataset.{key}" for key in ("root", "download", "wnid_file", "pack", "pack_gb", "workers")}
    words = {"dataset.about", "protocol.about"}
    sweeps = {"dataset.sweep_width"}  # the width that resexp sweep depth=18,34 gives its nets
    assert set(undecided(config.load([]))) == machine | saved | files | data | words | sweeps


def test_a_setting_added_later_changes_no_hash() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Later(config.ModelConfig):
        gate: str | None = config.setting(None, doc="a later issue's")

    cfg = config.load([])
    later = Later(**{f.name: getattr(cfg.model, f.name) for f in dataclasses.fields(cfg.model)})
    assert config.identity(later) == config.identity(cfg.model)


def test_a_variant_may_have_other_values_than_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    lines = ["title: t", "sweep:", "- dataset=digits", "- seed=0", "- protocol.lr=0.1,0.01"]
    lines += ["variants:", "- model=plain20", "- model=resnet20 protocol.lr=0.001 seed=1,2"]
    (tmp_path / "study" / "mine.yaml").write_text("\n".join(lines))

    def runs(*words: str) -> set[tuple[str, int, float]]:
        jobs = config.load_study("mine", words, tmp_path)[1]
        return {(cfg.model.name, cfg.seed, cfg.protocol.lr) for _, cfg in jobs}

    plain = {("plain20", 0, 0.1), ("plain20", 0, 0.01)}
    assert runs() == plain | {("resnet20", 1, 0.001), ("resnet20", 2, 0.001)}
    assert runs("seed=7") == {("plain20", 7, 0.1), ("plain20", 7, 0.01), ("resnet20", 7, 0.001)}


def test_the_users_own_folder_adds_names(tmp_path: Path) -> None:
    (tmp_path / "protocol").mkdir()
    (tmp_path / "protocol" / "mine.yaml").write_text("defaults: [digits]\nname: mine\nlr: 0.05\n")
    cfg = config.load(["protocol=mine"], tmp_path)
    assert (cfg.protocol.name, cfg.protocol.lr, cfg.protocol.steps) == ("mine", 0.05, 1280)
    (tmp_path / "protocol" / "bad.yaml").write_text("defaults: [digits]\nname: bad\nlrr: 0.05\n")
    with pytest.raises(UserError, match=r"no key protocol\.lrr; did you mean protocol\.lr\?"):
        config.load(["protocol=bad"], tmp_path)


def test_a_run_folders_configuration_reads_back(tmp_path: Path) -> None:
    cfg = config.load(["dataset=synthetic", "model=plain26", "protocol.lr=0.3"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(cfg))
    assert config.load_file(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize("name", ["1e3", "1_000", "0x1f", "yes", "null", "1.5", "2026-01-01"])
def test_a_name_that_looks_like_something_else_stays_a_name(name: str, tmp_path: Path) -> None:
    cfg = config.load(["dataset=imagefolder", f"dataset.root={tmp_path}", f"dataset.name='{name}'"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(cfg))
    assert config.load_file(tmp_path / "config.yaml") == cfg and cfg.dataset.name == name


def test_a_folder_whose_name_is_no_text_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for part in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (folder / part).mkdir(parents=True)
    monkeypatch.setenv("RESEXP_DATA", str(folder))
    cfg = config.load(["dataset=imagefolder"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(cfg))
    assert config.load_file(tmp_path / "config.yaml") == cfg
    assert read_run(tmp_path).config["dataset"]["root"] == str(folder)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["model=plan56"], "did you mean plain56?"),
        (["model=plain"], "model=plain20, or depth=20 family=plain"),
        (["model=wrn"], "as in model=wrn28_10"),
        (["dataset=cifar11"], "did you mean cifar10?"),
        (["protocol=smok"], "did you mean smoke?"),
        (["model.depht=20"], "did you mean model.depth?"),
        (["+model.depht=20"], "did you mean model.depth?"),
        (["width=8"], "did you mean model.width?"),
        (["sede=1"], "did you mean seed?"),
        (["model=plain56", "depth=20"], "model=plain56 depth=20: model= names both"),
        (["model=plain56", "model.depth=20"], "names both"),
        (["depth=20", "model.depth=26"], "given twice"),
        (["depth=57"], "depth=57 is not 6n+2"),
        (["depth=abc"], "whole number"),
        (["family=plane"], "did you mean plain?"),
        (["model=plain20", "model.shortcut=A"], "a plain net has no shortcut"),
        (["model.shortcut=D"], "choose from A, B, C"),
        (["seed=x"], "seed: Value 'x'"),
        (["seed=-1"], "seed=-1: must be from 0"),
        (["protocol.pad_mode=mirror"], "choose from zeros, reflect"),
        (
            ["protocol=smoke", "protocol.pad=0", "protocol.pad_mode=reflect"],
            "has no effect with protocol.pad=0; set it to zeros",
        ),
        (["protocol.steps=0"], "protocol.steps=0: must be at least 1"),
        (["protocol.lr_drops=[9,3]"], "growing steps"),
        (["protocol.precision=int8"], "choose from fp32, bf16, fp16"),
        (["dataset.root=/x"], "dataset=digits does not use it"),
        (["device=gpu"], "choose from auto, cpu, cuda"),
        (["threads=0"], "threads=0: must be from 1 to 4096"),
        (["max_minutes=0"], "must be above 0"),
        (["seed=0,1"], "resexp sweep runs them all"),
        (["plain56"], "write key=value"),
        (["protocol.lr_drop_factor=-1"], "must be at least 0"),
    ],
)
def test_a_mistake_is_answered_in_one_line(words: list[str], answer: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(words)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        config.load([], tmp_path / "nowhere")


def test_a_tilde_is_written_out_wherever_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows'
    assert config.load(["output_dir='~/results'"]).run_dir.parent == tmp_path / "results" / "runs"


@pytest.mark.parametrize(
    "words",
    [
        ["output_dir='~nobodyx/results'"],
        ["dataset=imagefolder", "dataset.root='~nobodyx/birds'"],
        ["dataset=imagenet", "dataset.wnid_file='~nobodyx/list'"],
        ["init_from='~nobodyx/weights.pt'"],
        ["resume_from='~nobodyx/run'"],
    ],
)
def test_the_home_of_nobody_is_named(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"=~nobodyx/\w+(\.pt)?: there is no such home folder; write the path in full"):
        config.load(words)


@pytest.mark.parametrize(
    "words",
    [
        ["model.width=9223372036854775807"],
        ["model=mlp10", "model.width=99999999999"],
        ["model=resnet30000002"],
        ["threads=99999999999"],
        ["protocol.batch_size=99999999999"],
    ],
    ids=lambda words: words[-1],
)
def test_numbers_that_no_machine_can_take_are_refused_at_once(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"must be .*(at most|from 1 to)"):
        config.load(words)
