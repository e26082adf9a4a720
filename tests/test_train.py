"""Training learns, counts right, and loses nothing."""

import contextlib
import errno
import inspect
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, differences, end_state, wait_for
from safetensors.torch import save_file

import resexp.training
from resexp import UserError, checkpoint, config, weights
from resexp.builder import build_net, build_state, can_record, load_data
from resexp.cli import main
from resexp.data.normalize import Normalization
from resexp.evaluate import evaluate
from resexp.meter import WRONG
from resexp.models.build import build_model
from resexp.run.lock import open_folder
from resexp.run.reader import CHECKPOINT, CONFIG, METRICS, SUMMARY, Run
from resexp.run.store import keep_runs
from resexp.run_folder import open_run
from resexp.runtime import CudaGraph, set_up_device, stop_signals
from resexp.state import State, seeded_generator
from resexp.trained import evaluate_run, evaluate_weights
from resexp.training import train_step

Resexp = Callable[..., subprocess.CompletedProcess]


def train(cfg: config.Config, folder: Path) -> dict:
    """As the command does."""
    with stop_signals() as stop, open_run(cfg, folder) as run:
        return resexp.training.train(cfg, run, stop)


def run_tiny(*words: str, folder: str = "run") -> tuple[dict, Run]:
    own_model = any(word.startswith("model=") for word in words)
    cfg = config.load([*(word for word in TINY if not (own_model and word.startswith("model="))), *words])
    return train(cfg, Path(folder)), Run(Path(folder))


# --- learning and counting --------------------------------------------------------------------------------------------


def test_a_run_learns_and_writes_its_folder() -> None:
    summary, run = run_tiny("protocol.steps=60", "protocol.lr_drops=[40]", "protocol.val_size=64", "tensorboard=true")
    assert summary["status"] == "finished" and summary["step"] == 60
    assert summary["train_error"] < 60 and summary["test_error"] < 60  # chance is 90
    assert run.summary == summary
    written = {path.name for path in run.path.iterdir()}
    assert {"config.yaml", "env.json", "metrics.jsonl", "summary.json", "checkpoint.pt", "tb"} <= written
    assert list((run.path / "tb").glob("events*"))
    assert torch.__version__.startswith(run.env["versions"]["torch"]) and run.env["world_size"] == 1
    best = min((r for r in run.metrics if r["split"] == "val"), key=lambda record: record["error"])
    assert (summary["best_val_step"], summary["best_val_error"]) == (best["step"], best["error"])
    at_best = [r["error"] for r in run.metrics if r["split"] == "test" and r["step"] == best["step"]]
    assert [summary["best_val_test_error"]] == at_best


def test_the_log_has_a_line_for_every_stated_step() -> None:
    _, run = run_tiny()
    assert run.curve("train")[0] == [3, 6, 9, 12]
    assert run.curve("test")[0] == [4, 8, 12]
    for record in run.metrics:
        assert set(record) == {"step", "epoch", "split", "loss", "error", "lr", "images_per_s"}
    assert run.curve("train", "lr")[1] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_training_error_is_that_of_the_last_full_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 images in batches of 32: epochs end at steps 16 and 32, and a run of 37 steps reports steps 17 to 32."""
    wrong: list[float] = []

    def spy(state: State, *drawn: torch.Tensor) -> None:
        train_step(state, *drawn)
        wrong.append(float(state.counts.batch[WRONG]))

    monkeypatch.setattr("resexp.training.train_step", spy)
    summary, run = run_tiny("protocol.steps=37")
    assert summary["train_error"] == pytest.approx(100 * sum(wrong[16:32]) / 512)
    windows = [100 * sum(wrong[start : start + 3]) / 96 for start in range(0, 36, 3)]
    assert run.curve("train")[1] == pytest.approx([*windows, 100 * wrong[36] / 32])


def test_a_step_is_sgd_on_the_mean_cross_entropy() -> None:
    cfg = config.load(TINY)
    state = build_state(cfg, load_data(cfg), torch.device("cpu"))
    twin = build_state(cfg, load_data(cfg), torch.device("cpu"))
    drawn = next(state.batches)
    inputs, labels = state.batches.make(*drawn)
    state.optimizer.lr = 0.05
    train_step(state, *drawn)
    logits = twin.net(inputs)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    for ours, theirs in zip(state.net.parameters(), twin.net.parameters(), strict=True):
        update = theirs.grad + 1e-4 * theirs
        assert torch.allclose(ours, theirs - 0.05 * update, atol=1e-7)
    wrong = (logits.argmax(1) != labels).sum().item()
    assert state.counts.batch.tolist() == pytest.approx([32 * loss.item(), wrong, 32, 1])


def test_three_functions_stand_between_main_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    package = Path(resexp.__file__).parent
    backward = torch.Tensor.backward

    def spy(loss: torch.Tensor) -> None:
        ours = [frame for frame in inspect.stack() if Path(frame.filename).is_relative_to(package)]
        seen.append([frame.function for frame in reversed(ours)])
        backward(loss)

    monkeypatch.setattr(torch.Tensor, "backward", spy)
    assert main(["train", *TINY]) == 0
    assert seen[0] == ["main", "train_net", "train", "train_step"]


def test_evaluation_counts_every_image_of_the_last_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config.load([*TINY, "dataset.examples=400"])
    data = load_data(cfg)
    net = build_model(family="plain", depth=8, width=4, image_shape=(3, 8, 8))
    whole = evaluate(net, data.test, Normalization(), precision="fp32")
    monkeypatch.setattr("resexp.evaluate.EVAL_BATCH", 33)  # 100 images: 33, 33, 33, 1
    assert evaluate(net, data.test, Normalization(), precision="fp32") == pytest.approx(whole)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_a_net_in_the_mode_it_found(training: bool) -> None:
    cfg = config.load(TINY)
    net = build_model(family="plain", depth=8, width=4, image_shape=(3, 8, 8)).train(training)
    evaluate(net, load_data(cfg).test, Normalization(), precision="fp32")
    assert net.training == training


def test_building_a_state_seeds_nobody() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    cfg = config.load(TINY)
    build_state(cfg, load_data(cfg), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_how_often_the_log_is_written_changes_no_result() -> None:
    """Drops on a plateau too: they are judged at the ends of windows, wherever the log has its lines."""
    plateau = (
        "protocol.plateau_window=2",
        "protocol.plateau_points=50",
        "protocol.plateau_patience=1",
        "protocol.lr_drops=[]",
    )
    for every in (1, 5):
        run_tiny(*plateau, f"protocol.log_every={every}", folder=f"every{every}")
    ends = [checkpoint.load(Path(f"every{every}") / CHECKPOINT) for every in (1, 5)]
    assert differences(ends[0]["net"], ends[1]["net"]) == []
    assert ends[0]["schedule"] == ends[1]["schedule"] and ends[0]["schedule"]["plateau"][2] == 2


def test_a_deep_net_warms_up_and_a_shallow_one_does_not() -> None:
    warmup = ("protocol.warmup_depth=14", "protocol.warmup_window=5", "protocol.warmup_error=101")
    _, deep = run_tiny("model=plain14", *warmup, folder="deep")
    _, shallow = run_tiny(*warmup, folder="shallow")
    assert deep.curve("train", "lr")[1] == pytest.approx([0.01, 0.1, 0.01, 0.01])  # ends at step 5, drops at step 6
    assert deep.summary["warmup_ended_at"] == 5
    assert shallow.curve("train", "lr")[1] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_bf16_trains_with_weights_and_statistics_in_fp32() -> None:
    summary, run = run_tiny("protocol.precision=bf16", "protocol.steps=40", "protocol.lr_drops=[]")
    assert summary["train_error"] < 80
    saved = checkpoint.load(run.path / CHECKPOINT)
    assert {t.dtype for t in saved["net"].values()} == {torch.float32, torch.int64}


def test_fp16_trains_with_a_scaled_loss_and_resumes_bit_for_bit() -> None:
    words = ("protocol.precision=fp16", "protocol.steps=40", "protocol.lr_drops=[]")
    summary, run = run_tiny(*words)
    assert summary["train_error"] < 80
    saved = checkpoint.load(run.path / CHECKPOINT)
    assert saved["scaler"]["scale"] >= 1 and {t.dtype for t in saved["net"].values()} == {torch.float32, torch.int64}
    for _ in range(60):
        again, _ = run_tiny(*words, "max_minutes=1e-9", folder="in-parts")
    assert again["status"] == "finished" and differences(end_state(run.path), end_state(Path("in-parts"))) == []


@pytest.mark.parametrize("model", ["resnet8", "transformer2"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_halved(model: str, fast: bool) -> None:
    words = [*(word for word in TINY if not word.startswith("model")), f"model={model}", "protocol.precision=fp16"]
    adam = ["protocol.optimizer=adamw", "model.width=12"] if model == "transformer2" else ["model.width=4"]
    cfg = config.load([*words, *adam, f"fast={fast}", "device=cpu"])
    data = load_data(cfg)
    state = build_state(cfg, data, torch.device("cpu"))
    state.optimizer.lr = 0.01
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows in fp16
    before = [weight.clone() for weight in state.net.parameters()]
    train_step(state, *next(state.batches))
    assert all(torch.equal(old, new) for old, new in zip(before, state.net.parameters(), strict=True))
    assert all(float(buffer.abs().max()) == 0 for its in state.optimizer.buffers().values() for buffer in its)
    assert state.scaler.get_scale() == 2.0**39
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    train_step(state, *next(state.batches))
    assert any(not torch.equal(old, new) for old, new in zip(before, state.net.parameters(), strict=True))


@pytest.mark.parametrize("fast", [True, False])
def test_a_scaled_step_is_the_step_unscaled(fast: bool) -> None:
    """In fp32, where scaling by a power of two rounds nothing."""
    ends = []
    for scale in (None, 2.0**10):
        state = trained("model=resnet8", f"fast={fast}", "device=cpu", steps=0)
        if scale:
            state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(3):
            state.optimizer.lr = 0.05
            train_step(state, *next(state.batches))
        ends.append([weight.detach().clone() for weight in state.net.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_precision_that_the_processor_lacks_is_said_when_a_run_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for known, said in (({"avx512_bf16": False, "avx2": True}, True), ({"avx512_bf16": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        run_tiny("protocol.precision=bf16", "protocol.steps=1", folder=f"run{len(known)}")
        found = capsys.readouterr().err
        assert ("no instructions for it, so that it is slower than fp32; take protocol.precision=fp32" in found) is said


def trained(*words: str, steps: int) -> State:
    """The state after some steps of the tiny run."""
    own_model = any(word.startswith("model=") for word in words)
    cfg = config.load([*(word for word in TINY if not (own_model and word.startswith("model="))), *words])
    device = set_up_device(cfg)
    data = load_data(cfg).to(device)
    state = build_state(cfg, data, device)
    step = partial(train_step, state)
    step = CudaGraph(step) if can_record(cfg, state, device) else step
    for _ in range(steps):
        state.optimizer.lr = 0.05
        step(*next(state.batches))
    return state


def assert_about_equal(fast: State, plain: State) -> None:
    """The same batches, and after ten steps the same loss and weights up to what rounding makes of them."""
    assert torch.equal(fast.counts.sums[:, 2], plain.counts.sums[:, 2])
    assert torch.equal(fast.batches.order.next_batch(), plain.batches.order.next_batch())
    assert float(fast.counts.sums[0, 0]) == pytest.approx(float(plain.counts.sums[0, 0]), rel=1e-3)
    for ours, theirs in zip(fast.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("model", ["plain8", "resnet8"])
def test_the_fast_path_trains_as_the_plain_one(model: str) -> None:
    words = (f"model={model}", "model.width=8", "device=cpu")
    assert_about_equal(trained(*words, "fast=true", steps=10), trained(*words, "fast=false", steps=10))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_step_trains_as_the_plain_one(precision: str) -> None:
    words = ("model=resnet8", "device=cuda", "deterministic=true", f"protocol.precision={precision}")
    assert_about_equal(trained(*words, "fast=true", steps=10), trained(*words, "fast=false", steps=10))


@needs_gpu
def test_resnet1202_fits_in_8_gb_of_device_memory() -> None:
    torch.cuda.reset_peak_memory_stats()
    trained(
        "model=resnet1202",
        "model.width=16",
        "dataset.image_size=32",
        "protocol.batch_size=128",
        "device=cuda",
        "activation_checkpointing=true",
        steps=5,
    )
    assert torch.cuda.max_memory_allocated() < 8e9


@needs_gpu
def test_a_gpu_run_resumes_bit_for_bit_with_deterministic() -> None:
    words = ("device=cuda", "deterministic=true")
    run_tiny(*words, folder="whole")
    run_tiny(*words, "max_minutes=0.0001", folder="parts")
    run_tiny(*words, folder="parts")
    assert differences(end_state(Path("whole")), end_state(Path("parts"))) == []


# --- nothing lost -----------------------------------------------------------------------------------------------------


def killed_and_resumed(
    words: Sequence[str], kill_at: Sequence[int], number: int = signal.SIGKILL
) -> tuple[Path, list[int]]:
    """Run ``resexp train``, kill it once its log reaches each of the steps, and let it finish."""
    folder = config.load(words).run_dir
    log, resumed_at = folder / METRICS, []
    for target in [*kill_at, None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "resexp", "train", *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        while target is not None and process.poll() is None:
            whole = log.read_text().rpartition("\n")[0] if log.is_file() else ""  # without a line half written
            lines = whole.splitlines()
            if lines and json.loads(lines[-1])["step"] >= target:
                process.send_signal(number)
                break
            time.sleep(0.002)
        _, errors = process.communicate(timeout=300)
        for line in errors.splitlines():
            if line.startswith("resuming at step "):
                resumed_at.append(int(line.split()[3]))
    return folder, resumed_at


KILLABLE = [
    *TINY,
    "protocol.steps=400",
    "protocol.log_every=3",
    "protocol.eval_every=50",
    "protocol.lr_drops=[150,300]",
    "protocol.save_seconds=0.05",
    "protocol.val_size=64",
    "protocol.warmup_depth=8",
    "protocol.warmup_window=20",
    "protocol.warmup_error=85",
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    cfg = config.load(KILLABLE)
    train(cfg, folder)
    return folder


@pytest.mark.slow
def test_a_run_killed_at_several_points_ends_bit_identical(uninterrupted: Path) -> None:
    folder, resumed_at = killed_and_resumed(KILLABLE, kill_at=[7, 90, 211, 333])
    assert sum(step > 0 for step in resumed_at) >= 3 and resumed_at == sorted(resumed_at)
    assert differences(end_state(uninterrupted), end_state(folder)) == []
    ours, theirs = (json.loads((path / SUMMARY).read_text()) for path in (folder, uninterrupted))
    for key in ("status", "step", "train_error", "test_error", "val_error", "best_val_step", "warmup_ended_at"):
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("lost", ["optimizer", "batches", "schedule", "counts"])
def test_a_resume_that_loses_any_part_of_the_state_is_caught(
    uninterrupted: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: were one part not restored, the comparison above would fail."""
    steps = 0

    def interrupted(state: State, *drawn: torch.Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps == 100:  # between two lines of the log, and within an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        train_step(state, *drawn)

    monkeypatch.setattr("resexp.training.train_step", interrupted)
    assert train(config.load(KILLABLE), Path("parts"))["step"] == 100
    restore = State.load_state_dict

    def forgetful(state: State, saved: dict) -> None:
        fresh = state.state_dict()
        restore(state, {**saved, lost: fresh[lost]})

    monkeypatch.setattr(State, "load_state_dict", forgetful)
    train(config.load(KILLABLE), Path("parts"))
    assert differences(end_state(uninterrupted), end_state(Path("parts"))) != []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_resumes(uninterrupted: Path, number: int, code: int) -> None:
    words = [*KILLABLE, "protocol.save_seconds=1000"]
    folder = config.load(words).run_dir
    command = [sys.executable, "-m", "resexp", "train", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_for(lambda: (folder / METRICS).is_file() and bool((folder / METRICS).read_text()), process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code and "the same command resumes" in out
    assert Run(folder).status == "interrupted" and Run(folder).summary["signal"] == number
    assert train(config.load(words), folder)["status"] == "finished"
    assert differences(end_state(uninterrupted), end_state(folder)) == []


def test_the_time_box_counts_from_the_start_of_the_process() -> None:
    """Reading a large data set must not lengthen it: a sweep gives each run what is left of its own box."""
    with open_run(config.load([*TINY, "max_minutes=5"]), Path("run")) as run, stop_signals() as stop:
        run.opened -= 600
        assert resexp.training.train(run.cfg, run, stop)["step"] == 1


def test_a_time_box_ends_cleanly_with_a_checkpoint() -> None:
    summary, _ = run_tiny("max_minutes=0.0001")
    assert (summary["status"], summary["step"], summary["signal"]) == ("interrupted", 1, None)
    assert run_tiny(folder="run")[0]["status"] == "finished"


@pytest.mark.parametrize(
    "words",
    [
        ("model=resnet8", "model.survival=0.6", "model.dropout=0.2"),
        ("model=transformer2", "model.width=12", "model.dropout=0.1", "protocol.optimizer=adamw"),
        ("model=resnet8", "model.width=16", "model.dropout=0.2", "protocol.precision=bf16"),
    ],
)
def test_a_run_with_randomness_inside_the_net_resumes_bit_for_bit(words: tuple[str, ...]) -> None:
    if "transformer" in words[0]:
        words = (*words, "model.heads=3")
    rest = [word for word in TINY if not word.startswith("model")]
    whole, parts = Path("whole"), Path("parts")
    train(config.load([*rest, *words]), whole)
    torch.rand(7)  # another process has its generators elsewhere
    boxed = config.load([*rest, *words, "max_minutes=0.00001"])
    while train(boxed, parts)["status"] != "finished":
        torch.rand(7)
    assert differences(end_state(whole), end_state(parts)) == []


def weights_of(net: torch.nn.Module, prefix: str = "module.") -> dict[str, torch.Tensor]:
    return {
        f"{prefix}layer{number}": tensor
        for number, tensor in enumerate(net.state_dict().values())
        if tensor.dtype == torch.float32
    }


def test_foreign_weights_are_evaluated_whatever_their_names(resexp: Resexp) -> None:
    _, run = run_tiny()
    cfg = config.load(TINY)
    net = build_net(cfg, load_data(cfg))
    net.load_state_dict(torch.load(run.path / "checkpoint.pt", weights_only=True)["net"])
    torch.save({"state_dict": weights_of(net), "epoch": 3}, "theirs.pt")
    result = resexp("eval", "weights=theirs.pt", *TINY)
    assert result.returncode == 0, result.stderr
    assert f"{run.summary['test_error']:.2f}" in result.stdout


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (
            lambda w: w | {"module.layer0": torch.zeros(1, 2)},
            r"tensor 1, layer0 \(1, 2\), does not fit stem.conv.weight",
        ),
        (lambda w: w | {"module.more": torch.zeros(1)}, "more is not in the net"),
        (lambda w: dict(list(w.items())[:-1]), "head.bias is not in the file"),
        (lambda w: {"epoch": 3}, "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_at_the_first_tensor(change: Callable, answer: str) -> None:
    cfg = config.load(TINY)
    net = build_net(cfg, load_data(cfg))
    torch.save(change(weights_of(net)), "theirs.pt")
    with pytest.raises(UserError, match=answer):
        weights.load_weights(net, Path("theirs.pt"))


def test_a_file_that_does_not_hold_weights_is_refused() -> None:
    net = build_model(family="plain", depth=8, width=4)
    Path("text.pt").write_text("no tensors")
    for name, answer in (("text.pt", "no file of tensors"), ("nowhere.pt", "No such file")):
        with pytest.raises(UserError, match=answer):
            weights.load_weights(net, Path(name))


def test_safetensors_are_read_by_name_because_their_order_says_nothing() -> None:
    net, other = (build_model(family="resnet", depth=8, width=4, seed=seed) for seed in (0, 1))
    whole = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(whole, "ours.safetensors")
    weights.load_weights(other, Path("ours.safetensors"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in whole.items())
    first = next(iter(whole))
    for change, answer in (
        ({"other.weight": torch.zeros(1)}, "other.weight is not in the net"),
        ({first: torch.zeros(1)}, rf"tensor 1, {first} \(1,\), does not fit"),
    ):
        save_file(whole | change, "theirs.safetensors")
        with pytest.raises(UserError, match=answer):
            weights.load_weights(other, Path("theirs.safetensors"))
    save_file({name: value for name, value in whole.items() if name != first}, "fewer.safetensors")
    Path("text.safetensors").write_text("no tensors")
    for name, answer in (
        ("fewer", f"{first} is not in the file"),
        ("text", "cannot be read as safetensors"),
        ("nowhere", "cannot be read as safetensors"),
    ):
        with pytest.raises(UserError, match=answer):
            weights.load_weights(other, Path(f"{name}.safetensors"))


def publish(folder: Path) -> subprocess.CompletedProcess:
    script = str(Path(__file__).parent.parent / "scripts" / "publish_weights.py")
    command = [sys.executable, script, str(folder), "--to", "weights"]
    return subprocess.run(command, capture_output=True, text=True)


def test_published_weights_keep_numbers_that_half_precision_cannot_hold() -> None:
    _, run = run_tiny(folder="resnet8-hash")
    path = run.path / CHECKPOINT
    saved = checkpoint.load(path)
    norm = next(name for name in saved["net"] if name.endswith("running_var"))
    saved["net"][norm] *= 1e6
    saved["net"][norm.replace("running_var", "weight")] *= 1e3  # the same net
    checkpoint.save(path, saved)
    assert publish(run.path).returncode == 0
    file = next(Path("weights").iterdir())
    cfg = config.load(TINY)
    assert abs(evaluate_weights(cfg, file).errors.error - run.summary["test_error"]) < 1
    saved["net"][norm.replace("running_var", "weight")] *= 0
    checkpoint.save(path, saved)
    refused = publish(run.path)
    assert refused.returncode == 2 and "cannot be published so" in refused.stderr


def test_a_finished_run_is_not_run_again(resexp: Resexp) -> None:
    assert resexp("train", *TINY).returncode == 0
    checkpoint_time = (config.load(TINY).run_dir / CHECKPOINT).stat().st_mtime_ns
    again = resexp("train", *TINY)
    assert again.returncode == 0 and "finished already" in again.stderr
    assert (config.load(TINY).run_dir / CHECKPOINT).stat().st_mtime_ns == checkpoint_time


def test_going_on_longer_ends_as_if_the_first_run_had_been_that_long() -> None:
    first = config.load(TINY)
    train(first, first.run_dir)
    longer = config.load([f"resume_from={first.run_dir}", "protocol.steps=20", "tensorboard=false"])
    assert longer.run_dir.parent == first.run_dir.parent.resolve() and longer.run_name != first.run_name
    train(longer, longer.run_dir)
    at_once = config.load([*TINY, "protocol.steps=20"])
    train(at_once, at_once.run_dir)
    ends = [end_state(cfg.run_dir) for cfg in (longer, at_once)]
    for end in ends:
        del end["identity"]
    own_evaluation = {"step": 12, "split": "test"}  # of the first run's last step; the same at every fourth step anyway
    assert any(own_evaluation.items() <= record.items() for record in ends[0]["log"])
    assert differences(*ends) == []


def test_a_run_that_goes_on_resumes_from_its_own_checkpoint_when_the_first_is_gone() -> None:
    first = config.load(TINY)
    train(first, first.run_dir)
    longer = config.load([f"resume_from={first.run_dir}", "protocol.steps=20", "max_minutes=1e-9"])
    assert train(longer, longer.run_dir)["step"] == 13
    (first.run_dir / CHECKPOINT).unlink()
    assert train(longer, longer.run_dir)["step"] == 14


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["protocol.steps=12"], r"protocol\.steps=12: must be more than the 12 of .*, to go on from it"),
        (["protocol.steps=20", "seed=1"], r"seed: stays that of resume_from="),
        (["protocol.steps=20", "model.width=8"], r"model\.width: stays that of resume_from="),
        (["protocol.steps=20", "dataset=digits"], r"dataset: stays that of resume_from="),
        (["protocol.steps=20", "protocol.batch_size=8"], r"protocol\.batch_size: stays that of resume_from="),
        (["protocol.steps=20", "init_from=conf.pt"], r"init_from=conf\.pt: drop it, or drop resume_from"),
        (["protocol.steps=20", "~protocol.lr_drops"], r"protocol\.lr_drops: stays that of resume_from="),
        (["protocol.steps=20", "launcher=slurm"], r"launcher: stays that of resume_from="),
    ],
)
def test_what_cannot_change_when_a_run_goes_on_is_refused(words: list[str], answer: str) -> None:
    first = config.load(TINY)
    train(first, first.run_dir)
    with pytest.raises(UserError, match=answer):
        config.load([f"resume_from={first.run_dir}", *words])


def test_a_run_that_goes_on_lies_beside_the_first_from_wherever_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    first = config.load(TINY)
    train(first, first.run_dir)
    root = Path("outputs").resolve()
    monkeypatch.chdir(first.run_dir)
    for name in (".", f"../{first.run_name}"):
        assert Path(config.load([f"resume_from={name}", "protocol.steps=20"]).output_dir) == root


def test_a_run_in_fp32_goes_on_in_fp16() -> None:
    first = config.load(TINY)
    train(first, first.run_dir)
    longer = config.load([f"resume_from={first.run_dir}", "protocol.steps=20", "protocol.precision=fp16"])
    assert train(longer, longer.run_dir)["status"] == "finished"


def test_only_a_finished_run_with_its_checkpoint_is_gone_on_from(resexp: Resexp) -> None:
    first = config.load([*TINY, "max_minutes=1e-9"])
    train(first, first.run_dir)
    with pytest.raises(UserError, match=r"is interrupted, not finished; the command that began it resumes it"):
        config.load([f"resume_from={first.run_dir}", "protocol.steps=20"])
    train(config.load(TINY), first.run_dir)
    (first.run_dir / CHECKPOINT).unlink()
    with pytest.raises(UserError, match=r"has no checkpoint\.pt; repeat the run to make one"):
        config.load([f"resume_from={first.run_dir}", "protocol.steps=20"])
    assert "not a run folder" in resexp("train", "resume_from=nowhere").stderr
    assert "resexp train goes on from one run" in resexp("sweep", f"resume_from={first.run_dir}").stderr


def test_a_resumed_run_keeps_its_number_of_threads_and_its_first_machine() -> None:
    run_tiny("max_minutes=0.0001", "threads=2")
    _, run = run_tiny()
    assert run.env["threads"] == 2 and run.env["resumed"][0]["threads"] == 2 and run.env["resumed"][0]["step"] == 1


# --- bad luck ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(resexp: Resexp) -> None:
    words = [*TINY, "protocol.lr=1e38", "protocol.log_every=12", "protocol.save_seconds=1000"]
    result = resexp("train", *words)
    run = Run(config.load(words).run_dir)
    assert result.returncode == 1
    assert run.summary["status"] == "diverged" and 1 < run.summary["step"] <= 4
    assert f"not finite at step {run.summary['step']}" in result.stderr
    assert not (run.path / CHECKPOINT).exists()


def test_weights_that_are_not_finite_are_never_saved() -> None:
    _, run = run_tiny("max_minutes=0.0001")
    before = (run.path / CHECKPOINT).read_bytes()
    saved = checkpoint.load(run.path / CHECKPOINT)
    saved["net"]["head.weight"].fill_(float("inf"))
    checkpoint.save(run.path / CHECKPOINT, saved)
    poisoned = (run.path / CHECKPOINT).read_bytes()
    summary, _ = run_tiny("protocol.save_seconds=0")
    assert summary["status"] == "diverged"
    assert (run.path / CHECKPOINT).read_bytes() == poisoned != before


@pytest.mark.slow
def test_a_full_disk_keeps_the_previous_checkpoint_and_the_run_resumes_later(resexp: Resexp) -> None:
    assert resexp("train", *TINY, "max_minutes=0.0001").returncode == 0
    folder = config.load(TINY).run_dir
    before = (folder / CHECKPOINT).read_bytes()

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    full = resexp("train", *TINY, "tensorboard=true", preexec_fn=small_files_only)
    assert full.returncode == 2 and full.stderr.splitlines()[-1].startswith("resexp: error: cannot write into")
    assert "Traceback" not in full.stderr
    assert (folder / CHECKPOINT).read_bytes() == before
    assert sorted(path.name for path in folder.glob("*.tmp")) == []
    assert resexp("train", *TINY).returncode == 0
    assert Run(folder).status == "finished"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(damage: str) -> None:
    _, run = run_tiny("max_minutes=0.0001")
    path = run.path / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes({"truncate": bytes(content[:-300]), "flip": bytes(content), "empty": b""}[damage])
    left = path.read_bytes()
    with pytest.raises(UserError, match="truncated or damaged"):
        run_tiny()
    assert path.read_bytes() == left


def test_a_checkpoint_that_the_system_will_not_read_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = run_tiny("max_minutes=0.0001")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("resexp.checkpoint.torch.load", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(.*Input/output error\)") as caught:
        run_tiny()
    assert "remove" not in str(caught.value) and (run.path / CHECKPOINT).is_file()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("model=plain8",), "model.family is resnet there, plain here"),
        (("protocol.lr=0.2",), "protocol.lr is 0.1 there, 0.2 here"),
        (("dataset.examples=256",), "dataset.examples is 512 there, 256 here"),
        (("protocol.pad=2",), "protocol.pad is 1 there, 2 here"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(words: tuple[str, ...], answer: str) -> None:
    run_tiny("max_minutes=0.0001")
    with pytest.raises(UserError, match=answer):
        run_tiny(*words)


def test_a_run_refuses_other_images_under_the_same_name(make_tree: Callable[..., Path]) -> None:
    def words(root: Path) -> list[str]:
        return ["dataset=imagefolder", f"dataset.root={root}", "dataset.name=pets", "protocol=smoke"]

    parts = {"train": {"cat": 20, "dog": 20}, "val": {"cat": 2, "dog": 2}}
    run_tiny(*words(make_tree(parts)), "max_minutes=0.0001")
    other = make_tree({**parts, "train": {"cat": 21, "dog": 20}}, name="other")
    with pytest.raises(UserError, match="other images than when this run started"):
        run_tiny(*words(other))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["imagefolder", "imagenet"])
def test_a_finished_run_is_not_the_result_of_another_folder(
    make_tree: Callable[..., Path], resexp: Resexp, source: str
) -> None:
    parts = {"train": {"cat": 20, "dog": 20}, "val": {"cat": 2, "dog": 2}}
    roots = [make_tree(parts, name=name) for name in ("one", "two")]
    tiny = [word for word in TINY if not word.startswith("dataset=")]

    def words(root: Path) -> list[str]:
        return [f"dataset={source}", f"dataset.root={root}", "dataset.image_size=8", *tiny]

    names = {config.load(words(root)).run_name for root in roots}
    assert len(names) == 2  # a folder's name is its data set's
    assert resexp("train", *words(roots[0]), "dataset.name=pets").returncode == 0
    other = resexp("train", *words(roots[1]), "dataset.name=pets")
    assert other.returncode == 2 and "finished with the images of" in other.stderr
    assert resexp("sweep", *words(roots[1]), "dataset.name=pets").returncode == 2


def test_a_checkpoint_of_another_kind_of_device_is_refused_and_can_be_evaluated() -> None:
    _, run = run_tiny()
    path = run.path / CHECKPOINT
    saved = checkpoint.load(path)
    checkpoint.save(
        path,
        {
            **saved,
            "device": "cuda",
            "batches": {**saved["batches"], "augmentation": torch.zeros(16, dtype=torch.uint8)},
        },
    )
    step, found = evaluate_run(run.path, config.load_file(run.path / CONFIG))
    error = found.errors.error
    assert (step, error) == (12, run.summary["test_error"])
    (run.path / SUMMARY).unlink()
    with pytest.raises(UserError, match="started on cuda"):
        run_tiny()


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line() -> None:
    _, run = run_tiny()
    path = run.path / CHECKPOINT
    saved = checkpoint.load(path)
    (run.path / SUMMARY).unlink()
    for lacking in ("format", "counts"):
        checkpoint.save(path, {key: value for key, value in saved.items() if key != lacking})
        with pytest.raises(UserError, match="of an earlier version; remove it"):
            run_tiny()


def test_speed_counts_the_time_of_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was slow before the interruption must show in the end."""

    def slow(state: State, *drawn: torch.Tensor) -> None:
        time.sleep(2)
        train_step(state, *drawn)

    with monkeypatch.context() as patch:
        patch.setattr("resexp.training.train_step", slow)
        begun, _ = run_tiny("max_minutes=0.0001")
    summary, _ = run_tiny()
    assert begun["step"] < summary["step"] and summary["images_per_s"] < 32 * summary["step"] / 2


def test_order_and_augmentation_draw_from_different_streams() -> None:
    draws = {
        (seed, stream): tuple(
            torch.rand(4, generator=seeded_generator(seed, stream=stream, device=torch.device("cpu"))).tolist()
        )
        for seed in range(3)
        for stream in (1, 2)
    }
    initial = {tuple(torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in range(3)}
    assert len(set(draws.values()) | initial) == 9


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run = run_tiny("max_minutes=0.0001", "tensorboard=true")
    run_tiny("tensorboard=true")
    events = EventAccumulator(str(run.path / "tb"))
    events.Reload()
    assert [event.step for event in events.Scalars("error/train")] == [3, 6, 9, 12]
    assert events.Scalars("error/test")[-1].value == pytest.approx(run.summary["test_error"], rel=1e-5)


def wandb_history(path: Path) -> list[dict[str, float]]:
    """What an offline run of Weights & Biases logged: length-prefixed protobufs in blocks of 32 KiB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole, history = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (room := 2**15 - place % 2**15) < 7:
            place += room
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record, whole = Record.FromString(whole), b""
            if record.HasField("history"):
                history.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item})
    return history


def test_weights_and_biases_logs_offline_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    run_tiny("max_minutes=0.0001", "wandb=true")
    summary, run = run_tiny("wandb=true")
    parts = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert [part.name for part in parts] == [f"run-{run.path.name}.wandb"] * 2
    deadline = time.monotonic() + 30  # a process of wandb's own writes them, some time after it was told to
    logged: list[dict[str, float]] = []
    while not any(line["_step"] == 12 and "error/test" in line for line in logged) and time.monotonic() < deadline:
        time.sleep(0.2)
        logged = [line for part in parts for line in wandb_history(part)]
    assert [line["_step"] for line in logged if "error/train" in line] == [3, 6, 9, 12]
    assert [line["error/test"] for line in logged if "error/test" in line][-1] == summary["test_error"]


def test_without_the_package_wandb_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb=true: wandb is not installed; pip install 'resexp\[wandb\]'"):
        run_tiny("wandb=true")


def test_a_tensorboard_server_shows_every_run_with_its_curves_and_hyper_parameters(tmp_path: Path) -> None:
    cfgs = [config.load([*TINY, "tensorboard=true"]), config.load([*TINY, "seed=1"])]
    for cfg in cfgs:
        train(cfg, cfg.run_dir)
    keep_runs([Run(cfgs[0].run_dir)], Path("outputs/reference/tiny.jsonl"))
    script = str(Path(__file__).parent.parent / "scripts" / "write_events.py")
    written = subprocess.run([sys.executable, script, "outputs"], capture_output=True, text=True, check=True)
    assert written.stdout == "3 runs, events written for 2\n"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "outputs", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path: str, question: dict | None = None) -> Any:
        data = None if question is None else json.dumps(question).encode()
        address, headers = f"http://localhost:{port}/data/{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(address, data, headers)
        return json.load(urllib.request.urlopen(request, timeout=10))

    try:
        names = {*(f"runs/{cfg.run_name}/tb" for cfg in cfgs), f"tensorboard/tiny/{cfgs[0].run_name}"}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if set(ask("plugin/scalars/tags")) == names:
                    break
            time.sleep(0.5)
        tags = ask("plugin/scalars/tags")
        assert set(tags) == names and all({"error/train", "error/test"} <= set(tags[name]) for name in names)
        question = {"experimentName": "", "startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_UNKNOWN"]}
        table = ask("plugin/hparams/session_groups", question)["sessionGroups"]
        assert {group["name"] for group in table} == {cfg.run_name for cfg in cfgs}
        assert sorted(group["hparams"]["seed"] for group in table) == [0, 1]
        assert all(group["hparams"]["model.depth"] == 8 for group in table)
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_second_process_on_the_same_run_leaves_it_alone(resexp: Resexp) -> None:
    folder = config.load(TINY).run_dir
    with open_folder(folder):
        second = resexp("train", *TINY)
    assert second.returncode == 2
    assert f"process {os.getpid()} is training this run" in second.stderr
    assert resexp("train", *TINY).returncode == 0


def test_an_output_folder_that_cannot_be_written_is_named(resexp: Resexp, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = resexp("train", *TINY, f"output_dir={tmp_path}/file/x")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "cannot write into" in result.stderr


def test_a_share_of_the_images_is_held_out() -> None:
    data = load_data(config.load([*TINY, "protocol.val_size=0.125"]))
    assert data.val is not None and (len(data.val), len(data.train)) == (64, 448)
    with pytest.raises(UserError, match=r"protocol\.val_size=0\.0001: of 512 training images that is none"):
        load_data(config.load([*TINY, "protocol.val_size=0.0001"]))
    with pytest.raises(UserError, match=r"protocol\.val_size=1\.5: must be a number of images, or a share below 1"):
        config.load([*TINY, "protocol.val_size=1.5"])


def test_holding_out_every_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"protocol.val_size=512: synthetic has only 512"):
        run_tiny("protocol.val_size=512")


def test_an_evaluated_checkpoint_has_the_test_error_of_its_summary() -> None:
    summary, run = run_tiny()
    step, found = evaluate_run(run.path, config.load_file(run.path / CONFIG))
    error = found.errors.error
    assert (step, error) == (12, summary["test_error"])


# --- real images ------------------------------------------------------------------------------------------------------


@pytest.mark.images
def test_real_cifar10_trains_below_chance_in_forty_steps(images: Path) -> None:
    words = [
        "dataset=cifar10",
        f"dataset.root={images}",
        "model=resnet20",
        "protocol.steps=40",
        "protocol.log_every=10",
    ]
    cfg = config.load(words)
    summary = train(cfg, Path("run"))
    errors = Run(Path("run")).curve("train")[1]
    assert summary["status"] == "finished" and errors[-1] < 80 < errors[0]  # chance is 90
    data = load_data(cfg)
    assert data.val is not None and (len(data.train), len(data.val), len(data.test)) == (45_000, 5_000, 10_000)


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_not_of_the_one_that_started_it() -> None:
    child = "import torch; from resexp.runtime import peak_memory; print(peak_memory(torch.device('cpu')))"

    def peak(script: str) -> int:
        return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)

    alone = peak(child)
    size = alone + 600_000_000
    parent = f"import subprocess, sys; x = b'1' * {size}; subprocess.run([sys.executable, '-c', {child!r}])"
    assert 50e6 < peak(parent) < alone + 300e6


@pytest.mark.images
def test_resnet1202_takes_a_real_step_at_batch_128_in_under_4_gb(images: Path, resexp: Resexp) -> None:
    words = [
        "dataset=cifar10",
        f"dataset.root={images}",
        "model=resnet1202",
        "activation_checkpointing=true",
        "max_minutes=0.001",
        "tensorboard=false",
    ]
    result = resexp("train", *words)
    assert result.returncode == 0, result.stderr
    summary = Run(config.load(words).run_dir).summary
    assert summary["step"] == 1
    assert summary["peak_memory_bytes"] < 4e9


def test_batches_are_ready_for_the_net() -> None:
    cfg = config.load(TINY)
    data = load_data(cfg)
    state = build_state(cfg, data, torch.device("cpu"))
    inputs, labels = state.batches.make(*next(state.batches))
    assert inputs.shape == (32, 3, 8, 8) and inputs.dtype == torch.float32 and labels.shape == (32,)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
