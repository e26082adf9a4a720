"""The committed runs of the small studies come to these verdicts."""

from pathlib import Path

import pytest

from resexp import config
from resexp.analysis.runner import ANALYSES
from resexp.studies import finding
from resexp.studies.claims import Outcome, judge
from resexp.studies.find import find_study

OUTPUTS = Path(__file__).parent.parent / "outputs"
LETTERS = {
    Outcome.HOLDS: "h",
    Outcome.FAILS: "f",
    Outcome.UNDECIDED: "u",
    Outcome.AS_CLAIMED: "d",
    Outcome.AGAINST: "a",
}
FOUND = {  # study: seeds, and the verdict on each claim in the order of the file
    "activation-order-small": ((0, 1, 2), "huuuu"),
    "cardinality-small": ((0, 1, 2), "uuuuu"),
    "dense-augmentation-small": ((0, 1, 2), "uu"),
    "dense-vs-residual-small": ((0,), "dddda"),
    "he2015-table2-small": ((0,), "ddaada"),
    "he2015-table3-small": ((0,), "ddaaad"),
    "highway-small": ((0, 1, 2), "hhhu"),
    "identity-shortcuts-small": ((0, 1), "hhhhuuuuuhuu"),
    "resnet-v2-small": ((0, 1, 2), "uhuu"),
    "shortcut-options-small": ((0,), "daa"),
    "squeeze-excitation-small": ((0,), "da"),
    "stochastic-depth-small": ((0,), "dad"),
    "transformer-depth-small": ((0, 1, 2), "uhhh"),
    "vgg-5x5-small": ((0, 1, 2), "uf"),
    "vgg-depth-small": ((0,), "ddaad"),
    "widening-small": ((0, 1, 2), "hh"),
}
FINDINGS = {  # analysis: for each row whether it agrees with what was expected (y, n), or says nothing of it (-)
    "convergence": "------------------------------------y-yyyyyyyyyy------",
    "ensemble": "------------------yyy",
    "forward": "yyyyyy",
    "gradients-eighth": "yyyyy-ynn---yyyyy--y---y-",
    "gradients": "yyyyy-ynn---yyyyy--y---y-",
    "identity": "yyyyyyyyyy",
    "landscape-weights": "------",
    "landscape": "--------",
    "lesion-cifar10": "yyyy",
    "lesion": "ynyy",
    "paths": "-yyn",
    "rank": "yn-y-",
    "recurrent": "---nyy",
    "relu-collapse": "yy-yyyynyyy",
    "responses-eighth": "----y",
    "remedies": "----------------------------------------",
    "responses": "--------yyy",
    "shattering": "yyy-yyy-ynyyyy",
    "sparsity": "--n",
}


def test_every_small_study_has_its_verdicts_here() -> None:
    assert set(FOUND) == {name for name in config.names("study") if name.endswith("-small")}
    assert sum(len(seeds) >= 3 for seeds, _ in FOUND.values()) >= 6


@pytest.mark.parametrize("name", FOUND)
def test_the_committed_runs_come_to_the_stated_verdicts(name: str, tmp_path: Path) -> None:
    (tmp_path / "reference").symlink_to(OUTPUTS / "reference")  # without the user's own runs
    found = find_study(name, tmp_path)
    assert found is not None and found.reference
    seeds, letters = FOUND[name]
    assert len(found.runs) == len(config.load_study(name)[1]) * len(seeds)
    assert {run.config["seed"] for run in found.runs} == set(seeds)
    assert all(run.status in ("finished", "diverged") for run in found.runs)
    verdicts = judge(found.study.claims, found.groups)
    assert "".join(LETTERS[verdict.word] for verdict in verdicts) == letters
    assert all(verdict.seeds == seeds for verdict in verdicts)


@pytest.mark.parametrize("name", FINDINGS)
def test_the_committed_findings_agree_with_the_papers_where_stated_here(name: str) -> None:
    rows = finding.findings_in(OUTPUTS / "reference" / "analysis")[name].rows
    assert "".join({True: "y", False: "n", None: "-"}[row.agrees] for row in rows) == FINDINGS[name]


def test_every_analysis_has_a_committed_finding_with_its_figure() -> None:
    folder = OUTPUTS / "reference" / "analysis"
    assert set(ANALYSES) <= set(FINDINGS) == set(finding.findings_in(folder))
    assert all((folder / f"{name}.png").is_file() for name in FINDINGS)
