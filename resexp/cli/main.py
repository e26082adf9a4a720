"""``main``: which command, and how it ends. What a command needs is imported when it runs, so that help is quick."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import resexp
from resexp import RunError, UserError, did_you_mean
from resexp.cli import analyze, bench, completion, evaluation, lists, results, sweeps, train
from resexp.console import any_console, message
from resexp.system import NO_MEMORY, lacks_memory

EXAMPLES = """
first steps:
  resexp study degradation      plain nets get worse with depth, residual nets do not: minutes
  resexp train model=plain56    one net
  resexp sweep depth=18,34      plain and residual nets of both depths, side by side
  resexp train --help           every setting with its default
"""
OLD_FLAGS = {
    "--output-dir": "write output_dir=DIR",
    "--local-rank": "start it with torchrun, or with python -m torch.distributed.launch --use-env",
    "--local_rank": "start it with torchrun, or with python -m torch.distributed.launch --use-env",
}
WITH_SETTINGS = "settings in Hydra's grammar: model=plain56 seed=1"
WITH_LISTS = "settings in Hydra's grammar; lists make runs: depth=18,34 seed=0,1"


@dataclass(frozen=True)
class Command:
    run: Callable[[argparse.Namespace], int]
    help: str
    settings: str | None = None
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None


COMMANDS = {
    "train": Command(train.train_net, "train one net; the same command resumes where it stopped", WITH_SETTINGS),
    "sweep": Command(
        sweeps.sweep, "train many nets side by side, then draw and tabulate them", WITH_LISTS, sweeps.sweep_arguments
    ),
    "study": Command(
        sweeps.study, "the runs, the figure and the verdicts of one study", WITH_LISTS, sweeps.study_arguments
    ),
    "eval": Command(
        evaluation.evaluate,
        "test error of a run, or of anybody's weights, single view",
        None,
        evaluation.eval_arguments,
    ),
    "figures": Command(
        results.figures, "draw studies and analyses again, without training", None, results.log_arguments
    ),
    "verify": Command(
        results.verify, "claims against measurements; exit code 1 if one fails", None, results.verify_arguments
    ),
    "report": Command(
        results.report, "one self-contained HTML page of all that has been run", None, results.report_arguments
    ),
    "analyze": Command(
        analyze.analyze, "why it works: the mechanisms, measured on your own nets", None, analyze.analyze_arguments
    ),
    "bench": Command(
        bench.bench, "images/s in training, alone or against the usual loop", WITH_SETTINGS, bench.bench_arguments
    ),
    "models": Command(
        lists.models, "the named nets: parameters, multiply-adds, published ones", None, lists.model_arguments
    ),
    "datasets": Command(lists.datasets, "the data sets and their default protocols"),
    "protocols": Command(lists.protocols, "the protocols, or where two of them differ", None, lists.protocol_arguments),
    "studies": Command(lists.studies, "the studies and what they run"),
    "export": Command(
        results.export, "the curves of runs as CSV, for spreadsheets and other programs", None, results.export_arguments
    ),
    "completion": Command(
        completion.script, "what a shell needs to complete commands and settings", None, completion.script_arguments
    ),
    "config": Command(lists.show_config, "the composed and checked configuration of one run", WITH_SETTINGS),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 a run or a claim failed, 2 a usage error, 130/143 stopped by a signal."""
    any_console()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0 if words else 2
    if words[0] == completion.ASKED:
        return completion.suggest(words[1:], {name: bool(command.settings) for name, command in COMMANDS.items()})
    if words[0] == "--version":
        print(f"resexp {resexp.__version__}")
        return 0
    try:
        command, args = _parse(words)
        return command.run(args)
    except UserError as error:
        if os.environ.get("RANK", "0") not in ("", "0"):  # rank 0 meets the same error and reports it; give it time to
            time.sleep(2)
        message(f"resexp: error: {error}")
        return 2
    except RunError as error:
        message(f"resexp: {error}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        message(f"resexp: error: {NO_MEMORY}")
        return 2
    except KeyboardInterrupt:
        print("resexp: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # resexp models | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(words: list[str]) -> tuple[Command, argparse.Namespace]:
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"no command {name}; {did_you_mean(name, COMMANDS)} (resexp --help)")
    command = COMMANDS[name]
    parser = Parser(prog=f"resexp {name}", description=command.help, formatter_class=argparse.RawTextHelpFormatter)
    command.arguments(parser)
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with conf files of your own")
    if command.settings:
        parser.add_argument("overrides", nargs="*", metavar="key=value", help=command.settings)
        if "-h" in words or "--help" in words:
            parser.epilog = _settings_help()
    return command, parser.parse_intermixed_args(words[1:])


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake answered in one line."""

    def error(self, message: str) -> NoReturn:
        remedy = next((way for flag, way in OLD_FLAGS.items() if flag in message), f"{self.prog} --help")
        raise UserError(f"{message} ({remedy})")


def _overview() -> str:
    rows = "".join(f"  {name:<10} {command.help}\n" for name, command in COMMANDS.items())
    about = (resexp.__doc__ or "").splitlines()[0]
    return f"usage: resexp COMMAND ...\n\n{about}\n\ncommands:\n{rows}{EXAMPLES}"


def _settings_help() -> str:
    from resexp import config

    lines = ["groups:"]
    models = "plain20, resnet56, ... any family and depth (resexp models)"
    lines += [f"  model={models}"]
    lines += [f"  {group}={', '.join(config.names(group))}" for group in ("dataset", "protocol", "launcher")]
    lines += ["", "settings, with their defaults for the model resnet20, the data set digits and its protocol:"]
    defaults = config.flatten(config.load())
    for key, text in config.describe_keys(config.Config):
        value = (
            "null"
            if defaults[key] is None
            else str(defaults[key]).lower()
            if isinstance(defaults[key], bool)
            else defaults[key]
        )
        lines.append(f"  {f'{key}={value}':<38} {text}")
    return "\n".join(lines)
