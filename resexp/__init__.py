"""resexp: run, measure and draw the experiments of the residual-network papers.

>>> import resexp
>>> net = resexp.build("resnet20", classes=10)
>>> sum(weight.numel() for weight in net.parameters())
269722

``resexp.api`` says what else there is. Importing resexp imports no torch: what needs it does so when it is called.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resexp.api import Finding, Picture, Run, Study, analyze, build, runs, study, train

__version__ = "0.1.0"
__all__ = [
    "Finding",
    "Picture",
    "Run",
    "RunError",
    "Study",
    "UserError",
    "analyze",
    "build",
    "runs",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    """The interface, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'resexp' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("resexp.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class UserError(ValueError):
    """Bad input: one line that says what, where, which value and what to do. The command line exits with code 2."""


class RunError(Exception):
    """A run failed for a reason that is no mistake of the user's: one line. The command line exits with code 1."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of an error message about an unknown word: the nearest right one, or all of them where none is near.

    >>> did_you_mean("resnet65", ["plain56", "resnet56"])
    'did you mean resnet56?'
    """
    choices = list(choices)
    certain = 0.85 if len(choices) <= 3 else 0.6  # a few choices are better shown than guessed from
    near = difflib.get_close_matches(word, choices, n=1, cutoff=certain)
    return f"did you mean {near[0]}?" if near else "choose from " + ", ".join(choices)
