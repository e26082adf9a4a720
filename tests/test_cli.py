"""The commands, as a user types them."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TINY, write_run

from resexp import __version__, config
from resexp.cli import main
from resexp.cli.main import COMMANDS
from resexp.cli.train import result_line

Resexp = Callable[..., subprocess.CompletedProcess]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out
    assert main([]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert COMMANDS[command].help in capsys.readouterr().out


def test_help_shows_groups_keys_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "dataset=cifar10, cifar10-16, cifar100, digits" in text
    assert all(f"  {key}=" in text for key, _ in config.describe_keys(config.Config))
    assert "protocol.lr_drops=[640, 960]" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["trian"], "no command trian; did you mean train?"),
        (["train", "model=plain65"], "depth=65 is not 6n+2"),
        (["study", "degradatoin"], "did you mean degradation?"),
        (["eval", "nowhere"], "nowhere: not a run folder"),
        (["figures", "he2015-fig6"], "start them with: resexp study he2015-fig6"),
        (["figures"], "start with: resexp study degradation"),
        (["protocols", "digits"], "none (a list) or two names"),
        (["protocols", "digits", "smok"], "did you mean smoke?"),
        (["bench", "--against", "nothing"], "invalid choice"),
        (["bench", "--rounds", "0"], "--rounds=0: must be at least 1"),
        (["bench", "--growth", "--against", "plain"], "drop one of the two"),
        (["bench", "--against", "reference", "protocol.optimizer=adamw"], "the usual loop has SGD; drop one"),
        (["models", "--explian"], "unrecognized arguments"),
        (["eval", "model=resnet20"], "or weights=FILE with the settings of a net"),
        (["eval", "weights=nowhere.pt", "model=resnet20"], "weights=nowhere.pt: No such file"),
        (["train", "model=vgg_d", "model.cardinality=32"], "vgg nets have no such knob; theirs: batch_norm"),
        (["train", "model=vgg_d"], "images of 8 pixels vanish in the pooling after stage 4 of vgg_d"),
        (["train", "model=transformer6", "model.heads=5"], "model.heads=5: does not divide model.width=192"),
        (["bench", "dataset=cifar10"], "where are the images?"),
        (["models", "now"], "unrecognized arguments: now"),
        (["train", "--config-dir", "nowhere"], "no such folder"),
        (["train", "dataset=cifar10", "dataset.root=nowhere"], "found in nowhere neither cifar10/train/<class>/"),
        (["train", "dataset=imagefolder", "dataset.root=nowhere"], "nowhere: no such folder"),
        (["train", "device=cuda:99"], "this machine has"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("resexp: error: ")
    assert answer in err


def test_results_go_to_stdout_and_progress_to_stderr(resexp: Resexp) -> None:
    result = resexp("train", *TINY)
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1 and "resnet8 on synthetic: finished at step 12 of 12" in result.stdout
    assert "starting at step 0 of 12" in result.stderr and "\x1b" not in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("words", "stands"),
    [(["dataset=cifar10"], True), (["dataset=cifar10", "protocol.steps=8000"], False), (["dataset=digits"], False)],
)
def test_the_published_number_stands_beside_a_run_of_its_images_and_length(words: list[str], stands: bool) -> None:
    cfg = config.load(["model=resnet20", *words])
    line = result_line(cfg, {"status": "finished", "step": cfg.protocol.steps, "test_error": 9.0})
    assert ("published 8.75% (He et al. 2015, Table 6)" in line) is stands


def test_eval_prints_the_test_error_of_a_run(resexp: Resexp, capsys: pytest.CaptureFixture[str]) -> None:
    assert resexp("train", *TINY).returncode == 0
    folder = config.load(TINY).run_dir
    assert main(["eval", str(folder)]) == 0
    error = json.loads((folder / "summary.json").read_text())["test_error"]
    assert f"{error:.2f}" in capsys.readouterr().out


def test_models_prints_counts_beside_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["resnet110"][1:5] == ["110", "1,727,962", "1.7M", "252.89"]


def test_protocols_shows_where_two_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["protocols", "he2015-cifar", "he2015-cifar-full"]) == 0
    rows = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" protocol") or "_" in line
    ]
    assert rows == [["val_size", "5000", "0"]]


@pytest.mark.parametrize("command", ["datasets", "protocols", "studies", "config"])
def test_lists_print(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 0
    names = {"config": ["family: resnet"], "studies": config.names("study")}.get(command) or config.names(command[:-1])
    out = capsys.readouterr().out
    assert all(name in out for name in names)


@pytest.mark.slow
def test_bench_alternates_with_the_reference_and_writes_json(resexp: Resexp) -> None:
    words = ["bench", *TINY, "--against", "reference", "--rounds", "2", "--steps", "2", "--json", "bench.json"]
    result = resexp(*words)
    assert result.returncode == 0, result.stderr
    written = json.loads(Path("bench.json").read_text())["fp32"]
    assert written["ratio"] > 0 and f"{written['ratio']:.2f} times" in result.stdout
    assert [len(rates) for rates in written["rounds"].values()] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["tr", "tr"], ["train"]),
        (["train", "model=plain5"], ["model=plain50", "model=plain56"]),
        (["sweep", "model=plain20,plain5"], ["model=plain20,plain50", "model=plain20,plain56"]),
        (["train", "protocol.lr_drop_"], ["protocol.lr_drop_factor="]),
        (["train", "model.norm_position="], ["model.norm_position=pre", "model.norm_position=post"]),
        (["study", "he2015-fig6"], ["he2015-fig6", "he2015-fig6-eighth"]),
        (["analyze", "les"], ["lesion"]),
        (["protocols", "smo"], ["smoke"]),
        (["models", "se"], []),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_a_shell_is_told_what_may_follow(
    typed: list[str], found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--complete", *typed]) == 0
    assert capsys.readouterr().out.split() == found


def test_bash_completes_commands_settings_and_names() -> None:
    code = """eval "$(python -m resexp completion bash)"; resexp() { python -m resexp "$@"; }
    COMP_LINE="resexp train model=plain5"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(resexp train model = plain5)
    _resexp 2>/dev/null; echo "${COMPREPLY[*]}" """
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=env)
    assert result.stdout.split() == ["plain50", "plain56"], result.stderr


def test_export_writes_every_line_of_the_logs_as_csv(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(Path("outputs/runs"), [f"model=plain{depth}"]) for depth in (20, 32)]
    assert main(["export", *(str(run.path) for run in runs)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == sum(len(run.metrics) for run in runs) == 8
    assert {row["run"] for row in rows} == {run.path.name for run in runs} and rows[0]["images_per_s"] == "100"
    assert main(["export", str(runs[0].path), "--csv", "found.csv"]) == 0
    assert Path("found.csv").read_text().count("\n") == 5
    assert main(["export", str(runs[0].path), "--csv", "nowhere/found.csv"]) == 2
    assert "--csv nowhere/found.csv: cannot be written" in capsys.readouterr().err
    assert main(["export", "nowhere"]) == 2 and "not a run folder" in capsys.readouterr().err
