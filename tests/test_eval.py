"""What ``resexp eval`` says of a run: for people, for machines, and image by image."""

import csv
import json
from pathlib import Path

import pytest
from helpers import TINY

from resexp import config
from resexp.cli import main
from resexp.run.reader import Run
from resexp.trained import evaluate_run


def trained() -> Run:
    assert main(["train", *TINY]) == 0
    return Run(config.load(TINY).run_dir)


def test_predictions_and_confusion_add_up_to_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    capsys.readouterr()
    assert main(["eval", str(run.path), "--json", "--predictions", "predictions.csv"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == pytest.approx(run.summary["test_error"]) and found["step"] == 12
    confusion = found["confusion"]
    total, right = sum(map(sum, confusion)), sum(confusion[k][k] for k in range(10))
    assert total == 128 and 100 * (1 - right / total) == pytest.approx(found["error"])
    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(number) for number in range(128)]
    assert sum(row["right"] == "yes" for row in rows) == right
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--predictions", "nowhere/x.csv"], "--predictions nowhere/x.csv: no folder nowhere; name a file"),
        (["--predictions", "."], "--predictions .: is a folder; name a file"),
        (["--picture", "x.exe"], "--picture x.exe: cannot be written (Format 'exe' is not supported"),
        (["--picture", "x.png", "--view", "multi-scale"], "images are grouped by shape there"),
        (["--predictions", "x.csv", "--view", "multi-scale"], "images are grouped by shape there"),
    ],
)
def test_predictions_that_cannot_be_are_one_line(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    capsys.readouterr()
    assert main(["eval", str(run.path), *words]) == 2
    said = capsys.readouterr().err
    assert answer in said and said.count("\n") == 1


def test_a_picture_shows_the_confusion_and_the_most_surely_wrong_images() -> None:
    run = trained()
    assert main(["eval", str(run.path), "--picture", "predictions.png"]) == 0
    assert (
        Path("predictions.png").read_bytes().startswith(b"\x89PNG") and Path("predictions.png").stat().st_size > 20_000
    )
    _, found = evaluate_run(run.path, config.load(TINY), keep=True)
    worst = found.worst(5)
    wrong = [k for k in range(128) if found.predictions[k] != found.labels[k]]
    assert worst == sorted(wrong, key=lambda k: -float(found.probabilities[k]))[:5]
    assert int(found.confusion.sum()) == 128 and int(found.confusion.trace()) == 128 - len(wrong)


def test_anybodys_weights_have_predictions_too(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    capsys.readouterr()
    words = [f"weights={run.path / 'checkpoint.pt'}", *TINY, "--json", "--predictions", "a.csv", "--picture", "a.png"]
    assert main(["eval", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == pytest.approx(run.summary["test_error"]) and sum(map(sum, found["confusion"])) == 128
    assert Path("a.csv").read_text().count("\n") == 129 and Path("a.png").is_file()
