"""The learning rate as a function of the step, and of the errors that a warm-up or a plateau waits for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Plateau:
    """How training error has moved since the last drop of the rate, in windows of steps."""

    best: float = math.inf  # mean error of the best window since the last drop, in percent
    waited: int = 0  # windows since then that were no better
    drops: int = 0


@dataclass(kw_only=True)
class Schedule:
    """Step drops, and a warm-up: of very deep nets until they learn, or of all nets for a number of steps.

    :param drops: steps at which the rate is multiplied by ``drop_factor``, counted from step 0, warm-up included.
    :param fade: two steps; shortcuts that fade are whole until the first, and gone from the second on.
    :param warmup_steps: steps at ``warmup_lr`` at the start (He et al. 2016, Sec. 3.1 and Appendix).
    :param warmup: whether this net warms up by its error (He et al. 2015, Sec. 4.2): at ``warmup_lr`` until the mean
        error of the last ``warmup_window`` batches is below ``warmup_error`` (percent), or ``warmup_limit`` steps are
        done: a net that never learns must meet the papers' rates all the same.
    :param plateau_window: steps whose mean training error (percent) is compared with the best window's since the last
        drop; after ``plateau_patience`` windows that were not better by ``plateau_points`` the rate drops, at most
        ``plateau_drops`` times. None: it does not wait for plateaus. (He et al. 2015, Sec. 3.4.)
    """

    base_lr: float
    drops: Sequence[int] = ()
    drop_factor: float = 0.1
    fade: Sequence[int] = ()
    warmup: bool = False
    warmup_steps: int = 0
    warmup_lr: float = 0.01
    warmup_error: float = 80.0
    warmup_window: int = 100
    warmup_limit: int = 4000
    plateau_window: int | None = None
    plateau_points: float = 0.0
    plateau_patience: int = 1
    plateau_drops: int = 0
    warmup_ended_at: int | None = None
    plateau: Plateau = field(default_factory=Plateau)
    recent_errors: list[float] = field(default_factory=list)

    @property
    def warming_up(self) -> bool:
        return self.warmup and self.warmup_ended_at is None

    def lr(self, step: int) -> float:
        """The rate of the update from ``step`` to ``step + 1``; a warm-up never raises it."""
        drops = sum(step >= drop for drop in self.drops) + self.plateau.drops
        rate = self.base_lr * self.drop_factor**drops
        return min(rate, self.warmup_lr) if self.warming_up or step < self.warmup_steps else rate

    def shortcut(self, step: int) -> float:
        """The strength of shortcuts that fade, in the update from ``step`` to ``step + 1``: in a line from 1 to 0."""
        if not self.fade:
            return 1.0
        first, last = self.fade
        return min(1.0, max(0.0, (last - step) / (last - first)))

    def observe(self, step: int, error: float) -> None:
        """Tell the error (percent) of the batch whose update led to ``step``; needed only while ``warming_up``."""
        self.recent_errors = [*self.recent_errors, error][-self.warmup_window :]
        full = len(self.recent_errors) == self.warmup_window
        learns = full and sum(self.recent_errors) / self.warmup_window < self.warmup_error
        if learns or step >= self.warmup_limit:
            self.warmup_ended_at = step

    def window_ends(self, step: int) -> bool:
        """Whether a window of a plateau ends with this step; then ``observe_window`` wants its error."""
        return self.plateau_window is not None and step % self.plateau_window == 0

    def observe_window(self, error: float) -> None:
        """Tell the mean error (percent) of a window that has ended."""
        now = self.plateau
        if error < now.best - self.plateau_points:
            now.best, now.waited = error, 0
        else:
            now.waited += 1
        if now.waited >= self.plateau_patience and now.drops < self.plateau_drops:
            self.plateau = Plateau(drops=now.drops + 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "warmup_ended_at": self.warmup_ended_at,
            "recent_errors": self.recent_errors,
            "plateau": [self.plateau.best, self.plateau.waited, self.plateau.drops],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warmup_ended_at = state["warmup_ended_at"]
        self.recent_errors = list(state["recent_errors"])
        self.plateau = Plateau(*state["plateau"])
