"""Runs as lines of a file: what is kept, what is pointed to, and what a damaged line says."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from helpers import write_run

from resexp import UserError
from resexp.run.files import CHECKSUMS
from resexp.run.reader import CONFIG, ENV, METRICS, SUMMARY, TAIL, Run
from resexp.run.store import keep_runs, runs_at, stores, unpack_run


def test_a_run_comes_back_from_its_line_as_it_was(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", ["model=plain20"], train_error=1 / 3)
    keep_runs([run], tmp_path / "one.jsonl")
    kept = runs_at(tmp_path / "one.jsonl")[run.path.name]
    assert kept.path == tmp_path / "one.jsonl" / run.path.name
    assert (kept.config, kept.env, kept.summary, kept.metrics) == (run.config, run.env, run.summary, run.metrics)
    assert kept.curve("train") == run.curve("train") and kept.status == "finished"
    unpack_run(kept, tmp_path / "again")
    assert (tmp_path / "again" / METRICS).read_bytes() == (run.path / METRICS).read_bytes()


def test_a_run_that_two_studies_share_is_kept_once_if_its_numbers_are_the_same(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", ["model=plain20"])
    keep_runs([run], tmp_path / "first.jsonl")
    keep_runs([run], tmp_path / "second.jsonl")
    assert json.loads((tmp_path / "second.jsonl").read_text()) == {"name": run.path.name, "kept_in": "first"}
    assert runs_at(tmp_path / "second.jsonl")[run.path.name].metrics == run.metrics
    other = write_run(tmp_path / "elsewhere", ["model=plain20"], train_error=7.0)  # another processor's rounding
    keep_runs([other], tmp_path / "third.jsonl")
    assert runs_at(tmp_path / "third.jsonl")[run.path.name].summary["train_error"] == 7.0
    keep_runs([other], tmp_path / "first.jsonl")  # to which the second points
    assert all(run.path.name in runs_at(tmp_path / f"{name}.jsonl") for name in ("first", "second", "third"))


def test_a_kept_run_names_no_folder_of_its_machine(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", ["model=plain20"])
    env = json.loads((run.path / ENV).read_text())
    folders = ["--config-dir", "/home/me/my conf", "dataset.root=/data/my images", "init_from=/tmp/xy/start.pt"]
    env["command"] = shlex.join(["resexp", "train", "model=plain20", *folders, "protocol.lr_drops=[1,2]"])
    env["resumed"] = [{"step": 3, "command": "resexp train model=plain20 output_dir=/home/me/out"}]
    (run.path / ENV).write_text(json.dumps(env))
    settings = yaml.safe_load((run.path / CONFIG).read_text())
    settings["dataset"] |= {"root": "/data", "pack": "/packs"}
    settings |= {"init_from": "/tmp/xy/start.pt", "resume_from": None}
    (run.path / CONFIG).write_text(yaml.safe_dump(settings))
    summary = {key: value for key, value in run.summary.items() if key != CHECKSUMS}
    (run.path / SUMMARY).write_text(json.dumps(summary))
    keep_runs([Run(run.path)], tmp_path / "one.jsonl")
    text = (tmp_path / "one.jsonl").read_text()
    assert not any(word in text for word in ("/home", "/data", "/tmp", "/packs", "my conf", "my images"))
    kept = json.loads(text)
    assert kept[ENV]["command"] == "resexp train model=plain20 init_from=start.pt 'protocol.lr_drops=[1,2]'"
    assert kept[ENV]["resumed"] == [{"step": 3, "command": "resexp train model=plain20"}]
    assert kept[CONFIG]["init_from"] == "start.pt"


def test_the_kept_runs_of_the_project_name_no_folder_of_a_machine() -> None:
    reference = Path(__file__).parent.parent / "outputs" / "reference"
    folders = re.compile(r"""["'= ]/\w""")
    assert [path.name for path in reference.glob("*.jsonl") if folders.search(path.read_text())] == []


def test_a_file_that_grows_large_goes_on_in_others_which_are_read_and_written_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path / "runs", ["model=plain20", f"seed={seed}"], train_error=seed) for seed in range(6)]
    file = tmp_path / "kept" / "one.jsonl"
    keep_runs(runs[:1], file)
    size = file.stat().st_size
    monkeypatch.setattr("resexp.run.store.PART_BYTES", 2 * size + size // 2)
    keep_runs(runs[1:], file)
    names = ["one.2.jsonl", "one.3.jsonl", "one.jsonl"]
    assert sorted(path.name for path in file.parent.iterdir()) == names and stores(file.parent) == [file]
    assert all(path.stat().st_size < 3 * size for path in file.parent.iterdir())
    found = runs_at(file)
    assert sorted(run.summary["train_error"] for run in found.values()) == list(range(6))
    keep_runs([runs[5]], file.with_name("two.jsonl"))  # points to it, in whichever part it lies
    assert runs_at(file.with_name("two.jsonl"))[runs[5].path.name].metrics == runs[5].metrics
    monkeypatch.undo()
    keep_runs(runs[:1], file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["one.jsonl", "two.jsonl"]
    assert runs_at(file).keys() == found.keys()


@pytest.mark.parametrize("line", ["", "{", "[]", '{"name": "a"}', '{"name": "a", "config.yaml": 3}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "runs", ["model=plain20"])
    keep_runs([run], tmp_path / "one.jsonl")
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=r"one\.jsonl, line 2: damaged; restore the file"):
        runs_at(tmp_path / "one.jsonl")


def test_a_line_that_points_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"name": "plain20-x", "kept_in": "other"}\n')
    with pytest.raises(UserError, match=r"plain20-x is not in other\.jsonl; restore both files"):
        runs_at(tmp_path / "one.jsonl")


def test_where_there_is_nothing_there_are_no_runs(tmp_path: Path) -> None:
    assert runs_at(tmp_path / "nowhere") == runs_at(tmp_path / "nowhere.jsonl") == {}
    assert isinstance(next(iter(runs_at(write_run(tmp_path / "runs", ["model=plain20"]).path.parent).values())), Run)


def test_the_last_lines_of_a_long_log_are_found_at_its_end(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["model=plain20"])
    line = {"epoch": 0, "loss": 1, "error": 50, "lr": 0.1, "images_per_s": 100}
    with (run.path / "metrics.jsonl").open("w") as log:
        for step in range(1, 3000):
            log.write(json.dumps({"step": step, "split": "train", **line}) + "\n")
            if step % 100 == 0:
                log.write(json.dumps({"step": step, "split": "test", **line}) + "\n")
        log.write('{"step": 3000, "split": "tra')
    assert (run.path / "metrics.jsonl").stat().st_size > 3 * TAIL
    last = {record["split"]: record for record in run.metrics}
    assert run.latest == last and last["train"]["step"] == 2999 and last["test"]["step"] == 2900
    assert Run(tmp_path / "nowhere").latest == {}
