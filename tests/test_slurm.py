"""``launcher=slurm``: what needs no SLURM, and a sweep on a real one that this machine starts for itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import TINY, wait_for

from resexp import UserError, config
from resexp.run.files import write_json
from resexp.run.reader import CHECKPOINT, ENV, SUMMARY, Run
from resexp.sweep import slurm
from resexp.sweep.plan import plan_sweep

Resexp = Callable[..., subprocess.CompletedProcess]
SCRIPT = Path(__file__).parent.parent / "scripts" / "local_slurm.sh"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
LONG = [
    "dataset=synthetic",
    "model=resnet8",
    "model.width=4",
    "protocol.steps=4000",
    "protocol.batch_size=32",
    "protocol.eval_every=400",
    "protocol.log_every=50",
    "protocol.lr_drops=[]",
    "protocol.save_seconds=1",
    "tensorboard=false",
    "seed=0,1,2,3",
    "launcher=slurm",
    "launcher.partition=debug",
]


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Commands of SLURM that answer with a script, before all others."""
    folder.mkdir(exist_ok=True)
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def check(words: list[str]) -> None:
    slurm.check_slurm(config.load(["launcher=slurm", *words]).launcher)


def test_a_missing_launcher_a_silent_slurm_and_an_unknown_partition_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(UserError, match=r"pip install 'resexp\[slurm\]'"):
            check([])
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match="no sbatch on this machine"):
            check([])
    fake(tmp_path / "bin", monkeypatch, sbatch="exit 1", sinfo="echo 'unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match="SLURM does not answer"):
        check([])
    fake(tmp_path / "bin", monkeypatch, sinfo="echo gpu; echo cpu; echo gpu")
    with pytest.raises(UserError, match=r"launcher.partition=gpus: no such partition; did you mean gpu\?"):
        check(["launcher.partition=gpus"])
    check(["launcher.partition=cpu"])


def test_one_run_takes_no_launcher(resexp: Resexp) -> None:
    result = resexp("train", "launcher=slurm")
    assert result.returncode == 2 and "launcher=slurm: train runs here; resexp sweep" in result.stderr


def test_the_launcher_is_no_part_of_a_runs_name() -> None:
    assert config.load(["launcher=slurm", "launcher.hours=2"]).run_name == config.load([]).run_name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher=slrum"], "launcher=slrum: no such launcher; choose from local, slurm"),
        (["launcher.hours=0"], "launcher.hours=0.0: must be above 0"),
        (["launcher.processes=0"], "launcher.processes=0: must be at least 1"),
    ],
)
def test_mistakes_in_the_launchers_settings_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.load(words)


def test_settings_become_submitits_words() -> None:
    words = [
        "launcher=slurm",
        "launcher.hours=0.5",
        "launcher.gpus=2",
        "launcher.processes=2",
        "launcher.nodes=3",
        "launcher.memory_gb=64",
        "launcher.options={account: me}",
    ]
    found = slurm.parameters(config.load(words).launcher, at_once=4)
    assert (found["timeout_min"], found["nodes"], found["tasks_per_node"], found["gpus_per_node"]) == (30, 3, 2, 2)
    assert found["slurm_additional_parameters"] == {"requeue": True, "account": "me"}
    assert "slurm_partition" not in found and "cpus_per_task" not in found


def test_states_come_from_the_folder_and_from_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = plan_sweep(config.expand([*TINY, "seed=0,1,2,3", "launcher=slurm"]))
    for index, job in enumerate(sweep.jobs[:3]):
        job.cfg.run_dir.mkdir(parents=True)
        write_json(job.cfg.run_dir / slurm.JOB, {"job": f"7_{index}"})
    (sweep.jobs[2].cfg.run_dir / "log.txt").write_text("out of luck\n")
    fake(tmp_path / "bin", monkeypatch, squeue="echo '7_0 PENDING'; echo '7_1 RUNNING'; echo '7_2 NODE_FAIL'")
    slurm.refresh(sweep)
    assert [job.outcome for job in sweep.jobs] == ["queued", "running", "failed", "waiting"]
    assert "node_fail" in sweep.jobs[2].message and "out of luck" in sweep.jobs[2].message
    monkeypatch.setenv("PATH", "/nowhere")  # a machine that only sees the folder
    slurm.refresh(sweep)
    assert [job.outcome for job in sweep.jobs] == ["unknown", "unknown", "unknown", "waiting"]


def test_a_damaged_summary_ends_no_look_at_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run resumes, as in a sweep here."""
    monkeypatch.setenv("PATH", "/nowhere")
    sweep = plan_sweep(config.expand([*TINY, "launcher=slurm"]))
    folder = sweep.jobs[0].cfg.run_dir
    folder.mkdir(parents=True)
    (folder / SUMMARY).write_text('{"status": "fin')
    slurm.refresh(sweep)
    assert sweep.jobs[0].outcome == "waiting"


def test_what_may_be_in_the_queue_is_not_submitted_again_while_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = config.expand([*TINY, "seed=0,1", "launcher=slurm"])
    for _, cfg in jobs:
        cfg.run_dir.mkdir(parents=True)
        write_json(cfg.run_dir / slurm.JOB, {"job": "7_0"})
    fake(tmp_path / "bin", monkeypatch, sbatch="touch submitted", sinfo="echo all", squeue="exit 1")
    with pytest.raises(UserError, match="2 runs submitted before may still be in the queue"):
        slurm.submit_sweep(jobs)
    assert not Path("submitted").exists() and json.loads((jobs[0][1].run_dir / slurm.JOB).read_text())["job"] == "7_0"


def test_no_job_is_submitted_whose_number_could_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = config.expand([*TINY, "launcher=slurm"])
    Path("outputs").mkdir()
    Path("outputs/runs").touch()  # a file where the folder should be
    fake(tmp_path / "bin", monkeypatch, sbatch="touch submitted", sinfo="echo all", squeue="true")
    with pytest.raises(UserError, match=r"cannot write into outputs.*nothing was started"):
        slurm.submit_sweep(jobs)
    assert not Path("submitted").exists()


def test_a_queue_that_does_not_answer_once_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = plan_sweep(config.expand([*TINY, "seed=0", "launcher=slurm"]))
    run_dir = sweep.jobs[0].cfg.run_dir
    run_dir.mkdir(parents=True)
    write_json(run_dir / slurm.JOB, {"job": "7_0"})
    asked = tmp_path / "asked"
    answers = "1) echo '7_0 RUNNING';; 2) exit 1;; *) echo '7_0 COMPLETED';;"
    fake(tmp_path / "bin", monkeypatch, squeue=f"echo . >> {asked}; case $(wc -l < {asked}) in {answers} esac")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0)
    slurm.wait_for(sweep)
    assert len(asked.read_text().split()) == 3 and sweep.jobs[0].outcome == "failed"  # gone, and without a summary
    said = capsys.readouterr().err
    assert said.index("running") < said.index("unknown") < said.index("failed")
    monkeypatch.setenv("PATH", "/nowhere")  # where there is no queue to ask, nothing is waited for
    slurm.wait_for(sweep)


def test_status_starts_nothing_and_wait_is_for_clusters(resexp: Resexp) -> None:
    shown = resexp("sweep", *TINY, "seed=0,1", "--status")
    assert shown.returncode == 0 and shown.stdout.count("waiting") == 2, shown.stderr
    assert not list(Path("outputs").glob("runs/*/summary.json"))
    refused = resexp("sweep", *TINY, "seed=0,1", "--wait")
    assert refused.returncode == 2 and "--wait is for launcher=slurm" in refused.stderr


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SLURM of this machine, and the folder in which it works."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing or PROGRAMS)} (Debian: slurm-wlm, munge)")
    folder = tmp_path / "slurm"
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    subprocess.run([SCRIPT, "start", folder], check=True)
    yield
    subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.mark.slurm
def test_a_sweep_survives_a_failure_a_cancelled_job_and_a_preemption(cluster: None, resexp: Resexp) -> None:
    jobs = [cfg for _, cfg in config.expand(LONG)]
    folders = [cfg.run_dir for cfg in jobs]
    folders[3].mkdir(parents=True)
    (folders[3] / CHECKPOINT).write_bytes(b"no checkpoint")  # this run fails as soon as it starts

    def job_of(index: int) -> str:
        return json.loads((folders[index] / slurm.JOB).read_text())["job"]

    def state(index: int) -> str:
        return (slurm.queue_states() or {}).get(job_of(index), "")

    left = resexp("sweep", *LONG)
    assert left.returncode == 0 and "4 submitted" in left.stderr and "queued" in left.stdout, left.stderr

    wait_for(lambda: (folders[1] / CHECKPOINT).is_file() and Run(folders[1]).step > 100)
    subprocess.run(["scancel", job_of(1)], check=True)  # cancelled, then requeued
    wait_for(lambda: state(1) == "CANCELLED")
    subprocess.run(["scontrol", "requeue", job_of(1)], check=True)
    wait_for(lambda: (folders[2] / CHECKPOINT).is_file() and Run(folders[2]).step > 100)
    subprocess.run(["scancel", "--signal=USR2", job_of(2)], check=True)  # what a preemption sends

    waited = resexp("sweep", *LONG, "--wait")
    assert "seed 3: failed" in waited.stderr and "truncated or damaged" in waited.stderr
    assert waited.returncode == 1 and "0 submitted" in waited.stderr, waited.stderr
    assert [Run(folder).status for folder in folders[:3]] == ["finished"] * 3
    for index in (1, 2):
        resumed = Run(folders[index]).env["resumed"]
        assert len(resumed) == 1 and resumed[0]["step"] >= 50, resumed  # it resumed, and did not start again
    table = next(line for line in waited.stdout.splitlines() if line.strip().startswith("resnet8 "))
    assert "0,1,2" in table and "4,000" in table

    finished = [(folder / SUMMARY).stat().st_mtime_ns for folder in folders[:3]]
    (folders[3] / CHECKPOINT).unlink()
    again = resexp("sweep", *LONG, "--wait")
    assert again.returncode == 0 and "1 submitted, 3 finished" in again.stderr, again.stderr
    nothing = resexp("sweep", *LONG)
    assert "0 submitted, 4 finished" in nothing.stderr and nothing.stdout.count("finished") == 4
    assert [(folder / SUMMARY).stat().st_mtime_ns for folder in folders[:3]] == finished


@pytest.mark.slurm
def test_a_job_of_two_tasks_is_one_run_of_two_processes(cluster: None, resexp: Resexp) -> None:
    words = [*TINY, "protocol.norm_group=16", "launcher=slurm", "launcher.processes=2"]
    result = resexp("sweep", *words, "--wait")
    assert result.returncode == 0, result.stderr
    run = Run(config.load(words).run_dir)
    assert run.status == "finished" and run.env["world_size"] == 2


@pytest.mark.slurm
def test_a_job_that_reaches_its_time_limit_saves_and_resumes(cluster: None, resexp: Resexp) -> None:
    limit = ["launcher.hours=0.01", "launcher.save_seconds=30"]  # SLURM counts in minutes: one, and the half of it
    words = [*LONG[:-3], "protocol.steps=100000000", "launcher=slurm", *limit]
    run_dir = config.load(words).run_dir
    assert resexp("sweep", *words).returncode == 0
    wait_for(lambda: (run_dir / ENV).is_file() and "resumed" in Run(run_dir).env, seconds=180)
    job = json.loads((run_dir / slurm.JOB).read_text())["job"]
    assert slurm.queue_states() == {job: "RUNNING"}  # the same job, and SLURM has not counted it as timed out
    assert Run(run_dir).env["resumed"][0]["step"] >= 50
