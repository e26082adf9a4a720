"""What happens around a run: signals, terminals, locks, file systems without this or that, names, damaged files."""

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TINY, differences, end_state, wait_for

from resexp import UserError, checkpoint, config, system
from resexp.cli import main
from resexp.cli.main import COMMANDS, Command
from resexp.config.keys import as_name, check_name
from resexp.console import printable
from resexp.data.root import cache_dir
from resexp.run.files import load_checked, write_bytes, write_checked
from resexp.run.lock import is_held, open_folder
from resexp.run.reader import ENV, METRICS, SUMMARY, Run, read_run
from resexp.sweep.local import _collect
from resexp.sweep.plan import Job, JobState

LONG = [
    *TINY,
    "protocol.steps=100000",
    "protocol.lr_drops=[50000]",
    "protocol.eval_every=1000",
    "protocol.log_every=50",
]


def started(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / METRICS).is_file() and (folder / METRICS).stat().st_size > 0


# --- processes --------------------------------------------------------------------------------------------------------


def resexp(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "resexp", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def begun(command: str) -> tuple[subprocess.Popen[str], Path]:
    """The process of a long run that has written to its log, and the run's folder."""
    folder = config.load(LONG).run_dir
    process = resexp(command, *LONG)
    wait_for(started(folder))
    return process, folder


def test_a_closed_terminal_saves_the_run() -> None:
    process, folder = begun("train")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGHUP
    assert Run(folder).status == "interrupted" and (folder / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_nohup_lets_a_closed_terminal_be() -> None:
    folder = config.load(LONG).run_dir
    command = ["nohup", sys.executable, "-m", "resexp", "train", *LONG]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(started(folder))
    process.send_signal(signal.SIGHUP)
    before = (folder / METRICS).stat().st_size
    wait_for(lambda: (folder / METRICS).stat().st_size > before)
    process.terminate()
    process.communicate(timeout=300)


@pytest.mark.slow
def test_the_runs_of_a_killed_sweep_save_and_end() -> None:
    sweep, folder = begun("sweep")
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate(timeout=300)
    wait_for(lambda: Run(folder).summary != {})
    wait_for(lambda: not is_held(folder))
    assert Run(folder).status == "interrupted" and (folder / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_a_sweep_waits_for_a_run_in_other_hands_and_then_goes_on_with_it() -> None:
    other, folder = begun("train")
    sweep = resexp("sweep", *LONG, "max_minutes=1")
    assert sweep.stderr is not None
    said = []
    for line in sweep.stderr:
        said.append(line)
        if "another process trains it; waiting for that one" in line:
            break
    other.terminate()
    other.communicate(timeout=300)
    wait_for(lambda: (folder / ENV).is_file() and "resumed" in Run(folder).env)
    sweep.send_signal(signal.SIGTERM)
    _, rest = sweep.communicate(timeout=300)
    assert sweep.returncode == 128 + signal.SIGTERM
    assert "resuming at step" in rest and "failed" not in "".join(said) + rest


def test_a_finished_job_keeps_no_file_open(tmp_path: Path) -> None:
    """A sweep of a thousand runs would reach the limit of open files."""
    cfg = config.load([*TINY, f"output_dir={tmp_path}"])
    cfg.run_dir.mkdir(parents=True)
    job = Job([], cfg, outcome=JobState.RUNNING)
    job.log = (cfg.run_dir / "log.txt").open("a")
    job.process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    job.process.wait()
    _collect(job, stopped=False)
    assert job.outcome == JobState.FAILED and job.log.closed


@pytest.mark.parametrize(
    ("env", "answer"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE=two: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK=-1: must be a whole number"),
    ],
)
def test_a_launchers_variables_that_make_no_sense_are_one_line(
    env: dict[str, str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=answer):
        system.rank()


@pytest.mark.parametrize("env", [{"WORLD_SIZE": ""}, {"RANK": "3"}, {"WORLD_SIZE": "1", "RANK": ""}])
def test_empty_variables_and_a_rank_alone_are_one_process(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (system.world_size(), system.rank()) == (1, 0)


# --- file systems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_and_used(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_folder(Path("run")):
        assert "this file system has no locks; do not train one run twice at a time" in capsys.readouterr().err
    assert not is_held(Path("run"))


def test_a_file_system_that_cannot_sync_folders_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(number: int) -> None:
        if Path(f"/proc/self/fd/{number}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(Path("file"), b"content")
    assert Path("file").read_bytes() == b"content"


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for name in ("RESEXP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_dir().name == f"resexp-{os.getuid()}"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../x", "a/b", "-x", ".x", "[x]*", "x\0", "x\x1b[31m", "a b", "x" * 81]
)
def test_a_name_that_could_do_harm_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="a name has at most 80 letters"):
        check_name("dataset.name", name)


@pytest.mark.parametrize("name", ["digits", "he2015-cifar", "tiny_imagenet.50", "vögel", "鳥"])
def test_a_name_of_letters_digits_and_marks_is_taken(name: str) -> None:
    check_name("dataset.name", name)


def test_a_folder_of_any_name_gives_its_data_set_a_good_one() -> None:
    assert [as_name(text) for text in ("my birds (1)", "..", "Vo\u0308gel", "x" * 200)] == [
        "my-birds-1",
        "images",
        "Vögel",
        "x" * 80,
    ]


@pytest.mark.parametrize(
    "words",
    [["protocol.name=../../x"], ["dataset.name=.."], [f"dataset.name={'x' * 300}"], ["dataset.name='a$b$'"]],
)
def test_names_are_checked_before_anything_starts(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not Path("outputs").exists()


def test_text_from_elsewhere_cannot_command_a_terminal() -> None:
    assert printable("a\x1b[31mb\rc\x00") == "a\\x1b[31mb\\rc\\x00"
    assert printable(os.fsdecode(b"\xe4.png")) == "\\xe4.png"
    assert printable("zwei\nZeilen, 鳥") == "zwei\nZeilen, 鳥"


@pytest.mark.parametrize(
    ("value", "character"), [("/data/ä", "ä"), ("/x (1)", " "), ("/a=b", "="), ("/d/#1", "#"), ("/中", "中")]
)
def test_a_value_that_needs_quotes_is_printed_as_it_must_be_typed(value: str, character: str) -> None:
    with pytest.raises(UserError) as error:
        config.load([f"dataset.root={value}", "dataset=cifar10"])
    said = str(error.value)
    assert f"{character!r} needs quotes" in said
    typed = subprocess.run(
        ["sh", "-c", f"printf %s {said.partition('type ')[2]}"], capture_output=True, text=True
    ).stdout
    assert config.load([typed, "dataset=cifar10"]).dataset.root == value


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 50, b"[3]", b'{"status": 3}'])
@pytest.mark.parametrize("name", [SUMMARY, ENV])
def test_a_damaged_summary_or_environment_is_made_anew(name: str, damage: bytes) -> None:
    whole = [*TINY, "output_dir=whole"]
    assert main(["train", *whole]) == 0
    words = [*TINY, "output_dir=damaged"]
    assert main(["train", *words, "max_minutes=0.00001"]) == 0
    folder = config.load(words).run_dir
    (folder / name).write_bytes(damage)
    assert main(["train", *words]) == 0
    assert Run(folder).status == "finished" and Run(folder).env["threads"] >= 1
    assert differences(end_state(config.load(whole).run_dir), end_state(folder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [SUMMARY, ENV])
def test_a_sweep_resumes_a_run_whose_files_are_damaged(name: str) -> None:
    assert main(["train", *TINY, "max_minutes=0.00001"]) == 0
    folder = config.load(TINY).run_dir
    (folder / name).write_bytes(b"{")
    assert main(["sweep", *TINY]) == 0
    assert Run(folder).status == "finished"


def test_a_flipped_bit_in_the_log_is_noticed_on_resume_and_by_readers(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "protocol.log_every=1"]
    assert main(["train", *words, "max_minutes=0.00001"]) == 0
    folder = config.load(words).run_dir
    whole = (folder / METRICS).read_bytes()
    (folder / METRICS).write_bytes(flipped(whole, len(whole) // 2))
    assert main(["train", *words]) == 2
    assert "metrics.jsonl: damaged since its checkpoint" in capsys.readouterr().err
    (folder / METRICS).write_bytes(whole)
    assert main(["train", *words]) == 0
    (folder / METRICS).write_bytes((folder / METRICS).read_bytes()[:-200])  # cut short
    with pytest.raises(UserError, match=r"metrics\.jsonl: damaged"):
        read_run(folder)


def flipped(content: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_every_flipped_bit_in_a_summary_is_noticed() -> None:
    value = {"status": "finished", "step": 12, "test_error": 2.5, "crc32": {"a": 7}}
    write_checked(Path("summary.json"), value)
    content = Path("summary.json").read_bytes()
    assert load_checked(content.decode()) == value
    for at, bit in itertools.product(range(len(content)), range(8)):
        try:
            found = load_checked(flipped(content, at, bit).decode())
        except ValueError:
            continue
        assert found == value, at  # a flip in the white space between


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_where_memory_ends_one_line_says_what_to_make_smaller(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("resexp.training.train_step", fail)
    assert main(["train", *TINY]) == 2
    said = capsys.readouterr().err
    assert "not enough memory; take a smaller protocol.batch_size" in said and "Traceback" not in said
    assert Run(config.load(TINY).run_dir).status == "failed"
    monkeypatch.undo()
    monkeypatch.setitem(COMMANDS, "models", Command(fail, ""))  # type: ignore[arg-type]
    assert main(["models"]) == 2 and "not enough memory" in capsys.readouterr().err


@pytest.mark.parametrize("reads", ["torch.load", "resexp.state.State.load_state_dict"])
def test_a_checkpoint_for_which_there_is_no_memory_is_not_called_damaged(
    reads: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, "max_minutes=0.0001"]) == 0

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(reads, full)
    assert main(["train", *TINY]) == 2
    said = capsys.readouterr().err
    assert "not enough memory" in said and "remove it" not in said


def test_a_finished_run_of_images_that_have_changed_is_not_the_answer(
    make_tree: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree({"train": {"cat": 20, "dog": 20}, "test": {"cat": 3, "dog": 3}})
    rest = [word for word in TINY if not word.startswith("dataset")]
    words = ["dataset=imagefolder", f"dataset.root={tree}", *rest, "protocol.batch_size=8"]
    assert main(["train", *words]) == 0 and main(["train", *words]) == 0
    for name in (".DS_Store", "train/cat/Thumbs.db", "outputs/figures/curves.png"):  # no images of the data set
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"anything")
    assert main(["train", *words]) == 0, capsys.readouterr().err
    (tree / "train" / "cat" / "0.png").unlink()
    for command in ("train", "sweep"):
        assert main([command, *words]) == 2
        assert f"finished with other images than {tree} has now" in capsys.readouterr().err


def test_a_flipped_bit_in_a_checkpoints_list_of_contents_ends_in_one_line(tmp_path: Path) -> None:
    """Of the archive, which has no checksum there."""
    path = tmp_path / "checkpoint.pt"
    saved = {"step": 3, "net": {f"layer{n}.weight": torch.ones(4) for n in range(6)}}
    checkpoint.save(path, saved)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    for at in range(start, len(content)):
        path.write_bytes(flipped(content, at))
        try:
            loaded = checkpoint.load(path)
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{path}: truncated or damaged (")
        else:  # a bit that says nothing of the content
            assert not differences(loaded, saved)
