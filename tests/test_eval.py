"""What ``resexp eval`` says of a run: for people, for machines, and image by image."""

import csv
import json
from pathlib import Path

import pytest
from helpers import TINY

from resexp import config
from resexp.cli import main
from resexp.runs.reader import Run


def trained() -> Run:
    assert main(["train", *TINY]) == 0
    return Run(config.load(TINY).run_dir)


def test_predictions_and_confusion_add_up_to_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    capsys.readouterr()
    assert main(["eval", str(run.path), "--json", "--predictions", "guesses.csv"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == pytest.approx(run.summary["test_error"]) and found["step"] == 12
    confusion = found["confusion"]
    total, right = sum(map(sum, confusion)), sum(confusion[k][k] for k in range(10))
    assert total == 128 and 100 * (1 - right / total) == pytest.approx(found["error"])
    with Path("guesses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(number) for number in range(128)]
    assert sum(row["right"] == "yes" for row in rows) == right
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--predictions", "nowhere/x.csv"], "--predictions nowhere/x.csv: cannot be written"),
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
