"""The command line."""

from resexp.cli.main import main

__all__ = ["main"]
