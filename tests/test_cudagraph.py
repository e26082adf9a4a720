"""The bookkeeping of a recorded step, with the GPU played by a few lines; tests on a real one are in test_train.py."""

import contextlib
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from resexp.runtime import WARMUP_CALLS, CudaGraph


@pytest.fixture
def played_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A recording runs nothing but remembers; a replay runs the function on the recorded inputs."""
    events: list[str] = []

    @contextlib.contextmanager
    def record(_graph: object, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # a DataLoader's thread may pin memory meanwhile
        assert stream is torch.cuda.Stream.return_value  # type: ignore[attr-defined]
        events.append("record")
        yield

    graph = MagicMock()
    graph.replay.side_effect = lambda: events.append("replay")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    for name in ("Stream", "current_stream", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    return events


def test_real_steps_warm_up_then_one_is_recorded_and_all_later_ones_replayed(played_gpu: list[str]) -> None:
    seen: list[Tensor] = []

    def step(indices: Tensor, offsets: Tensor | None) -> None:
        played_gpu.append("step")
        seen.append(indices)
        assert offsets is None

    recorded = CudaGraph(step)
    inputs = [torch.tensor([float(call)]) for call in range(WARMUP_CALLS + 3)]
    for tensor in inputs:
        recorded(tensor, None)
    assert played_gpu == [*["step"] * WARMUP_CALLS, "record", "step", "replay", "replay", "replay"]
    assert [float(tensor) for tensor in seen[:WARMUP_CALLS]] == [0.0, 1.0, 2.0]
    place = seen[-1]  # what the recording reads: each call's input is copied there
    assert torch.equal(place, inputs[-1]) and place is not inputs[WARMUP_CALLS]
