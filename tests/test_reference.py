"""The committed runs of the small studies say what the README says of them."""

from pathlib import Path

import pytest

from resexp import config, finding
from resexp.analysis import ANALYSES
from resexp.study import find_study_runs, group_runs, judge

OUTPUTS = Path(__file__).parent.parent / "outputs"
FOUND = {  # study: seeds, and the verdict on each claim in the order of the file (h: holds, f: fails)
    "activation-order-small": ((0, 1, 2), "hfhfh"),
    "cardinality-small": ((0, 1, 2), "ffffh"),
    "dense-vs-residual-small": ((0,), "hhh"),
    "he2015-table2-small": ((0,), "hhffhf"),
    "he2015-table3-small": ((0,), "hhfffh"),
    "highway-small": ((0, 1, 2), "hhhh"),
    "identity-shortcuts-small": ((0, 1), "hhhhffhfhhhh"),
    "resnet-v2-small": ((0, 1, 2), "hhf"),
    "shortcut-options-small": ((0,), "hhh"),
    "squeeze-excitation-small": ((0,), "hf"),
    "stochastic-depth-small": ((0,), "hhhfh"),
    "transformer-depth-small": ((0, 1, 2), "fhhhh"),
    "vgg-5x5-small": ((0, 1, 2), "ff"),
    "vgg-depth-small": ((0,), "hhhfh"),
}
FINDINGS = {  # analysis: for each row whether it agrees with what was published (y, n), or cannot (-)
    "convergence": "------------yyyyyy",
    "ensemble": "yyyynnyyyyyyy",
    "forward": "yyyyyy",
    "gradients": "yyyyyy-y---y-",
    "identity": "yyyyyyyy",
    "landscape": "--y",
    "lesion": "yy-",
    "lesion-cifar10": "yy",
    "paths": "-yy-nnn",
    "relu-collapse": "yy-yyyyy",
    "responses-10240-steps": "----y",
    "responses-weight-decay": "----y",
    "responses": "----------yynn",
    "shattering": "yyynyyynynyyyy",
}


def test_every_small_study_has_its_verdicts_here() -> None:
    assert set(FOUND) == {name for name in config.names("study") if name.endswith("-small")}
    assert sum(len(seeds) >= 3 for seeds, _ in FOUND.values()) >= 6


@pytest.mark.parametrize("name", FOUND)
def test_the_committed_runs_come_to_the_stated_verdicts(name: str, tmp_path: Path) -> None:
    study, jobs = config.load_study(name)
    (tmp_path / "reference").symlink_to(OUTPUTS / "reference")  # without runs of one's own
    runs, reference = find_study_runs(name, [cfg for _, cfg in jobs], tmp_path)
    seeds, letters = FOUND[name]
    assert reference and len(runs) == len(jobs) * len(seeds)
    assert {run.config["seed"] for run in runs} == set(seeds)
    assert all(run.status in ("finished", "diverged") for run in runs)
    verdicts = judge(study.claims, group_runs(runs))
    assert "".join({True: "h", False: "f", None: "?"}[verdict.holds] for verdict in verdicts) == letters
    assert all(verdict.seeds == seeds for verdict in verdicts)


@pytest.mark.parametrize("name", FINDINGS)
def test_the_committed_findings_agree_with_the_papers_where_the_readme_says_so(name: str) -> None:
    rows = finding.read(OUTPUTS / "reference" / "analysis" / f"{name}.json").rows
    assert "".join({True: "y", False: "n", None: "-"}[row.agrees] for row in rows) == FINDINGS[name]


def test_every_analysis_has_a_committed_finding_with_its_figure() -> None:
    folder = OUTPUTS / "reference" / "analysis"
    assert set(ANALYSES) <= set(FINDINGS) == {path.stem for path in folder.glob("*.json")}
    assert all((folder / f"{name}.{end}").is_file() for name in FINDINGS for end in ("png", "svg", "md"))
