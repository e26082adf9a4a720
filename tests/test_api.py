"""The Python interface: its page, what it exports, and how it answers mistakes."""

import doctest
import inspect
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from helpers import TINY, wait_for
from nbclient import NotebookClient

import resexp
from resexp import api, catalog, config
from resexp.run.reader import METRICS

ROOT = Path(__file__).parent.parent


def test_the_page_says_what_happens() -> None:
    text = (ROOT / "docs" / "python.md").read_text().replace("CHECKOUT", "checkout")
    Path("checkout").mkdir()
    (Path("checkout") / "outputs").mkdir()
    (Path("checkout") / "outputs" / "reference").symlink_to(ROOT / "outputs" / "reference")
    examples = doctest.DocTestParser().get_doctest(text.replace("```", "\n"), {}, "python.md", "docs/python.md", 0)
    assert len(examples.examples) > 12
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(examples)
    assert runner.failures == 0


def test_importing_resexp_imports_no_torch() -> None:
    code = "import resexp, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_what_is_exported_is_documented_and_the_rest_is_private() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in resexp.__all__:
        found = getattr(resexp, name)
        assert inspect.getdoc(found), name
        assert name in page or name in ("Picture", "Finding"), name
        if inspect.isfunction(found):
            assert inspect.signature(found).return_annotation is not inspect.Signature.empty, name
    assert set(api.__all__) <= {*resexp.__all__, "Verdict"}
    with pytest.raises(AttributeError, match="module 'resexp' has no attribute 'nothing'"):
        _ = resexp.nothing
    assert set(resexp.__all__) <= set(dir(resexp))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resexp.build("resnet21"), "the nearest are 20 or 26"),
        (lambda: resexp.build("resnet20", shortcat="A"), "did you mean model.shortcut"),
        (lambda: resexp.train("protocol=smok"), "did you mean smoke"),
        (lambda: resexp.train("seed=0,1"), "one run takes one value"),
        (lambda: resexp.study("degradatoin"), "did you mean degradation"),
        (lambda: resexp.study("highway"), "no runs of it under outputs; train them: resexp study highway"),
        (lambda: resexp.analyze("lesoin", []), "did you mean lesion"),
        (lambda: resexp.analyze("lesion", ["nowhere"]), "nowhere: not a run folder"),
    ],
)
def test_a_mistake_is_a_value_error_of_one_line(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_finished_run_of_other_images_is_not_the_answer(make_tree: Callable[..., Path]) -> None:
    tree = make_tree({"train": {"cat": 16, "dog": 16}, "test": {"cat": 2, "dog": 2}})
    small = [word for word in TINY if not word.startswith("dataset=")]
    words = ["dataset=imagefolder", f"dataset.root={tree}", "dataset.name=pets", *small]
    assert resexp.train(*words).summary["status"] == "finished"
    (tree / "test" / "cat" / "0.png").unlink()
    with pytest.raises(ValueError, match="finished with other images than"):
        resexp.train(*words)
    with pytest.raises(ValueError, match="train runs here"):
        resexp.train(*TINY, "launcher=slurm")


def test_a_training_leaves_torchs_threads_and_random_numbers_to_the_caller() -> None:
    torch.manual_seed(3)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    run = resexp.train(*TINY, "threads=1", "model.dropout=0.1")
    run.net()
    assert torch.get_num_threads() == before[0] and torch.equal(torch.random.get_rng_state(), before[1])


def test_values_are_pythons_own() -> None:
    assert isinstance(resexp.build("resnet8", width=None, shortcut="B"), torch.nn.Module)
    run = resexp.train(*TINY)
    found = resexp.analyze("convergence", [run], losses=(9.0, 1.0))
    assert [row.what.rpartition(" ")[2] for row in found.found.rows] == ["9.0", "1.0"]


def test_weights_that_do_not_fit_name_the_first_tensor() -> None:
    torch.save(resexp.build("resnet8", width=4).state_dict(), "theirs.pt")
    assert isinstance(resexp.build("resnet8", width=4, weights="theirs.pt"), torch.nn.Module)
    with pytest.raises(resexp.UserError, match=r"tensor 1, stem\.conv\.weight \(4, 3, 3, 3\), does not fit"):
        resexp.build("resnet8", width=8, weights="theirs.pt")


def test_an_interrupt_saves_and_the_same_call_goes_on() -> None:
    words = [*TINY, "protocol.steps=1000", "protocol.lr_drops=[500]"]

    log = config.load(words).run_dir / METRICS

    def interrupt() -> None:
        wait_for(lambda: log.is_file() and log.stat().st_size > 0)  # by then it catches signals
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    run = resexp.train(*words)
    assert run.summary["status"] == "interrupted" and 0 < run.step < 1000
    assert resexp.train(*words).summary["status"] == "finished"
    assert resexp.train(*words).summary["step"] == 1000  # not trained again


def test_a_net_is_trained_in_a_thread_which_gets_no_signals() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(resexp.train(*TINY)))
    thread.start()
    thread.join()
    assert found[0].summary["status"] == "finished"
    assert next(found[0].net().parameters()).device.type == "cpu"


def test_torch_hub_gives_every_named_net_and_our_weights() -> None:
    net = torch.hub.load(str(ROOT), "resnet20", source="local", pretrained=True)
    fresh = torch.hub.load(str(ROOT), "resnet20", source="local", classes=3)
    assert len(net.head.bias) == 10 and len(fresh.head.bias) == 3
    assert bool(net.head.bias.any()) and not bool(fresh.head.bias.any())
    with pytest.raises(ValueError, match=r"resnet110: no weights of it in .*; choose from plain20"):
        torch.hub.load(str(ROOT), "resnet110", source="local", pretrained=True)
    assert {net.name for net in catalog.NAMED} <= set(runpy.run_path(str(ROOT / "hubconf.py")))


@pytest.mark.slow
def test_the_tour_runs_from_its_first_cell_to_its_last() -> None:
    """In a folder of its own, with the project's reference runs beside it; its nets are trained a tenth as long."""
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    for cell in notebook.cells:
        for whole, tenth in (
            ('"model=plain32", "model.width=8"', '"protocol.steps=128", "protocol.lr_drops=[64,96]"'),
            ('"model=resnet32", "model.width=8"', '"protocol.steps=128", "protocol.lr_drops=[64,96]"'),
        ):
            cell.source = cell.source.replace(whole, f"{whole}, {tenth}")
        cell.source = cell.source.replace("protocol.steps=320", "protocol.steps=32").replace("[160,240]", "[16,24]")
    Path("outputs").mkdir()
    (Path("outputs") / "reference").symlink_to(ROOT / "outputs" / "reference")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(Path.cwd())}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert (ROOT / "docs" / "tour.ipynb").stat().st_size < 1_000_000
