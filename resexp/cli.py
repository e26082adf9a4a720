"""The commands. Everything heavy is imported by the command that needs it, so that help and mistakes answer at once."""

import argparse
import dataclasses
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import resexp
from resexp import RunError, UserError, did_you_mean

if TYPE_CHECKING:
    from resexp.config import Config, Study
    from resexp.evaluate import Evaluation
    from resexp.finding import Finding
    from resexp.study import StudyRuns
    from resexp.sweep import Sweep
    from resexp.verdict import Verdict

EXAMPLES = """
first steps:
  resexp study degradation      plain nets get worse with depth, residual nets do not: minutes
  resexp train model=plain56    one net
  resexp sweep depth=18,34      plain and residual nets of both depths, side by side
  resexp train --help           every setting with its default
"""
WITH_SETTINGS = "settings in Hydra's grammar: model=plain56 seed=1"
WITH_LISTS = "settings in Hydra's grammar; lists make runs: depth=18,34 seed=0,1"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 a run or a claim failed, 2 a usage error, 130/143 stopped by a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(words)
        if words[:1] == ["train"] and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from resexp.parallel import end_process

            end_process(code)
        return code
    except UserError as error:
        if _rank() > 0:  # what stops the first process too is its to say; it takes this one down meanwhile
            time.sleep(2)
        print(f"resexp: error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"resexp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("resexp: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # resexp models | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"resexp {resexp.__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"no command {name}; {did_you_mean(name, COMMANDS)} (resexp --help)")
    command = COMMANDS[name]
    parser = _Parser(prog=f"resexp {name}", description=command.help, formatter_class=argparse.RawTextHelpFormatter)
    command.arguments(parser)
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with conf files of your own")
    if command.settings:
        parser.add_argument("overrides", nargs="*", metavar="key=value", help=command.settings)
        if "-h" in words or "--help" in words:
            parser.epilog = _settings_help()
    return command.run(parser.parse_intermixed_args(words[1:]))


def _rank() -> int:
    """Of this process, where torchrun started several for one run."""
    return int(os.environ.get("RANK", "0"))


class _Parser(argparse.ArgumentParser):
    """argparse, with a mistake answered in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help)")


def _overview() -> str:
    rows = "".join(f"  {name:<10} {command.help}\n" for name, command in COMMANDS.items())
    return f"usage: resexp COMMAND ...\n\n{resexp.__doc__}\n\ncommands:\n{rows}{EXAMPLES}"


def _settings_help() -> str:
    from resexp import config

    lines = ["groups:"]
    models = "plain20, resnet56, ... any family and depth (resexp models)"
    lines += [f"  model={models}"]
    lines += [f"  {group}={', '.join(config.names(group))}" for group in ("dataset", "protocol", "launcher")]
    lines += ["", "settings, with their defaults for the model resnet20, the data set digits and its protocol:"]
    defaults = config.flatten(config.load())
    for key, text in config.describe_keys():
        value = (
            "null"
            if defaults[key] is None
            else str(defaults[key]).lower()
            if isinstance(defaults[key], bool)
            else defaults[key]
        )
        lines.append(f"  {f'{key}={value}':<38} {text}")
    return "\n".join(lines)


# --- runs -------------------------------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.runs.reader import Run

    cfg = config.load(args.overrides, args.config_dir)
    if cfg.launcher.name != "local":
        raise UserError(f"launcher={cfg.launcher.name}: train runs here; resexp sweep hands runs to a launcher")
    run = Run(cfg.run_dir)
    run.refuse_other_root(cfg.dataset.source, cfg.dataset.root)
    if run.status == "finished":
        if _rank() > 0:
            return 0
        print(f"{cfg.run_dir}: finished already; another seed= is another run", file=sys.stderr)
        summary = run.summary
    else:
        from resexp.run_folder import open_run
        from resexp.runtime import stop_signals
        from resexp.train import train

        with open_run(cfg, cfg.run_dir) as folder, stop_signals() as stop:
            summary = train(cfg, folder, stop)
    if _rank() > 0:
        return 128 + summary["signal"] if summary.get("signal") else int(summary["status"] == "diverged")
    print(_result_line(cfg, summary))
    if summary["status"] == "diverged":
        kept = (cfg.run_dir / "checkpoint.pt").is_file()
        print(
            f"resexp: the loss is not finite at step {summary['step']}; "
            + ("the last good checkpoint is kept" if kept else "there was no checkpoint yet")
            + "; try a smaller protocol.lr",
            file=sys.stderr,
        )
        return 1
    if summary.get("signal"):
        return 128 + summary["signal"]
    return 0


def _result_line(cfg: "Config", summary: dict) -> str:
    from resexp.study import published_like

    reached = f"{summary['status']} at step {summary['step']:,} of {cfg.protocol.steps:,}"
    parts = [f"{cfg.model.name} on {cfg.dataset.name}: {reached}"]
    for key in ("train_error", "val_error", "test_error", "ten_crop_error", "multi_scale_error"):
        if summary.get(key) is not None:
            parts.append(f"{key.removesuffix('_error').replace('_', '-')} error {summary[key]:.2f}%")
    if known := published_like(dataclasses.asdict(cfg)):
        parts.append(f"published {known}% ({known.source})")
    if summary["status"] == "interrupted":
        parts.append("the same command goes on")
    return "; ".join(parts)


def _sweep(args: argparse.Namespace) -> int:
    from resexp import config

    jobs = config.expand(args.overrides, args.config_dir)
    from resexp.figures import slug

    narrowed = {word for overrides, _ in jobs for word in overrides if word.startswith("model.width=")}
    for word in sorted(narrowed - set(args.overrides)):
        print(f"{word}: every net is narrowed, for speed; set model.width for another width", file=sys.stderr)
    sweep = _launch(jobs, args)
    if sweep is None:
        return 0
    nets = list(dict.fromkeys(cfg.model.name for _, cfg in jobs))
    title = ", ".join(nets) if len(nets) <= 6 else f"{len(nets)} nets"
    datasets = " ".join(dict.fromkeys(cfg.dataset.name for _, cfg in jobs))
    settings = hashlib.sha256(" ".join(sorted(cfg.run_name for _, cfg in jobs)).encode()).hexdigest()[:6]
    _show_sweep(sweep, title=title, stem=slug(f"{title} {datasets} {settings}"))
    return _sweep_exit_code(sweep)


def _study(args: argparse.Namespace) -> int:
    from resexp import config

    study, jobs = config.load_study(args.name, args.overrides, args.config_dir)
    print(study.title, file=sys.stderr)
    sweep = _launch(jobs, args)
    if sweep is None:
        return 0
    groups = _show_sweep(sweep, title=study.title, stem=study.name, study=study)
    from resexp.verdict import FAILS, in_words

    verdicts = _show_verdicts(study, groups)
    print(in_words(study, groups, verdicts))
    return _sweep_exit_code(sweep) or int(any(verdict.word == FAILS for verdict in verdicts))


def _launch(jobs: list, args: argparse.Namespace) -> "Sweep | None":
    """Run all jobs where the launcher says; None if they were only submitted, or only shown."""
    from resexp import slurm
    from resexp.console import stdout
    from resexp.sweep import live_table, plan_sweep, run_sweep

    on_cluster = jobs[0][1].launcher.name == "slurm"
    if args.wait and not (on_cluster or args.status):
        raise UserError("--wait is for launcher=slurm; a local sweep waits anyway")
    if args.status:
        sweep = plan_sweep(jobs)
        slurm.refresh(sweep)
    elif not on_cluster:
        _say_how_long(jobs)
        return run_sweep(jobs, config_dir=args.config_dir)
    else:
        sweep = slurm.submit_sweep(jobs, config_dir=args.config_dir)
    if args.wait:
        slurm.wait_for(sweep)
        return sweep
    stdout().print(live_table(sweep))
    return None


MEASURED_STEPS = 4  # of a training, several times: about ten seconds for a net of 20 layers


def _say_how_long(jobs: list) -> None:
    """Before a sweep of hours: how many, from a measurement of its smallest net now."""
    from resexp.console import message
    from resexp.runs.progress import duration
    from resexp.sweep import estimate_left, is_long, plan_sweep

    todo = [job for job in plan_sweep(jobs).jobs if job.outcome != "finished"]
    if not todo or not is_long(todo):
        return
    from resexp.bench import measure_together

    cfg = min(todo, key=lambda job: job.cfg.model.depth).cfg
    point = measure_together(cfg, 1, MEASURED_STEPS)
    left = estimate_left(todo, {cfg.model.name: point["images_per_s"]}) if "images_per_s" in point else None
    if left is not None:
        message(
            f"about {duration(left)} for {len(todo)} runs one after another, by {cfg.model.name}'s "
            f"{point['images_per_s']:,.0f} images/s here now; it may be stopped and goes on"
        )


def _show_sweep(sweep: "Sweep", *, title: str, stem: str, study: "Study | None" = None) -> list:
    """Figure, table, and what is left. Returns the groups of runs."""
    from resexp.runs.progress import duration
    from resexp.runs.reader import CONFIG
    from resexp.study import group_runs
    from resexp.sweep import estimate_left

    output_dir = Path(sweep.jobs[0].cfg.output_dir)
    groups = group_runs([job.run for job in sweep.jobs if (job.cfg.run_dir / CONFIG).is_file()])
    if groups:
        _draw(groups, output_dir / "figures" / stem, title=title, note="Own runs.", study=study)
    for job in sweep.failed:
        print(f"{job.name}: {job.message}; see {job.cfg.run_dir / 'log.txt'}", file=sys.stderr)
    if sweep.unfinished:
        left = estimate_left(sweep.jobs)
        time_left = (
            f"about {duration(left / sweep.workers)} at the measured speed" if left is not None else "speed unknown"
        )
        steps = sum(job.cfg.protocol.steps - job.run.step for job in sweep.unfinished)
        print(
            f"left: {len(sweep.unfinished)} of {len(sweep.jobs)} runs, {steps:,} steps, {time_left}; "
            "the same command goes on",
            file=sys.stderr,
        )
    return groups


def _draw(groups: list, path: Path, *, title: str, note: str, study: "Study | None") -> None:
    """The figure as PNG and SVG, and the table as Markdown beside it and on stdout."""
    from resexp.console import markdown_table, print_table
    from resexp.figures import draw_gaps, draw_study
    from resexp.study import TABLE_COLUMNS, other_rows, table_rows

    rows = table_rows(groups, study)
    try:
        written = draw_study(groups, path, kind=study.figure if study else "curves", title=title, note=note)
        if study and study.gaps:
            gap = path.with_name(f"{path.name}-gap")
            written += draw_gaps(study.gaps, groups, gap, title=f"{title}: gaps over the steps", note=note)
        table_file = path.with_name(path.name + ".md")
        table_file.write_text(f"{title}. {note}\n\n{markdown_table(TABLE_COLUMNS, rows)}")
    except OSError as error:
        raise UserError(f"cannot write into {path.parent}: {error.strerror}; set another output folder") from None
    print_table(TABLE_COLUMNS, rows, title)
    if study and study.others:
        print_table(
            ("source", "length", *study.others[0].nets), other_rows(study), "Published, test error %, by length"
        )
    print("figure: " + ", ".join(map(str, written)))


def _show_verdicts(study: "Study", groups: list) -> "list[Verdict]":
    """Print the verdicts, and how far the errors are from published means."""
    from resexp.console import print_table
    from resexp.verdict import DISTANCE_COLUMNS, VERDICT_COLUMNS, distance_rows, judge, verdict_rows

    verdicts = judge(study.claims, groups)
    if verdicts:
        source = f"; published: {study.source}" if study.source else ""
        print_table(VERDICT_COLUMNS, verdict_rows(verdicts, study), f"{study.title}: claims, in points{source}")
    if distances := distance_rows(groups):
        print_table(DISTANCE_COLUMNS, distances, "Distance to the published number, in its standard deviations")
    return verdicts


def _sweep_exit_code(sweep: "Sweep") -> int:
    if sweep.stopped_by is not None:
        return 128 + sweep.stopped_by
    return 1 if sweep.failed else 0


def _eval(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table
    from resexp.runs.reader import CONFIG, read_run

    if len(args.words) != 1 or ("=" in args.words[0] and not Path(args.words[0]).exists()):
        return _eval_weights(args)
    run = read_run(Path(args.words[0]))
    cfg = dataclasses.replace(config.load_file(run.path / CONFIG), device="auto")
    from resexp.trained import evaluate_run

    step, found = evaluate_run(run.path, cfg, view=args.view)
    row = [cfg.model.name, cfg.dataset.name, str(cfg.seed), f"{step:,}", args.view, *_errors(found)]
    print_table(("net", "data set", "seed", "step", "view", *EVALUATED), [row])
    return 0


def _eval_weights(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    files = [word.partition("=")[2] for word in args.words if word.startswith("weights=")]
    if len(files) != 1:
        raise UserError("resexp eval takes a run folder, or weights=FILE with the settings of a net: model=resnet56")
    cfg = config.load([word for word in args.words if not word.startswith("weights=")], args.config_dir)
    from resexp.trained import evaluate_weights

    found = evaluate_weights(cfg, Path(files[0]), view=args.view)
    row = [cfg.model.name, cfg.dataset.name, files[0], cfg.protocol.normalize, args.view, *_errors(found)]
    print_table(("net", "data set", "weights", "normalisation", "view", *EVALUATED), [row])
    return 0


EVALUATED = ("test loss", "test error %", "top-5 error %")


def _errors(found: "Evaluation") -> list[str]:
    return [f"{found.loss:.4f}", f"{found.error:.2f}", f"{found.top5_error:.2f}"]


# --- logs -------------------------------------------------------------------------------------------------------------


def _figures(args: argparse.Namespace) -> int:
    from resexp import finding

    for found in _studies_with_runs(args):
        path = args.output_dir / "figures" / found.study.name
        _draw(found.groups, path, title=found.study.title, note=found.note, study=found.study)
    for path in () if args.studies else sorted((args.output_dir / "analysis").glob("*.json")):
        _write_finding(finding.read(path), path.with_suffix(""))
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Exit code 1 if a claim fails, or if evidence for an answer to a popular one is missing or speaks against it."""
    from resexp import config

    config.check_folder(args.config_dir)
    if args.popular:
        return _verify_popular(args)
    from resexp.verdict import FAILS, judge, verdict_data

    studies = _studies_with_runs(args)
    if args.json:
        data = []
        for found in studies:
            verdicts = judge(found.study.claims, found.groups)
            data += verdict_data(found.study, verdicts, reference=found.reference)
        _print_json(data)
        return int(any(entry["verdict"] == FAILS for entry in data))
    words = []
    for found in studies:
        print(found.note)
        words += [verdict.word for verdict in _show_verdicts(found.study, found.groups)]
    print(f"{len(words)} claims: " + ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    return int(FAILS in words)


def _verify_popular(args: argparse.Namespace) -> int:
    from resexp.console import print_table
    from resexp.popular import COLUMNS, answer_all, answer_rows

    if args.studies:
        raise UserError(f"verify --popular {args.studies[0]}: it answers all claims; drop {args.studies[0]}")
    answers = answer_all(args.output_dir)
    if args.json:
        _print_json([dict(zip(COLUMNS, row, strict=True)) for row in answer_rows(answers)])
    else:
        print_table(COLUMNS, answer_rows(answers), f"{len(answers)} popular claims")
        outcomes = [one.agrees or "cannot be tested" for one in answers]
        counts = ", ".join(f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes))
        print(f"{len(answers)} answers; the evidence agrees: {counts}")
    return int(not all(one.stands for one in answers))


def _print_json(data: object) -> None:
    import json

    print(json.dumps(data, indent=1))


def _studies_with_runs(args: argparse.Namespace) -> "list[StudyRuns]":
    """Those named, or all that have runs. UserError if none has, or a named one has not."""
    from resexp import config
    from resexp.study import find_study

    config.check_folder(args.config_dir)
    known = config.names("study", args.config_dir)
    found = [one for name in args.studies or known if (one := find_study(name, args.output_dir, args.config_dir))]
    with_runs = {one.study.name for one in found}
    if missing := [name for name in args.studies if name not in with_runs]:
        name = missing[0]
        raise UserError(f"study {name}: no runs under {args.output_dir}; start them with: resexp study {name}")
    if not found:
        raise UserError(f"no runs of any study under {args.output_dir}; start with: resexp study degradation")
    return found


def _report(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.report import FILE, write_report

    config.check_folder(args.config_dir)
    path = args.out or args.output_dir / FILE
    runs = write_report(args.output_dir, path, args.config_dir)
    print(f"{path}: {runs} runs, {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    return 0


def _analyze(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.analysis import ANALYSES, run_analysis
    from resexp.console import print_table
    from resexp.figures import slug
    from resexp.finding import COLUMNS, table

    if args.kind is None:
        print_table(("analysis", "what it measures"), [list(row) for row in ANALYSES.items()])
        return 0
    config.check_folder(args.config_dir)
    nets = args.nets.split(",") if args.nets else []
    found = run_analysis(args.kind, args.words, nets=nets, output_dir=args.output_dir, config_dir=args.config_dir)
    print_table(COLUMNS, table(found), found.title)
    _write_finding(found, args.output_dir / "analysis" / slug(args.name or args.kind))
    return 0


def _write_finding(found: "Finding", path: Path) -> None:
    """The figure as PNG and SVG, the table as Markdown, and the numbers behind both as JSON."""
    from resexp import finding
    from resexp.console import markdown_table
    from resexp.figures.finding import draw_finding

    try:
        print("figure: " + ", ".join(map(str, draw_finding(found, path))))
        finding.save(found, path.with_name(path.name + ".json"))
        text = f"{found.title}. {found.about}\n\n{markdown_table(finding.COLUMNS, finding.table(found))}"
        path.with_name(path.name + ".md").write_text(text)
    except OSError as error:
        raise UserError(f"cannot write into {path.parent}: {error.strerror}; set another --output-dir") from None


def _bench(args: argparse.Namespace) -> int:
    import json

    from resexp import config
    from resexp.console import print_table

    for key in ("rounds", "steps"):
        config.check(getattr(args, key) >= 1, f"--{key}", getattr(args, key), "must be at least 1")
    if args.growth and args.against:
        raise UserError(f"--growth --against {args.against}: growth measures our loop alone; drop one of the two")
    if args.images and (args.growth or args.against):
        raise UserError("--images measures no training; drop --growth and --against")
    cfg = config.load(args.overrides, args.config_dir)
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: no folder {args.json.parent}")
    from resexp.bench import bench, growth
    from resexp.figures import slug
    from resexp.figures.cost import draw_bench, draw_growth

    if args.images:
        from resexp.bench.images import bench_images

        result = bench_images(cfg, rounds=args.rounds, steps=args.steps)
    elif args.growth:
        result = growth(args.overrides, config_dir=args.config_dir, steps=args.steps)
    else:
        result = bench(cfg, against=args.against, rounds=args.rounds, steps=args.steps)
    figures = Path(cfg.output_dir) / "figures"
    try:  # the files first: a closed pipe ends the printing
        if args.json:
            args.json.write_text(json.dumps(result, indent=2) + "\n")
        if args.images:
            written = []
        elif args.growth:
            written = draw_growth(result, figures / "growth")
        else:
            written = draw_bench(result, figures / slug(f"bench {result['net']} {result['dataset']}"))
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}; set another file or output_dir=") from None
    if args.images:
        _print_images(result)
        return 0
    if args.growth:
        for axis, points in result["axes"].items():
            print_table((axis, "images/s, median", "least", "most", "peak memory"), _growth_rows(points))
    else:
        _print_bench(result)
    print("figure: " + ", ".join(map(str, written)))
    return 0


def _print_bench(result: dict) -> None:
    from resexp.console import print_table

    title = (
        f"{result['net']}, {result['dataset']}, batch {result['batch_size']}, {result['precision']}, "
        f"{result['hardware']['device']}, threads {result['threads']}"
    )
    rows = []
    for name, rates in result["rounds"].items():
        counts = result["operations_per_step"].get(name, {})
        called = ", ".join(f"{value:,} {what}" for what, value in counts.items())
        median = statistics.median(rates)
        rows.append([name, f"{median:,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}", called or "-"])
    print_table(("loop", "images/s, median", "least", "most", "in one step"), rows, title)
    total = sum(result["split"].values())
    rows = [[name, f"{1000 * t:.2f}", f"{100 * t / total:.0f} %"] for name, t in result["split"].items()]
    print_table(("phase of a step", "ms", "share"), rows)
    seconds, limits = result["seconds_per_step"], result["limits"]
    rows = [
        [
            name,
            f"{work / 1e9:,.2f} {unit}",
            f"{work / seconds / 1e9:,.1f} {unit}/s",
            f"{limit / 1e9:,.1f} {unit}/s",
            f"{100 * share:.0f} %",
        ]
        for name, unit, work, limit, share in (
            (
                "arithmetic (matrix product)",
                "GFLOP",
                result["flops_per_step"],
                limits["matmul_flops_per_s"],
                result["share_of_matmul_rate"],
            ),
            (
                "memory (copy)",
                "GB",
                result["bytes_per_step"],
                limits["copy_bytes_per_s"],
                result["share_of_copy_bandwidth"],
            ),
        )
    ]
    print_table(("limit", "a step needs", "reached", "this machine's, measured now", "share"), rows)
    print(f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    if "ratio" in result:
        print(f"{result['ratio']:.2f} times the {result['reference']}")


def _print_images(result: dict) -> None:
    from resexp.console import print_table

    rows = [
        [name, *(f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates)))]
        for name, rates in result["images_per_s"].items()
    ]
    title = (
        f"{result['dataset']}, {result['images']:,} images, crops of {result['image_size']}, "
        f"batch {result['batch_size']}, {result['hardware']['device']}"
    )
    print_table(("path", "images/s, median", "least", "most"), rows, title)
    if "pack_bytes" in result:
        first, second = result["first_start_seconds"], result["second_start_seconds"]
        print(
            f"pack: {result['pack_bytes'] / 1e6:,.0f} MB; first start {first:.1f} s, {result['images'] / first:,.0f} "
            f"images/s; second start {second:.2f} s"
        )


def _growth_rows(points: list[dict]) -> list[list[str]]:
    return [
        [
            f"{p['value']:,}",
            *(f"{p[key]:,.1f}" for key in ("images_per_s", "least", "most")),
            f"{p['peak_memory_bytes'] / 1e9:.2f} GB",
        ]
        if "images_per_s" in p
        else [f"{p['value']:,}", p["failed"], "-", "-", "-"]
        for p in points
    ]


# --- what there is ----------------------------------------------------------------------------------------------------


def _models(args: argparse.Namespace) -> int:
    from resexp.catalog import FAMILIES, NAMED
    from resexp.console import print_table
    from resexp.published import published

    if args.explain:
        from resexp.explain import print_explanation

        print_explanation()
        return 0
    rows = []
    for net in NAMED:
        (_, height, side), classes = net.image
        family, depth = net.settings["family"], net.settings["depth"]
        known = [published(net.name, key) for key in ("params", "gmacs")]
        counts = [f"{net.parameters:,}", str(known[0] or "-"), f"{net.macs / 1e6:,.2f}", str(known[1] or "-")]
        source = next((entry.source for entry in known if entry), FAMILIES[family].paper)
        rows.append([net.name, str(depth), *counts, f"{height}x{side}, {classes}", source])
    columns = ("net", "layers", "parameters", "published", "M multiply-adds", "published", "image, classes", "source")
    title = (
        f"{len(rows)} named nets; any other legal depth, cardinality or growth is a name too (plain26, resnext38_4x16d)"
    )
    print_table(columns, rows, title)
    return 0


def _datasets(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    rows = []
    for name in config.names("dataset", args.config_dir):
        cfg = config.load([f"dataset={name}"], args.config_dir)
        rows.append([name, cfg.protocol.name, config.first_comment("dataset", name, args.config_dir)])
    print_table(("data set", "protocol", "what"), rows)
    return 0


def _protocols(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    if len(args.names) not in (0, 2):
        raise UserError("resexp protocols takes none (a list) or two names (where they differ)")
    if not args.names:
        known = config.names("protocol", args.config_dir)
        rows = [[name, config.first_comment("protocol", name, args.config_dir)] for name in known]
        print_table(("protocol", "what"), rows)
        return 0
    first, second = (config.flatten(config.load([f"protocol={name}"], args.config_dir).protocol) for name in args.names)
    rows = [[key, str(first[key]), str(second[key])] for key in first if first[key] != second[key] and key != "name"]
    print_table(("setting", *args.names), rows)
    return 0


def _list_studies(args: argparse.Namespace) -> int:
    from resexp import config
    from resexp.console import print_table

    rows = []
    for name in config.names("study", args.config_dir):
        study, jobs = config.load_study(name, config_dir=args.config_dir)
        datasets = dict.fromkeys(cfg.dataset.name for _, cfg in jobs)
        steps = dict.fromkeys(f"{cfg.protocol.steps:,}" for _, cfg in jobs)
        rows.append([name, str(len(jobs)), " ".join(datasets), " ".join(steps), study.title, study.source or "-"])
    print_table(("study", "runs", "data set", "steps", "title", "source"), rows)
    return 0


def _config(args: argparse.Namespace) -> int:
    from resexp import config

    cfg = config.load(args.overrides, args.config_dir)
    print(config.to_yaml(cfg), end="")
    print(f"run folder: {cfg.run_dir}", file=sys.stderr)
    return 0


# --- the table of commands --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    run: Callable[[argparse.Namespace], int]
    help: str
    settings: str | None = None
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="launcher=slurm: stay until no job is left, then draw")
    parser.add_argument("--status", action="store_true", help="start nothing, show how far each run is")


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    _sweep_arguments(parser)
    parser.add_argument("name", metavar="NAME", help="resexp studies lists them")


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", action="store_true", help="what blocks cost, side by side, with the arithmetic")


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN | weights=FILE key=value ...",
        help="a run folder; or a state dict in a file and the settings of its net",
    )
    parser.add_argument(
        "--view",
        choices=["centre", "ten-crop", "multi-scale"],
        default="centre",
        help="of larger images: the centre crop, ten crops, or whole at several scales",
    )


def _log_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="by name; none: all that have runs")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="holds runs/ (default: outputs)")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    _log_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines, to stdout")
    parser.add_argument("--popular", action="store_true", help="what articles say about residual networks, answered")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="holds runs/ (default: outputs)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the output folder)")


def _analyze_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="ANALYSIS", help="none lists them")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN | STUDY | weights=FILE | key=value",
        help="run folders, a study, or a state dict and its net; settings of the analysis",
    )
    parser.add_argument("--nets", metavar="NET,NET", help="of a study only these")
    parser.add_argument("--name", help="of the figure and its numbers (default: the analysis')")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="holds runs/ (default: outputs)")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        choices=["reference", "plain"],
        help="alternate with the usual DataLoader loop, or with ours without its fast paths",
    )
    parser.add_argument("--growth", action="store_true", help="cost against depth, batch, image side, runs at once")
    parser.add_argument("--images", action="store_true", help="decoding, packing and streaming of dataset=imagenet")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each loop (default: 5)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each measurement (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there; /dev/stdout prints it")


def _protocol_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="PROTOCOL", help="none lists them, two shows where they differ")


COMMANDS = {
    "train": Command(_train, "train one net; the same command goes on where it stopped", WITH_SETTINGS),
    "sweep": Command(_sweep, "train many nets side by side, then draw and tabulate them", WITH_LISTS, _sweep_arguments),
    "study": Command(_study, "the runs, the figure and the verdicts of one study", WITH_LISTS, _study_arguments),
    "eval": Command(
        _eval, "test error of a run's checkpoint, or of somebody's weights, single view", None, _eval_arguments
    ),
    "figures": Command(
        _figures, "draw studies and analyses from what was written, without training", None, _log_arguments
    ),
    "verify": Command(_verify, "claims against measurements; exit code 1 if one fails", None, _verify_arguments),
    "report": Command(_report, "one self-contained HTML page of all that has been run", None, _report_arguments),
    "analyze": Command(
        _analyze, "why it works: the mechanisms, measured on your own checkpoints", None, _analyze_arguments
    ),
    "bench": Command(_bench, "images/s in training, alone or against the usual loop", WITH_SETTINGS, _bench_arguments),
    "models": Command(
        _models, "the named nets with parameters, multiply-adds and the published ones", None, _model_arguments
    ),
    "datasets": Command(_datasets, "the data sets and their default protocols"),
    "protocols": Command(_protocols, "the protocols, or where two of them differ", None, _protocol_arguments),
    "studies": Command(_list_studies, "the studies and what they run"),
    "config": Command(_config, "the composed and checked configuration of one run", WITH_SETTINGS),
}
