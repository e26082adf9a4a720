"""The pages a reader sees: their tables are those of the runs, their links lead somewhere, and they stay short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write_run

from resexp.studies.popular import answer_all

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "outputs" / "reference" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", RESULTS, *(ROOT / "docs").glob("*.md")]


@pytest.mark.slow
def test_every_table_is_what_the_runs_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "write_pages.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_users_own_runs_change_no_page(tmp_path: Path) -> None:
    """The pages are of the reference runs; make demo, say, puts others beside them."""
    (tmp_path / "reference").symlink_to(RESULTS.parent)
    for family in ("plain", "resnet"):
        for depth in (8, 14, 20, 32, 44, 56):
            write_run(tmp_path / "runs", [f"model={family}{depth}", "model.width=8"])
    own, reference = (answer_all(tmp_path, own=own) for own in (True, False))
    assert own != reference == answer_all(RESULTS.parent.parent, own=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        assert other.exists(), target
        if not anchor:
            continue
        titles = [re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in headings(other)]
        assert titles.count(anchor) == 1, target


def headings(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("#")]


def test_the_readme_fits_into_the_hand() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_no_number_outside_a_table_is_a_measured_one() -> None:
    """A measured error has two decimals. Those in the prose are published ones, or the version of Python."""
    known = (ROOT / "conf" / "published.yaml").read_text() + (ROOT / "pyproject.toml").read_text()
    for page in set(PAGES) - {RESULTS}:
        prose = re.sub(r"<!-- results.*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
        numbers = re.findall(r"(?<![\w.])\d+\.\d\d(?![\w.])", prose)
        assert [number for number in numbers if number not in known] == [], page


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_evidence_is_kept_in_few_small_files() -> None:
    tracked = subprocess.run(["git", "ls-files", "outputs"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in tracked.stdout.splitlines()]
    assert 0 < len(files) < 100
    assert [f for f in files if f.stat().st_size > (2e6 if f.suffix == ".safetensors" else 1e6)] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_whatever_begins_with_a_name_of_its_interpreter_can_be_run() -> None:
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    modes = {name: words.split()[0] for words, _, name in (line.partition("\t") for line in listed.stdout.splitlines())}
    scripts = [name for name in modes if (ROOT / name).is_file() and (ROOT / name).read_bytes().startswith(b"#!")]
    assert ".ci/run" in scripts and [name for name in scripts if modes[name] != "100755"] == []
