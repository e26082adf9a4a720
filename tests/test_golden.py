"""Results survive changes of the code: the committed digests of weights, first steps, run names and verdicts."""

import json
from pathlib import Path

import golden_digests as golden
import pytest

from resexp import config
from resexp.run.reader import CONFIG
from resexp.run.store import runs_at, stores


def known_here(name: str) -> tuple[dict, bool]:
    """The committed digests, and whether they were made on a processor that rounds as this one does."""
    by_processor = golden.read(name)
    here = by_processor.get(golden.processor())
    return here or max(by_processor.values(), key=len), here is not None


def test_initial_weights_and_logits_of_eleven_nets_are_those_of_before() -> None:
    here, same_rounding = known_here("nets")
    found = golden.nets()
    if same_rounding:
        assert {name: found[name] for name in here} == here
    expected = {name: net for nets in golden.read("nets").values() for name, net in nets.items()}
    assert set(found) == set(expected)
    for name, net in found.items():
        assert (net["run"], net["weights"]) == (expected[name]["run"], expected[name]["weights"])
        assert net["norm"] == pytest.approx(expected[name]["norm"], rel=1e-3)


def test_the_first_steps_of_six_runs_are_those_of_before(tmp_path: Path) -> None:
    expected, same_rounding = known_here("steps")
    found = golden.steps(tmp_path)
    if same_rounding:
        assert {name: found[name] for name in expected} == expected
    for name, run in expected.items():
        assert run["run"] == found[name]["run"]
        assert run["losses"] == pytest.approx(found[name]["losses"], rel=0.02)


def test_the_runs_of_every_study_keep_their_names() -> None:
    assert golden.names() == golden.read("names")


@pytest.mark.slow
def test_the_reference_runs_are_named_by_their_settings(tmp_path: Path) -> None:
    runs = [run for store in stores(golden.REFERENCE) for run in runs_at(store).values()]
    assert len(runs) > 300
    for run in runs:
        path = tmp_path / CONFIG
        path.write_text(json.dumps(run.config))  # which is YAML too
        assert config.load_file(path).run_name == run.path.name


def test_every_verdict_and_every_answer_is_that_of_before(tmp_path: Path) -> None:
    assert golden.verdicts(tmp_path) == golden.read("verdicts")
    assert golden.popular(tmp_path) == golden.read("popular")
