"""Counts, the stopwatch, and what is due after a step."""

import dataclasses
import time

import pytest
import torch

from resexp import config
from resexp.meter import Clock, Counts, Diverged, Due
from resexp.parallel import World
from resexp.runtime import Stop

NOTHING = Due(log=False, evaluate=False, save=False, show=False, stop=False)


@dataclasses.dataclass(frozen=True)
class Counted(World):
    """A world of two processes of which the other never wants anything; it counts how often the two agree."""

    agreements: list = dataclasses.field(default_factory=list)

    def max(self, *values: int) -> list[int]:
        self.agreements.append(values)
        return list(values)


@dataclasses.dataclass(frozen=True)
class Beside(World):
    """The first of two processes: what the other has to add, in the order in which it is asked."""

    theirs: list = dataclasses.field(default_factory=list)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + self.theirs.pop(0)


def clock(world: World, *words: str, stop: Stop | None = None, show_seconds: float = 1000) -> Clock:
    usual = ("protocol.steps=1000", "protocol.log_every=100", "protocol.eval_every=250", "protocol.save_seconds=1000")
    p = config.load([*usual, *words]).protocol
    return Clock(
        p, world, stop=stop or Stop(), started=time.perf_counter(), show_seconds=show_seconds, max_minutes=None
    )


def test_logging_evaluating_and_the_last_step_are_due_by_the_step() -> None:
    alone = clock(World())
    due = {step: alone.due(step) for step in range(1, 1001)}
    assert [step for step in due if due[step].log] == list(range(100, 1001, 100))
    assert [step for step in due if due[step].evaluate] == [250, 500, 750, 1000]
    assert [step for step in due if due[step].save] == [1000] and due[1] == NOTHING and not due[1]


def test_processes_agree_now_and_then_and_not_in_every_step() -> None:
    together = Counted(0, 2, 0)
    ticking = clock(together)
    for step in range(1, 100):
        assert ticking.due(step) == NOTHING
        time.sleep(0.001)
    assert 1 <= len(together.agreements) < 20  # steps of 1 ms: one agreement in about 500 of them, once it is known


def test_a_signal_is_noticed_by_several_processes_within_a_second() -> None:
    stop = Stop()
    ticking = clock(Counted(0, 2, 0), stop=stop)
    for step in range(1, 40):
        ticking.due(step)
        time.sleep(0.001)
    stop.signal = 15
    steps = 0
    while not ticking.due(40 + steps).stop:
        time.sleep(0.001)
        steps += 1
        assert steps < 900


def test_a_loss_that_is_not_finite_is_found_with_its_step() -> None:
    counts = Counts(torch.device("cpu"), batch_size=2, size=8, world=World())
    logits, labels = torch.eye(2), torch.tensor([0, 0])
    for loss in (1.0, 3.0):
        counts.add(torch.tensor(loss), logits, labels)
    assert counts.read(step=2) == (2.0, 50.0)
    counts.add(torch.tensor(float("nan")), logits, labels)
    counts.add(torch.tensor(float("nan")), logits, labels)
    with pytest.raises(Diverged) as error:
        counts.read(step=4)
    assert error.value.step == 3


LOGITS, RIGHT, WRONG = torch.eye(2), torch.tensor([0, 1]), torch.tensor([1, 0])
NAN = torch.tensor(float("nan"))


def counts_of(world: World, *batches: tuple[torch.Tensor, torch.Tensor], state: dict | None = None) -> Counts:
    """After batches of 4 images, or a process' half of them, from 16 images."""
    counts = Counts(torch.device("cpu"), batch_size=4, size=16, world=world)
    if state:
        counts.load_state_dict(state)
    for loss, labels in batches:
        counts.add(loss, LOGITS.repeat(len(labels) // 2, 1), labels)
    return counts


@pytest.mark.parametrize("bad", [False, True])
def test_a_run_that_one_process_began_diverges_in_two_only_if_a_loss_is_not_finite(bad: bool) -> None:
    one = torch.tensor(1.0)
    begun = counts_of(World(), *[(one, RIGHT.repeat(2))] * 3).state_dict()
    other = counts_of(World(1, 2, 1), (one, RIGHT))
    first = counts_of(Beside(0, 2, 0, [other.sums[0]]), (NAN if bad else one, RIGHT), state=begun)
    if not bad:
        assert first.read(step=4) == (1.0, 0.0)
        return
    with pytest.raises(Diverged) as error:
        first.read(step=4)
    assert error.value.step == 4


def test_a_loss_that_was_not_finite_in_one_of_two_processes_is_found_by_the_one_that_goes_on() -> None:
    one = torch.tensor(1.0)
    other = counts_of(World(1, 2, 1), (one, RIGHT), (NAN, RIGHT))
    theirs = [other.sums, other.last_epoch]
    state = counts_of(Beside(0, 2, 0, theirs), (one, RIGHT), (one, RIGHT)).state_dict()
    alone = counts_of(World(), (NAN, RIGHT.repeat(2)), state=state)
    with pytest.raises(Diverged) as error:
        alone.read(step=3)
    assert error.value.step == 2


def test_the_last_full_epoch_counts_in_all_processes_though_only_the_first_has_it_after_a_resume() -> None:
    one = torch.tensor(1.0)
    epoch = counts_of(World(), *[(one, RIGHT.repeat(2)), (one, WRONG.repeat(2))] * 2)
    epoch.close_epoch(4)
    other = counts_of(World(1, 2, 1), (one, RIGHT))  # of the next epoch
    summed = [torch.stack((other.last_epoch, other.sums[2]))]
    first = counts_of(Beside(0, 2, 0, summed), (one, RIGHT), state=epoch.state_dict())
    assert first.train_error() == 50.0
