#!/usr/bin/env python
"""Write the pages of results from the runs: outputs/reference/README.md, and the tables in README.md and docs/.

    scripts/write_pages.py            make figures runs it, too
    scripts/write_pages.py --check    changes nothing; exits with 1 and names the pages that are not as the runs say

In a page a table stands between <!-- results: NAME WORD ... --> and <!-- end -->. TABLES lists the names.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache
from io import StringIO
from pathlib import Path

from rich.console import Console
from safetensors import safe_open

from resexp import UserError, config
from resexp.catalog import FAMILIES, NAMED
from resexp.config import read_yaml
from resexp.console import PIPED_WIDTH, FittedTable, markdown_table, tally
from resexp.run.reader import Run
from resexp.run.store import SUFFIX, runs_at, stores
from resexp.studies import finding
from resexp.studies.claims import Outcome, Verdict, judge
from resexp.studies.find import REFERENCE, StudyRuns, find_study
from resexp.studies.groups import Group, describe_runs, group_runs
from resexp.studies.popular import COLUMNS as ANSWER_COLUMNS
from resexp.studies.popular import Answer, answer_all, answer_rows
from resexp.studies.remedies import COLUMNS as REMEDY_COLUMNS
from resexp.studies.remedies import find_remedies, remedy_rows
from resexp.studies.tables import TABLE_COLUMNS, other_rows, table_rows
from resexp.studies.verdicts import VERDICT_COLUMNS, in_words, verdict_rows
from resexp.weights import SAFETENSORS

ROOT = Path(__file__).resolve().parent.parent
OUTPUTS = ROOT / "outputs"
FOLDER = OUTPUTS / REFERENCE
RESULTS = FOLDER / "README.md"
LINK = "outputs/reference/README.md"
BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


@cache
def study_runs(name: str) -> StudyRuns:
    found = find_study(name, OUTPUTS, only=REFERENCE)
    if found is None:
        raise UserError(f"study {name}: no reference runs")
    return found


@cache
def study_verdicts(name: str) -> list[Verdict]:
    return judge(study_runs(name).study.claims, study_runs(name).groups)


@cache
def reference_studies() -> list[str]:
    """Those with reference runs, the first ones first."""
    first = ["degradation", "degradation-rates", "he2015-fig6-eighth"]
    names = [name for name in config.names("study") if (FOLDER / f"{name}{SUFFIX}").is_file()]
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown. Columns in which no row has anything are left out."""
    kept = [index for index in range(len(columns)) if any(row[index] not in ("-", "") for row in rows)]
    cells = [[row[index].replace("\n", "<br>") for index in kept] for row in rows]
    return markdown_table([columns[index] for index in kept], cells)


def agreeing(found: finding.Finding) -> str:
    """How many of its comparisons came out as expected."""
    outcomes = [row.agrees for row in found.rows if row.agrees is not None]
    return f"{outcomes.count(True)} of {len(outcomes)}" if outcomes else "none is judged"


# --- tables ----------------------------------------------------------------------------------------------------------


def demo() -> str:
    """What make demo ends with: the table and the sentences of the embedded study, seed 0."""
    found = study_runs("degradation")
    groups = group_runs([run for run in found.runs if run.config["seed"] == 0])
    shown = StringIO()
    console = Console(file=shown, width=PIPED_WIDTH)
    columns = [TABLE_COLUMNS.index(name) for name in ("net", "parameters", "train error %", "test error %")]
    rows = [[row[index] for index in columns] for row in table_rows(groups, found.study)]
    console.print(found.study.title)
    console.print(FittedTable([TABLE_COLUMNS[index] for index in columns], rows))
    lines = [line.rstrip() for line in shown.getvalue().splitlines() if line.strip()]
    words = in_words(found.study, groups, judge(found.study.claims, groups))
    return "```\n" + "\n".join([*lines, "", words]) + "\n```\n"


def errors(name: str) -> str:
    found = study_runs(name)
    return table(TABLE_COLUMNS, table_rows(found.groups, found.study))


def verdicts(name: str) -> str:
    return table(VERDICT_COLUMNS, verdict_rows(study_verdicts(name), study_runs(name).study))


def remedies(name: str) -> str:
    """What each remedy of a study closes of the gap between plain and residual nets."""
    found = study_runs(name)
    return table(REMEDY_COLUMNS, remedy_rows(find_remedies(found.groups, found.study.explanations)))


def papers() -> str:
    """One row per paper: what it says, and what was measured of it."""
    columns = ("paper", "it says", "measured on", "here", "published, or expected", "verdict", "all of it")
    rows = [_claim_row(entry) if "study" in entry else _finding_row(entry) for entry in read_yaml("papers")]
    return table(columns, rows)


def _claim_row(entry: dict[str, str]) -> list[str]:
    name = entry["study"]
    found, study = study_runs(name), study_runs(name).study
    index = [claim.id for claim in study.claims].index(entry["id"])
    verdict, words = study_verdicts(name)[index], verdict_rows(study_verdicts(name), study)[index]
    metric = verdict.claim.metric.replace("_", " ")
    first = found.runs[0].config
    where = f"{first['dataset']['name']}, {first['protocol']['steps']:,} steps"
    counts = tally([one.word for one in study_verdicts(name)])
    effect = words[2].split("\n")[0].removesuffix(" ")
    here, link = f"{metric} {effect} points", f"[{counts}]({LINK}#{name})"
    return [entry["paper"], entry["says"], where, here, words[4].split("\n")[0], str(verdict.word), link]


def _finding_row(entry: dict[str, str]) -> list[str]:
    name = entry["analysis"]
    found = findings()[name]
    row = next(row for row in found.rows if row.id == entry["id"])
    verdict = {True: "agrees", False: "does NOT agree", None: "cannot be told apart"}[row.agrees]
    agreed = agreeing(found) + " agree" * any(row.agrees is not None for row in found.rows)
    link = f"[{agreed}]({LINK}#{_section(name)})"
    where = f"`resexp analyze {found.analysis}`"
    return [entry["paper"], entry["says"], where, row.measured, row.expected or "-", verdict, link]


def counts() -> str:
    """How the claims of all studies came out, and the answers to the popular ones."""
    words = [verdict.word for name in reference_studies() for verdict in study_verdicts(name)]
    found = ", ".join(f"{word} {words.count(word)}" for word in Outcome if word in words)
    answers = [
        f"{one.agrees} by arithmetic" if one.popular.arithmetic else str(one.agrees)
        for one in popular_answers()
        if one.agrees
    ]
    untestable = len(popular_answers()) - len(answers)
    return (
        f"Of {len(words)} claims of {len(reference_studies())} studies: {found}.\n"
        f"Of {len(popular_answers())} claims that articles make, {untestable} cannot be tested by running nets. "
        f"Does the evidence agree with our answers to the other {len(answers)}? {tally(answers)}.\n"
    )


@cache
def popular_answers() -> list[Answer]:
    return answer_all(OUTPUTS, own=False)


def answers() -> str:
    return table(ANSWER_COLUMNS, answer_rows(popular_answers()))


def analyses() -> str:
    """One row per analysis: how many of its comparisons agree."""
    rows = []
    for name, found in findings().items():
        against = "; ".join(row.what for row in found.rows if row.agrees is False)
        rows.append([f"[{name}](../{LINK}#{_section(name)})", found.title, agreeing(found), against or "-"])
    return table(("analysis", "what it measures", "agrees with what was expected", "what does not"), rows)


def studies() -> str:
    """One row per study that has reference runs."""
    rows = []
    for name in reference_studies():
        found, words = study_runs(name), [verdict.word for verdict in study_verdicts(name)]
        trained: dict[str, set[int]] = {}
        for run in found.runs:
            what = f"{run.config['dataset']['name']}, {run.config['protocol']['steps']:,}"
            trained.setdefault(what, set()).add(run.config["seed"])
        seeds = [", ".join(map(str, sorted(each))) for each in trained.values()]
        if len(set(seeds)) == 1:
            del seeds[1:]
        link = f"[{name}](../{LINK}#{name})"
        rows.append([link, found.study.title, "; ".join(trained), "; ".join(seeds), tally(words) or "-"])
    return table(("study", "title", "images, steps", "seeds", "claims"), rows)


def families() -> str:
    rows = []
    for name, family in FAMILIES.items():
        nets = [net.name for net in NAMED if net.settings["family"] == name and "se_" not in net.name]
        shown = [f"`{net}`" for net in (nets if len(nets) < 4 else [*nets[:2], nets[-1]])]
        rows.append([family.title, ", ".join(shown), ", ".join(f"`{knob}`" for knob in family.knobs), family.paper])
    return table(("family", "names, among others", "knobs (`model.`)", "source"), rows)


def bench(file: str) -> str:
    """``resexp bench --precision fp32,bf16 --against reference --json``."""
    results = list(json.loads((FOLDER / file).read_text(encoding="utf-8")).values())
    first = results[0]
    rows, said = [], []
    for one in results:
        for name, rates in one["rounds"].items():
            middle = sorted(rates)[len(rates) // 2]
            note = "our loop" if name == "resexp" else "the fastest usual loop" if name == one["reference"] else ""
            rows.append([one["precision"], name, f"{middle:,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", note])
        beside = "" if one is first else f", {one['ratio_to_first']:.2f} times the one in {first['precision']}"
        product, memory = (100 * one[key] for key in ("share_of_matmul_rate", "share_of_copy_bandwidth"))
        limit, peak = one["limits"]["matmul_flops_per_s"] / 1e9, one["peak_memory_bytes"] / 1e9
        said += [
            f"{one['precision']}: {one['ratio']:.2f} times the usual loop in {one['precision']}{beside};",
            f"{product:.0f} % of the matrix product's rate measured beside it ({limit:,.0f} GFLOP/s),",
            f"{memory:.0f} % of the copy bandwidth; {peak:.2f} GB.",
        ]
    hardware = first["hardware"]
    words = (
        f"{first['net']} on {first['dataset']}, batch {first['batch_size']}, {hardware['cores']} cores of an "
        f"{hardware['cpu']}, {first['threads']} threads, torch {first['versions']['torch']}. {' '.join(said)}\n\n"
    )
    return words + table(("precision", "loop", "images/s, median", "least to most", ""), rows)


def faults() -> str:
    """What FAULT_REPORT=outputs/reference/faults.ndjson make test-faults wrote."""
    lines = [json.loads(line) for line in (FOLDER / "faults.ndjson").read_text(encoding="utf-8").splitlines()]
    rows = [[line["fault"], str(line["tried"]), line["outcome"]] for line in lines]
    return table(("fault", "tried", "what came of it"), sorted(rows))


TABLES: dict[str, Callable[..., str]] = {
    "analyses": analyses,
    "answers": answers,
    "bench": bench,
    "counts": counts,
    "demo": demo,
    "errors": errors,
    "families": families,
    "faults": faults,
    "papers": papers,
    "remedies": remedies,
    "studies": studies,
    "verdicts": verdicts,
}


def fill(text: str, page: Path) -> str:
    """A page with the tables as the runs say. Raises UserError for a name that is no table's."""

    def block(match: re.Match[str]) -> str:
        name, *words = shlex.split(match[2])
        if name not in TABLES:
            raise UserError(f"{page}: no table {name}; there are {', '.join(TABLES)}")
        return f"{match[1]}{TABLES[name](*words)}{match[3]}"

    return BLOCK.sub(block, text)


# --- the page of results ---------------------------------------------------------------------------------------------


def results() -> str:
    parts = [
        "# Results",
        "Everything that has been run for this project. `make figures` writes this page from the runs, and a test "
        "compares it with them. The runs of a study are the lines of one file here, `STUDY.jsonl`: settings, "
        "environment, curves and summary of each. `scripts/copy_results.py STUDY outputs/reference/STUDY.jsonl "
        "outputs/runs` turns them back into run folders. How verdicts are reached: [studies](../../docs/studies.md).",
        counts(),
        "Errors are in percent, mean ± standard deviation over seeds; differences in points.",
        "## Contents",
        "\n".join(
            [
                *(f"- [{name}](#{name}): {study_runs(name).study.title}" for name in reference_studies()),
                *(f"- [{name}](#{_section(name)}): {found.title}" for name, found in findings().items()),
                "- [Popular claims](#popular-claims)",
                "- [Other runs](#other-runs)",
            ]
        ),
        *(part for name in reference_studies() for part in _study(name)),
        *(part for name, found in findings().items() for part in _analysis(name, found)),
        "## Popular claims",
        "What articles say about residual networks, and whether the evidence agrees with our answer "
        "(`resexp verify --popular`).",
        answers(),
        "## Other runs",
        "Runs that belong to no study.",
        *(part for file in _other_files() for part in _others(file)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _study(name: str) -> list[str]:
    found = study_runs(name)
    study, groups = found.study, found.groups
    seeds = ",".join(map(str, sorted({run.config["seed"] for run in found.runs})))
    how = "After" if study.published_on else "Compared with"
    source = [f"{how} {study.source}."] if study.source else []
    parts = [
        f"## {name}",
        " ".join([f"**{study.title}.**", *source, _described(groups)]),
        f"`resexp study {name}" + (f" seed={seeds}`" if seeds != "0" else "`"),
        *_pictures(FOLDER / "figures", name, study.title),
        errors(name),
    ]
    if study.others:
        nets = study.others[0].nets
        parts += ["Published, test error by length:", table(("source", "length", *nets), other_rows(study))]
    if study.explanations:
        parts.append(remedies(name))
    if study.claims:
        parts.append(verdicts(name))
    return [*parts, *([study.note] if study.note else [])]


def _described(groups: Sequence[Group]) -> str:
    cpus = sorted(
        {f"{r.env['hardware']['cores']} cores of an {r.env['hardware']['cpu']}" for g in groups for r in g.runs}
    )
    return f"{describe_runs(groups)} Trained on {' and '.join(cpus)}."


def _pictures(folder: Path, stem: str, title: str) -> list[str]:
    there = [path for path in (folder / f"{stem}.png", folder / f"{stem}-gap.png") if path.is_file()]
    return [f"![{title}]({path.relative_to(FOLDER)})" for path in there]


def _section(analysis: str) -> str:
    """The title of an analysis' part of the page, which no study has."""
    return f"{analysis}-analysis" if analysis in reference_studies() else analysis


@cache
def findings() -> dict[str, finding.Finding]:
    return finding.findings_in(FOLDER / "analysis")


def _analysis(name: str, found: finding.Finding) -> list[str]:
    return [
        f"## {_section(name)}",
        f"**{found.title}.** {found.about}",
        *_pictures(FOLDER / "analysis", name, found.title),
        table(finding.COLUMNS, finding.table(found)),
    ]


def _other_files() -> list[Path]:
    taken = set(reference_studies())
    return [file for file in stores(FOLDER) if file.stem not in taken]


HOW = {  # what the settings of other runs do not say
    "remedies-halfway": "By `scripts/remedies_halfway.py`. The residual nets have blocks of single convolutions "
    "(`transform=single`). `init_digest` names the weights that a run begins with: with `norm=none` those of the "
    "residual net of its seed, shortcuts and batch norms folded into the convolutions; else those of the plain-20 of "
    "its seed, deepened by identity blocks.",
}


def _others(file: Path) -> list[str]:
    groups = group_runs(list(runs_at(file).values()))
    return [
        f"### {file.stem}",
        _described(groups),
        *([HOW[file.stem]] if file.stem in HOW else []),
        *_pictures(FOLDER / "figures", file.stem, file.stem),
        table(TABLE_COLUMNS, table_rows(groups)),
    ]


CARDS = FOLDER / "weights" / "README.md"


def cards() -> str:
    """A card for each file of weights: what it is of, how good, how it was trained, and how to take it."""
    runs = {name: run for study in reference_studies() for name, run in _named(study).items()}
    parts = [
        "# Weights",
        "Nets trained for this project, as safetensors in half precision, with what half precision cannot hold "
        "in fp32. `scripts/publish_weights.py` makes the files, `scripts/write_pages.py` this page; a test evaluates "
        "each on the real images.",
        "Images are values 0 to 1 less the training images' mean at each pixel (`protocol.normalize=pixel-mean`), and "
        "classes are in alphabetical order. The nets are for experiments on why depth needs shortcuts; as classifiers "
        "they are beaten by any net that was trained for longer. MIT licence; CIFAR-10 is Krizhevsky's, 2009.",
    ]
    for file in sorted(CARDS.parent.glob(f"*{SAFETENSORS}")):
        with safe_open(file, "np") as opened:
            told = opened.metadata()
        parts += [f"## {file.name}", table(("what", ""), _card(file, told, runs[told["run"]]))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _card(file: Path, told: dict[str, str], run: Run) -> list[list[str]]:
    net, words = told["net"], f"model={told['net']} dataset=cifar10 protocol={told['protocol']}"
    protocol, hardware, summary = run.config["protocol"], run.env["hardware"], run.summary
    length = f"{protocol['steps']:,} steps of {protocol['batch_size']} images"
    machine = f"{hardware['cores']} cores of an {hardware['cpu']}, {summary['seconds'] / 3600:.1f} hours"
    return [
        ["net", f"{net}, width {run.config['model']['width']}, {summary['params']:,} parameters"],
        ["test error", f"{told['test_error']} % of 10,000 images; {summary['test_error']:.2f} before rounding"],
        ["training error", f"{summary['train_error']:.2f} %, on augmented images of the last epoch"],
        ["trained by", f"protocol {told['protocol']}, {length} at the rate {protocol['lr']}: an eighth of the paper's"],
        ["where", f"{machine}; commit {told['git_commit'][:12]}"],
        ["command", f"`resexp train {words} seed={told['seed']}`"],
        ["evaluate", f"`resexp eval weights={file.relative_to(ROOT)} {words}`"],
        ["in Python", f'`resexp.build("{net}", weights=FILE)`'],
    ]


def _named(study: str) -> dict[str, Run]:
    return {run.path.name: run for run in study_runs(study).runs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a page would change")
    check = parser.parse_args().check
    try:
        pages = {
            page: fill(page.read_text(encoding="utf-8"), page)
            for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        }
        pages |= {RESULTS: results(), CARDS: cards()}
        changed = [
            page for page, text in pages.items() if not page.is_file() or page.read_text(encoding="utf-8") != text
        ]
        for page in () if check else changed:
            page.write_text(pages[page], encoding="utf-8")
    except (UserError, OSError) as error:
        print(f"write_pages: error: {error}", file=sys.stderr)
        return 2
    for page in changed:
        print(f"{page.relative_to(ROOT)}: {'is not as the runs say' if check else 'written'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
