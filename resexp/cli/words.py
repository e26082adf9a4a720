"""The words of a command that trains nothing: names, and ``output_dir=DIR`` as everywhere else."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resexp.system import expand_home

KEY = "output_dir="


class Words(argparse.Action):
    """Keeps all words but ``output_dir=DIR``, which sets ``args.output_dir``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = [str(word) for word in values or ()]
        for word in words:
            if word.startswith(KEY):
                namespace.output_dir = expand_home(word.removeprefix(KEY) or ".", "output_dir")
        setattr(namespace, self.dest, [word for word in words if not word.startswith(KEY)])


def add_words(parser: argparse.ArgumentParser, dest: str, metavar: str, help: str) -> None:
    """Any number of words, and the output folder."""
    parser.set_defaults(output_dir=Path("outputs"))
    parser.add_argument(
        dest,
        nargs="*",
        action=Words,
        metavar=f"{metavar} | output_dir=DIR".removeprefix(" | "),
        help=f"{help}; output_dir=DIR: the folder that holds runs/ (default: outputs)".removeprefix("; "),
    )
