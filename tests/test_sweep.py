"""Sweeps survive what happens to their runs; studies end with a figure, a table and verdicts."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TINY, wait_for, write_reference, write_run

from resexp import UserError, catalog, config
from resexp.cli import main, sweeps
from resexp.cli.show import draw
from resexp.console import print_table
from resexp.run.lock import open_folder
from resexp.run.progress import duration
from resexp.run.reader import CHECKPOINT, METRICS, SUMMARY, Run, find_runs
from resexp.run.store import runs_at
from resexp.studies.alike import are_comparable, is_whole
from resexp.studies.claims import Outcome, judge
from resexp.studies.find import find_study
from resexp.studies.groups import group_runs
from resexp.studies.tables import table_rows
from resexp.studies.verdicts import VERDICT_COLUMNS, verdict_rows
from resexp.sweep import local, slurm
from resexp.sweep.estimate import is_long, seconds_left, seconds_together
from resexp.sweep.local import choose_workers
from resexp.sweep.plan import Job, JobState, Sweep, plan_sweep

Resexp = Callable[..., subprocess.CompletedProcess]
MANY = [word for word in TINY if not word.startswith("model=")] + ["model=plain8,resnet8"]


def test_a_sweep_runs_all_draws_and_tabulates_then_skips_what_is_finished(resexp: Resexp) -> None:
    first = resexp("sweep", *MANY)
    assert first.returncode == 0, first.stderr
    assert "plain8" in first.stdout and "resnet8" in first.stdout
    figures = Path("outputs/figures")
    assert {path.suffix for path in figures.iterdir()} == {".png", ".svg", ".md"}
    times = {path: path.stat().st_mtime_ns for path in Path("outputs/runs").glob("*/checkpoint.pt")}
    assert len(times) == 2
    second = resexp("sweep", *MANY, "seed=0,1")
    assert second.returncode == 0 and "4 runs, 2 already finished" in second.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert "0,1" in second.stdout


def test_a_typo_in_the_last_job_costs_nothing(resexp: Resexp) -> None:
    result = resexp("sweep", *MANY[:-1], "model=plain8,resnet8,resnet9")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "depth=9 is not 6n+2" in result.stderr
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_diverging_run_fails_alone(resexp: Resexp) -> None:
    result = resexp("sweep", *TINY, "protocol.lr=0.1,1e38")
    assert result.returncode == 1
    assert "diverged at step" in result.stderr
    assert sorted(Run(path).status for path in Path("outputs/runs").iterdir()) == ["diverged", "finished"]
    assert "left:" not in result.stderr
    again = resexp("sweep", *TINY, "protocol.lr=0.1,1e38")  # and is not trained again only to diverge again
    assert again.returncode == 1 and "1 already finished, 1 already diverged" in again.stderr
    assert "remove the folder" in again.stderr and "starting" not in again.stderr
    alone = resexp("train", *TINY, "protocol.lr=1e38")
    assert alone.returncode == 1 and "diverged already" in alone.stderr
    assert "protocol.lr=0.1" in result.stdout and "protocol.lr=1e+38" in result.stdout


@pytest.mark.slow
def test_what_all_runs_lack_ends_a_sweep_in_one_line(resexp: Resexp) -> None:
    lacking = ["dataset=cifar10", "dataset.root=/none", "seed=0,1,2,3,4,5", "workers=2"]
    result = resexp("sweep", *[word for word in TINY if not word.startswith("dataset")], *lacking)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if "error" in line] == [result.stderr.splitlines()[-1]]
    assert "/none" in result.stderr and "left:" not in result.stderr


@pytest.mark.slow
def test_what_one_run_lacks_leaves_the_others_alone(resexp: Resexp) -> None:
    result = resexp("sweep", *TINY[1:], "dataset=cifar10,digits", "workers=1")
    assert result.returncode == 1
    assert "left: 1 of 2 runs" in result.stderr
    told = [line for line in result.stderr.splitlines() if "RESEXP_DATA" in line]  # at once, and at the end
    assert len(told) == 2 and "finished: train" in result.stderr.split(told[0])[1]
    assert [Run(path).status for path in Path("outputs/runs").glob("*-digits-*")] == ["finished"]


def refused_sweep(*words: str, refused: int = 2, line: str = "no such images") -> Sweep:
    """A sweep whose first jobs refused to start."""
    sweep = plan_sweep(config.expand(list(words)))
    for job in sweep.jobs[:refused]:
        job.outcome, job.refusal = JobState.FAILED, line
    return sweep


def test_a_refusal_is_that_of_all_runs_only_if_all_have_what_the_refused_ones_share() -> None:
    assert refused_sweep("model=plain8", "dataset=cifar10", "seed=0,1,2").common_refusal == "no such images"
    for words in (("dataset=cifar10,digits", "model=plain8"), ("model=plain8,plain14", "dataset=digits")):
        assert refused_sweep(*words, "seed=0,1").common_refusal == ""  # the others may train
        assert refused_sweep(*words, "seed=0,1", refused=4).common_refusal == "no such images"
    assert refused_sweep("model=plain8", "seed=0,1,2", refused=1).common_refusal == ""  # one may be alone
    assert refused_sweep("model=plain8", "seed=0", refused=1).common_refusal == "no such images"
    assert Sweep([], workers=1).common_refusal == ""
    trains = refused_sweep("model=plain8", "seed=0,1,2")
    trains.jobs[2].announced = True
    assert trains.common_refusal == "" and trains.refused_alike == []


def test_a_run_killed_after_its_summary_is_finished() -> None:
    (overrides, cfg), *_ = config.expand(TINY)
    write_run(cfg.run_dir.parent, overrides)
    dying = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    dying.wait()
    job = Job(overrides, cfg, process=dying, outcome=JobState.RUNNING)
    local._collect(job, stopped=True)
    assert job.outcome == JobState.FINISHED


def test_the_live_table_of_many_runs_shows_those_that_run() -> None:
    jobs = [Job(overrides, cfg) for overrides, cfg in config.expand([*TINY, "seed=range(0,40)"])]
    for job in jobs[:25]:
        job.outcome = JobState.FINISHED
    jobs[25].outcome = JobState.RUNNING
    table = local.live_table(Sweep(jobs, workers=1), most=10)
    assert len(table.rows) == 1 and table.caption == "beside 25 finished, 14 waiting"
    assert len(local.live_table(Sweep(jobs, workers=1)).rows) == 40


def test_the_status_of_a_run_that_trains_or_was_killed() -> None:
    (overrides, cfg), *_ = config.expand(TINY)
    sweep = plan_sweep([(overrides, cfg)])
    write_run(cfg.run_dir.parent, overrides, status="interrupted")
    (cfg.run_dir / SUMMARY).unlink()
    (cfg.run_dir / CHECKPOINT).touch()
    slurm.refresh(sweep)
    assert sweep.jobs[0].outcome == JobState.INTERRUPTED and "killed" in sweep.jobs[0].message
    with open_folder(cfg.run_dir):
        slurm.refresh(sweep)
    assert sweep.jobs[0].outcome == JobState.RUNNING


@pytest.mark.slow
def test_a_study_with_other_settings_leaves_the_studys_own_figure_alone(resexp: Resexp) -> None:
    Path("outputs/figures").mkdir(parents=True)
    Path("outputs/figures/precision.png").touch()
    words = ["protocol.steps=2", "protocol.lr_drops=[]", "seed=0"]
    result = resexp("study", "precision", "model=plain8", "model.width=2", *words)
    assert "not the study's own runs" in result.stderr
    assert not Path("outputs/figures/precision.png").read_bytes()
    assert len(list(Path("outputs/figures").glob("precision-*.png"))) == 1
    assert "protocol.steps=2" in result.stdout


def test_a_studys_nets_from_other_weights_are_not_the_study() -> None:
    study, jobs = config.load_study("degradation")
    fresh = [dataclasses.asdict(cfg) for _, cfg in jobs]
    started = [{**one, "init_digest": "2cdeef8aa993b8d1"} for one in fresh]
    assert is_whole(study, fresh) and not is_whole(study, started)
    assert are_comparable(fresh[0], fresh[1]) and not are_comparable(fresh[0], started[1])


def test_a_title_names_what_makes_another_study_and_not_where_its_images_are() -> None:
    words = ["dataset.root=/images", "dataset.images_per_class=50", "seed=3", "init_from=w.pt", "device=cpu"]
    assert sweeps._own_title("Fig. 6", words) == "Fig. 6 (dataset.images_per_class=50 init_from=w.pt)"


@pytest.mark.slow
def test_a_killed_run_fails_alone_and_is_resumed_by_the_same_command() -> None:
    words = [*MANY, "protocol.steps=1200", "protocol.save_seconds=0.1", "workers=2", "protocol.eval_every=1000"]
    jobs = [cfg for _, cfg in config.expand(words)]
    command = [sys.executable, "-m", "resexp", "sweep", *words]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = jobs[1].run_dir
    wait_for((victim / CHECKPOINT).is_file, sweep)
    os.kill(int((victim / ".pid").read_text()), signal.SIGKILL)
    _, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 1, errors
    assert "killed by signal 9" in errors and "left: 1 of 2 runs" in errors
    assert Run(jobs[0].run_dir).status == "finished"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "resnet8 seed 0: resuming at step" in again.stderr


@pytest.mark.slow
def test_a_signal_to_the_sweep_saves_every_running_job() -> None:
    words = [*MANY, "protocol.steps=100000", "protocol.save_seconds=1000", "workers=2"]
    jobs = [cfg for _, cfg in config.expand(words)]
    command = [sys.executable, "-m", "resexp", "sweep", *words]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: all((cfg.run_dir / METRICS).is_file() for cfg in jobs), sweep)
    sweep.send_signal(signal.SIGTERM)
    _, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 143
    assert [Run(cfg.run_dir).status for cfg in jobs] == ["interrupted"] * 2
    assert "left: 2 of 2 runs" in errors and "at the measured speed" in errors


@pytest.mark.slow
def test_a_time_boxed_sweep_says_what_is_left(resexp: Resexp) -> None:
    result = resexp("sweep", *MANY, "protocol.steps=1000000", "max_minutes=0.15", "workers=1")
    assert result.returncode == 0, result.stderr
    assert "left: 2 of 2 runs" in result.stderr and "the same command resumes" in result.stderr
    jobs = [cfg for _, cfg in config.expand([*MANY, "protocol.steps=1000000"])]
    assert [Run(cfg.run_dir).status for cfg in jobs] == ["interrupted", "new"]


@pytest.mark.slow
def test_a_study_judges_its_claims_and_fails_if_one_does(resexp: Resexp, tmp_path: Path) -> None:
    (tmp_path / "conf" / "study").mkdir(parents=True)
    sweep = [word for word in TINY if not word.startswith("model=")] + ["model=plain8,resnet8", "seed=0,1"]
    for name, bound in (("good", -1000), ("bad", 1000)):
        claim = {"text": "a test", "metric": "test_error", "net": "plain8", "minus": "resnet8", "at_least": bound}
        study = {"title": f"The {name} study", "sweep": sweep, "claims": [claim]}
        (tmp_path / "conf" / "study" / f"{name}.yaml").write_text(json.dumps(study))
    good, bad = (resexp("study", name, "--config-dir", str(tmp_path / "conf")) for name in ("good", "bad"))
    assert good.returncode == 0 and "holds" in good.stdout, good.stderr
    assert bad.returncode == 1 and "does NOT hold" in bad.stdout
    assert Path("outputs/figures/good.svg").is_file()


# --- tables and estimates, from logs alone ------------------------------------------------------------------


def test_runs_that_differ_in_a_setting_are_not_averaged(tmp_path: Path) -> None:
    words = [
        ["model=resnet20", "model.shortcut=B"],
        ["model=resnet20"],
        ["model=resnet20", "seed=1"],
        ["model=plain20"],
    ]
    groups = group_runs([write_run(tmp_path, each) for each in words])
    assert [(group.label, group.seeds) for group in groups] == [
        ("plain20", [0]),
        ("resnet20 shortcut=A", [0, 1]),
        ("resnet20 shortcut=B", [0]),
    ]


def test_runs_of_different_protocols_or_data_are_labelled_though_their_nets_differ(tmp_path: Path) -> None:
    words = (["model=plain20"], ["model=resnet20", "protocol=smoke"], ["model=resnet56", "dataset=synthetic"])
    names = [group.name for group in group_runs([write_run(tmp_path, one) for one in words])]
    assert [name.split()[0] for name in names] == ["plain20", "resnet20", "resnet56"]
    assert "protocol=digits" in names[0] and "protocol=smoke" in names[1] and "dataset=synthetic" in names[2]


def test_the_published_number_stands_beside_the_measured_one(tmp_path: Path) -> None:
    groups = group_runs([write_run(tmp_path, ["model=resnet110", "dataset=cifar10"], test_error=6.5)])
    row = table_rows(groups)[0]
    assert "6.50" in row and "6.43" in row and "He et al. 2015, Table 6" in row


def test_a_net_with_a_changed_block_has_no_published_number_beside_it(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, ["model=resnet110", "dataset=cifar10", *words]) for words in ([], ["model.order=full"])]
    published_cells = {row[0]: row[-2] for row in table_rows(group_runs(runs))}
    assert published_cells == {"resnet110 order=full": "-", "resnet110 order=original": "6.43"}


@pytest.mark.parametrize("name", config.names("study"))
def test_a_studys_file_says_how_many_runs_it_has(name: str) -> None:
    text = (config.CONF / "study" / f"{name}.yaml").read_text()
    stated = re.search(r"(\d+) runs", text)
    assert stated and int(stated[1]) == len(config.load_study(name)[1])


def test_a_studys_own_published_number_stands_before_that_of_the_net(tmp_path: Path) -> None:
    study, _ = config.load_study("activation-order")
    runs = [
        write_run(tmp_path, ["model=resnet110", "dataset=cifar10", "protocol=he2016-cifar", f"model.order={order}"])
        for order in ("original", "full")
    ]
    cells = {row[0]: row[-2:] for row in table_rows(group_runs(runs), study)}
    assert cells["resnet110 order=full"] == ["6.37", "He et al. 2016, Table 2, medians of 5"]


def test_variants_are_run_each_with_the_sweep() -> None:
    study, jobs = config.load_study("vgg-5x5-small", ["seed=0,1"])
    assert len(jobs) == 2 * 2 * 2
    study, jobs = config.load_study("identity-shortcuts-small")
    assert len(jobs) == len(study.variants) == 11
    assert {cfg.model.connection for _, cfg in jobs} == set(catalog.CHOICES["connection"]) - {
        "concatenate",
        "none",
        "skip-init",
        "fading",
    }


def test_a_studys_runs_are_found_in_any_seed_and_reference_runs_until_the_users_own_are_complete(
    tmp_path: Path,
) -> None:
    assert find_study("degradation", tmp_path) is None
    write_reference(tmp_path, "degradation", ["model=plain20", "model.width=8", "seed=5"])
    found = find_study("degradation", tmp_path)
    assert found and found.reference and [run.config["seed"] for run in found.runs] == [5]
    write_run(tmp_path / "runs", ["model=plain20", "model.width=8", "seed=3"])
    write_run(tmp_path / "runs", ["model=plain20", "model.width=16"])  # not the study's
    found = find_study("degradation", tmp_path)
    assert found and found.reference  # one of twelve nets does not hide them
    assert [run.config["seed"] for run in find_study("degradation", tmp_path, only="runs").runs] == [3]  # type: ignore[union-attr]
    others = [job for job, cfg in config.load_study("degradation")[1] if cfg.model.name != "plain20"]
    for index, job in enumerate(others):
        write_run(tmp_path / "runs", [*job, f"seed={index % 3}"])
    found = find_study("degradation", tmp_path)
    assert found and not found.reference and {run.config["seed"] for run in found.runs} == {0, 1, 2, 3}


def test_studies_may_share_a_folder_of_reference_runs(tmp_path: Path) -> None:
    write_reference(tmp_path, "he2015-cifar", ["model=plain20", "dataset=cifar10"])
    for name in ("he2015-cifar", "he2015-fig6"):
        found = find_study(name, tmp_path)
        assert found and found.reference and len(found.runs) == 1


def test_a_studys_data_sets_are_read_from_its_file_alone(tmp_path: Path) -> None:
    for name in config.names("study"):
        known = config.outline_study(name).datasets
        assert known is None or known == {cfg.dataset.name for _, cfg in config.load_study(name)[1]}
    assert config.outline_study("he2015-table2").datasets is None  # named by the folder of the images
    assert config.outline_study("degradation", tmp_path).datasets is None  # there may be other data sets of these names
    assert find_study("resnet-v2", tmp_path) is None


def test_what_is_left_is_estimated_from_measured_speed_and_scaled_by_multiply_adds() -> None:
    jobs = [Job(overrides, cfg) for overrides, cfg in config.expand(["model=plain20,plain110", "dataset=cifar10"])]
    assert seconds_left(jobs) is None
    write_run(Path("outputs/runs"), ["model=plain20", "dataset=cifar10", "seed=7"], images_per_s=1000.0)
    seconds = 64_000 * 128 / 1000
    assert seconds_left(jobs) == pytest.approx([seconds, seconds * 252_887_680 / 40_551_040])
    damaged = write_run(Path("outputs/runs"), ["model=plain20", "seed=8"])  # of no concern to this sweep
    (damaged.path / SUMMARY).write_text('{"status": "fin')
    assert seconds_left(jobs) == pytest.approx([seconds, seconds * 252_887_680 / 40_551_040])


def test_only_a_sweep_of_hours_says_beforehand_how_long_it_takes() -> None:
    def jobs(name: str) -> list[Job]:
        return [Job(overrides, cfg) for overrides, cfg in config.load_study(name)[1]]

    assert is_long(jobs("he2015-fig6-eighth")) and not is_long(jobs("degradation"))
    done = jobs("he2015-fig6-eighth")
    for job in done:
        job.outcome = "finished"
    assert not is_long(done)


@pytest.mark.parametrize(("model", "expected"), [("wrn28_10", True), ("resnet32", False)])
def test_a_wide_net_is_long_in_few_steps(model: str, expected: bool) -> None:
    words = [f"model={model}", "dataset=cifar10", "dataset.root=/none", "protocol.steps=1000"]
    jobs = [Job(overrides, cfg) for overrides, cfg in config.expand(words)]
    assert is_long(jobs) is expected


def test_a_measurement_now_takes_the_place_of_what_the_folder_says() -> None:
    jobs = [Job(overrides, cfg) for overrides, cfg in config.expand(["model=plain20,plain110", "dataset=cifar10"])]
    write_run(Path("outputs/runs"), ["model=plain20", "dataset=cifar10", "seed=7"], images_per_s=1000.0)
    slow = seconds_left(jobs, (jobs[0].cfg, 100.0))
    usual = seconds_left(jobs)
    assert slow is not None and usual is not None and sum(slow) == pytest.approx(10 * sum(usual))


def test_a_net_measured_at_one_size_of_images_is_slower_at_another() -> None:
    words = ["model=resnet20", "dataset=tiny-imagenet50", "dataset.root=/none", "dataset.image_size=16,64"]
    jobs = [Job(overrides, cfg) for overrides, cfg in config.expand(words)]
    small, large = seconds_left(jobs, (jobs[0].cfg, 100.0)) or (0.0, 0.0)
    assert large == pytest.approx(16 * small, rel=0.01) and small > 0


def test_a_net_that_cannot_be_built_leaves_the_time_unknown_and_ends_no_report() -> None:
    write_run(Path("outputs/runs"), ["model=plain8", "dataset=digits"], images_per_s=1000.0)
    jobs = [Job(overrides, cfg) for overrides, cfg in config.expand(["model=plain14,vgg_d", "dataset=digits"])]
    assert seconds_left(jobs) is None and seconds_left(jobs[:1])


def test_a_net_that_cannot_be_measured_holds_up_no_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.bench.measure.measure_together", lambda *_: {"failed": "out of memory"})
    sweeps._say_how_long(config.load_study("he2015-fig6-eighth", ["dataset.root=/none"])[1])
    assert "how long it takes is unknown: plain20 could not be measured: out of memory" in capsys.readouterr().err


def test_a_time_box_is_not_spent_on_measuring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []
    monkeypatch.setattr("resexp.bench.measure.measure_together", lambda *_: measured.append(1) or {"failed": "no"})
    for words in (["max_minutes=8"], []):
        sweeps._say_how_long(config.load_study("he2015-fig6-eighth", ["dataset.root=/none", *words])[1])
        assert len(measured) == (not words) and bool(capsys.readouterr().err) == (not words)


def test_a_net_that_cannot_be_built_makes_no_sweep_look_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.bench.measure.measure_together", lambda *_: {"images_per_s": 100.0})
    sweeps._say_how_long(config.expand(["model=resnet14,vgg_e", "dataset=digits", "protocol.steps=300000"]))
    said = capsys.readouterr().err
    assert "how long it takes is unknown: not every net can be built" in said and "0 s" not in said


def test_every_study_can_say_how_long_it_takes_from_one_net() -> None:
    for name in ("remedies", "dense-vs-residual-small", "highway-small", "transformer-depth-small", "precision"):
        jobs = [Job(overrides, cfg) for overrides, cfg in config.load_study(name)[1]]
        seconds = seconds_left(jobs, (jobs[0].cfg, 1000.0))
        assert seconds and len(seconds) == len(jobs) and min(seconds) > 0
    assert seconds_together([60.0, 60.0, 60.0], 2) == 90.0
    assert seconds_together([10.0, 80.0], 2) == 80.0  # one run cannot be shared out


def test_a_long_study_begins_with_its_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("resexp.bench.measure.measure_together", lambda *_: {"images_per_s": 400.0})
    monkeypatch.setattr("resexp.sweep.local.run_sweep", lambda *_args, **_: pytest.fail("as far as here"))
    with pytest.raises(pytest.fail.Exception):
        main(["study", "he2015-fig6-eighth", "model=plain20", "dataset.root=/none", "seed=0"])
    seconds = 2 * 8000 * 128 / 400  # at both rates
    assert f"about {duration(seconds)} of training for 2 runs" in capsys.readouterr().err


def test_runs_share_their_sweeps_session_and_so_its_nice_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux schedules by session: a child in a session of its own would not be nice, whatever its sweep was told."""
    seen = []
    started = subprocess.Popen

    def record(*args: object, **options: object) -> subprocess.Popen:
        process = started(*args, **options)  # type: ignore[call-overload]
        seen.append((os.getsid(process.pid), os.getpgid(process.pid)))
        return process

    monkeypatch.setattr("resexp.sweep.local.subprocess.Popen", record)
    assert main(["sweep", *TINY, "seed=0"]) == 0
    assert [session for session, _ in seen] == [os.getsid(0)]
    assert seen[0][1] != os.getpgid(0)  # and a terminal's Ctrl-C does not reach it


def test_workers_are_chosen_from_the_cores_or_the_gpu() -> None:
    assert choose_workers("cpu", 6) == 6
    assert choose_workers("cuda:1", 6) == 4
    assert choose_workers("cuda", 2) == 2


# --- the reference runs and the scripts -------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent


def test_the_committed_runs_come_to_the_embedded_studys_verdicts_in_five_seeds(tmp_path: Path) -> None:
    loaded = config.load_study("degradation")[1]
    (tmp_path / "reference").symlink_to(ROOT / "outputs" / "reference")
    degradation = find_study("degradation", tmp_path)
    assert degradation and degradation.reference
    found = degradation.runs
    assert len(found) == 60 and all(run.status == "finished" and run.step == 1280 for run in found)
    expected = {config.load([*job, f"seed={seed}"]).run_name for job, _ in loaded for seed in range(5)}
    assert {run.path.name for run in found} == expected
    verdicts = {verdict.claim.id: verdict for verdict in judge(degradation.study.claims, degradation.groups)}
    undecided = {"plain-saturates", "residual-56-20"}  # within a point? five seeds cannot tell
    assert {key for key, verdict in verdicts.items() if verdict.word == Outcome.UNDECIDED} == undecided
    assert all(verdict.word == Outcome.HOLDS for key, verdict in verdicts.items() if key not in undecided)
    assert all(verdict.seeds == (0, 1, 2, 3, 4) for verdict in verdicts.values())


def test_plot_curves_overlays_any_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, [f"model={net}"]) for net in ("plain20", "resnet56")]
    command = [sys.executable, str(ROOT / "scripts" / "plot_curves.py"), *(str(run.path) for run in runs)]
    result = subprocess.run([*command, "--out", "mine"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path("mine.png").stat().st_size > 10_000 and "resnet56" in result.stdout
    bad = subprocess.run([*command, "nowhere"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_dry_run_of_the_reproduction_ends_in_its_time_and_resumes(tmp_path: Path) -> None:
    tiny = [
        "dataset=synthetic",
        "model.width=2",
        "protocol.steps=2",
        "protocol.batch_size=8",
        "protocol.eval_every=2",
        "dataset.examples=40",
        "tensorboard=false",
        f"output_dir={tmp_path}/out",
    ]

    def reproduce(minutes: str) -> subprocess.CompletedProcess:
        env = {**os.environ, "MINUTES": minutes, "SEEDS": "", "RESEXP": f"{sys.executable} -m resexp"}
        command = [str(ROOT / "scripts" / "reproduce_cifar10.sh"), *tiny]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)

    first = reproduce("0.3")
    assert first.returncode in (0, 1), first.stderr  # two steps decide no claim
    begun = find_runs(tmp_path / "out" / "runs")
    finished = [run for run in begun if run.status == "finished"]
    assert 1 <= len(finished) < 15
    assert {"plain20", "plain56"} <= {run.path.name.partition("-")[0] for run in begun}
    assert "left:" in first.stderr and "at the measured speed" in first.stderr
    second = reproduce("inf")
    assert second.returncode in (0, 1), second.stderr
    runs = find_runs(tmp_path / "out" / "runs")
    assert len(runs) == 9 + 4 + 2 and all(run.status == "finished" for run in runs)
    assert f"{len(finished)} already finished" in second.stderr
    assert not (ROOT / "outputs" / "reference" / "he2015-cifar.jsonl").exists()  # two steps are no result


def test_the_reproduction_runs_every_net_of_its_study_and_what_tells_most_first(tmp_path: Path) -> None:
    env = {**os.environ, "MINUTES": "inf", "SEEDS": "1 2", "RESEXP": "echo"}
    command = [str(ROOT / "scripts" / "reproduce_cifar10.sh"), f"output_dir={tmp_path}"]
    said = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout.splitlines()
    stages = [line for line in said if line.startswith("== ")]
    five, four, three = "Fig. 1 and ResNet-110", "the rest of Fig. 6", "pre-activation beside the original"
    assert stages == [
        "== Fig. 6, seed 0",
        f"== plain-110, and {three}, seed 0",
        *(f"== {what}, seed {seed}" for what in (five, four, three) for seed in (1, 2)),
        "== over a thousand layers, seed 0",
    ]
    sweeps = [line.split()[1:] for line in said if line.startswith("sweep ")]
    runs = {cfg.run_name for words in sweeps for _, cfg in config.expand(words)}
    runs |= {cfg.run_name for _, cfg in config.load_study("he2015-fig6")[1]}
    study = {cfg.run_name for _, cfg in config.load_study("he2015-cifar")[1]}
    assert study < runs and len(runs) == 15 + 2 * (5 + 4 + 3)


def test_finished_runs_are_kept_with_the_project_and_not_repeated_elsewhere(tmp_path: Path) -> None:
    def copy(source: str, target: str, *more: str) -> list[str]:
        command = [sys.executable, str(ROOT / "scripts" / "copy_results.py"), "he2015-cifar", source, target, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return [Path(line).name for line in done.stdout.splitlines()]

    words = ["model=plain20", "dataset=cifar10", "dataset.root=/home/somebody/images"]
    full = write_run(tmp_path / "runs", words)
    other_seed = write_run(tmp_path / "runs", [*words, "seed=4"], status="diverged")
    half = write_run(tmp_path / "runs", ["model=plain56", "dataset=cifar10"], status="interrupted")
    write_run(tmp_path / "runs", [*words, "protocol.steps=300"])  # a try, not the study's
    (full.path / "checkpoint.pt").write_text("large")
    assert copy("runs", "kept.jsonl") == [full.path.name, other_seed.path.name] and copy("runs", "kept.jsonl") == []
    assert copy("runs", "kept.jsonl", "--unfinished") == [half.path.name]
    kept = runs_at(tmp_path / "kept.jsonl")[full.path.name]
    assert (kept.status, kept.env) == ("finished", full.env)
    assert kept.summary == full.summary and kept.metrics == full.metrics
    assert "somebody" not in (tmp_path / "kept.jsonl").read_text()
    assert copy("kept.jsonl", "outputs/runs") == [full.path.name, other_seed.path.name]
    folder = tmp_path / "outputs" / "runs" / full.path.name
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "env.json", "metrics.jsonl", "summary.json"}
    assert config.load_file(folder / "config.yaml").run_name == full.path.name
    assert (folder / METRICS).read_text() == (full.path / METRICS).read_text()
    sweep = plan_sweep(config.expand([*words[:2], f"output_dir={tmp_path}/outputs"]))
    assert [job.outcome for job in sweep.jobs] == ["finished"]


def test_a_long_sweep_says_beforehand_how_long_it_will_take_and_how_long_in_bf16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"fp32": 100.0, "bf16": 250.0}
    monkeypatch.setattr(
        "resexp.bench.measure.measure_together",
        lambda cfg, together, steps: {"images_per_s": rates[cfg.protocol.precision]},
    )
    monkeypatch.setattr("resexp.sweep.estimate.LONG", 0)
    monkeypatch.setattr("resexp.runtime.multiplies", lambda precision, device: True)
    words = ["model=resnet20", "dataset=synthetic", "protocol=he2015-cifar", "protocol.val_size=0", "device=cpu"]
    jobs = config.expand([*words, "protocol.steps=90000", "seed=0,1"])
    sweeps._say_how_long(jobs)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(
        "about 64 h 00 min of training for 2 runs one after another, by resnet20's 100 images/s here now"
    )
    assert said[1] == "in bf16 about 25 h 36 min: protocol.precision=bf16, which are other runs"


def test_runs_that_differ_within_one_protocol_stay_apart_beside_another_protocol(tmp_path: Path) -> None:
    words = [["protocol.precision=bf16"], [], ["protocol=he2015-cifar", "dataset=synthetic", "protocol.val_size=0"]]
    runs = [write_run(tmp_path, ["model=plain20", *one]) for one in words]
    labels = {group.label for group in group_runs(runs)}
    assert len(labels) == 3
    assert sum("protocol.precision=bf16" in label for label in labels) == 1
    assert sum("protocol=he2015-cifar" in label and "momentum" not in label for label in labels) == 1


def test_two_protocols_are_compared_whatever_data_they_suit(capsys: pytest.CaptureFixture[str]) -> None:
    for pair in (["he2015-cifar", "he2015-imagenet"], ["he2015-imagenet", "vgg-imagenet"]):
        assert main(["protocols", *pair]) == 0
        assert "scales" in capsys.readouterr().out
    assert main(["protocols", "digits", "digits"]) == 0
    assert "differ in nothing" in capsys.readouterr().out
    assert main(["protocols", "digits", "nosuch"]) == 2


def test_published_multiply_adds_have_the_unit_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" resnet50 "))
    assert "3,857.97" in line and "3,800" in line


def test_a_narrow_terminal_breaks_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.console.PIPED_WIDTH", 60)
    row = ["a long name of a net " * 3, "11,515,688", "3,644.49", "0,1,2,3,4"]
    print_table(("net", "of parameters", "multiply-adds", "test seeds"), [row])
    said = capsys.readouterr().out
    assert all(number in said for number in row[1:]) and "not shown" not in said
    assert all(len(line) <= 60 for line in said.splitlines())


def test_a_terminal_of_80_columns_keeps_what_a_verdict_is_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.console.PIPED_WIDTH", 80)
    study = find_study("resnet-v2-small", ROOT / "outputs", only="reference")
    assert study
    print_table(VERDICT_COLUMNS, verdict_rows(judge(study.study.claims, study.groups), study.study))
    said = capsys.readouterr().out
    assert "published" in said and "+5.30 (-13.17 to 23.76)" in said and "preresnet110" in said
    assert "not shown, as the terminal is too narrow: seeds" in said


def test_a_sentence_that_begins_with_a_number_wraps_and_a_column_of_dashes_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.console.PIPED_WIDTH", 60)
    measured = "7.5 % whole, 8.5 % in the median, 27.0 % at most (block 10)"
    print_table(
        ("what", "measured", "expected", "none", "agrees"), [["a block dropped", measured, "little", "-", "yes"]]
    )
    said = capsys.readouterr().out
    assert "agrees" in said and "expected" in said and "not shown" not in said and "none" not in said


@pytest.mark.parametrize("width", [160, 80, 45])
def test_a_long_path_breaks_and_drives_no_error_away(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.console.PIPED_WIDTH", width)
    path = f"/home/{'student/' * 20}plain20.safetensors"
    print_table(("net", "weights", "loss", "test error %"), [["plain20", path, "0.4327", "14.74"]])
    said = capsys.readouterr().out
    assert "plain20" in said and "0.4327" in said and "14.74" in said and "not shown" not in said


def test_a_sentence_folds_before_a_name_breaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.console.PIPED_WIDTH", 60)
    name = "dense-augmentation-small"
    print_table(("study", "what"), [[name, "Dense and residual nets with and without augmentation, small"]])
    assert name in capsys.readouterr().out


def test_a_title_is_a_line_of_its_own_however_narrow_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("net", "error %"), [["plain20", "9.7"]], "Errors on CIFAR-10, 10,000 test images, after 64,000 steps")
    assert capsys.readouterr().out.startswith("Errors on CIFAR-10, 10,000 test images, after 64,000 steps\n")


def test_a_table_is_printed_though_its_figure_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    group = group_runs([write_run(tmp_path, ["model=plain20"])])

    def full(*_: object, **__: object) -> list[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resexp.figures.study.draw_study", full)
    with pytest.raises(UserError, match="No space"):
        draw(group, tmp_path / "figures" / "x", title="t", note="n", study=None)
    assert "plain20" in capsys.readouterr().out


def test_a_narrow_terminal_leaves_out_what_matters_least_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resexp.console.PIPED_WIDTH", 60)
    columns = ("net", "width", "parameters", "train error %", "test error %", "published", "source")
    print_table(columns, [["plain20", "16", "269,722", "8.20 ± 0.10", "9.70 ± 0.20", "9.7", "He et al. 2015, Fig. 1"]])
    said = capsys.readouterr().out
    assert "published" in said and "9.70 ± 0.20" in said and "269,722" not in said
    assert "not shown, as the terminal is too narrow: parameters, source" in said
