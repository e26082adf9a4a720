"""What several commands show: a study's figure and table, its verdicts, what an analysis found."""

from pathlib import Path
from typing import TYPE_CHECKING

from resexp import UserError

if TYPE_CHECKING:
    from resexp.config import Study
    from resexp.studies.claims import Verdict
    from resexp.studies.finding import Finding
    from resexp.studies.groups import Group


def draw(groups: "list[Group]", path: Path, *, title: str, note: str, study: "Study | None") -> None:
    """The figure as PNG and SVG, and the table as Markdown beside it and on stdout."""
    from resexp.console import markdown_table, print_table
    from resexp.figures.study import draw_gaps, draw_study
    from resexp.studies.remedies import COLUMNS as REMEDY_COLUMNS
    from resexp.studies.remedies import find_remedies, remedy_rows
    from resexp.studies.tables import TABLE_COLUMNS, other_rows, table_rows

    rows = table_rows(groups, study)
    print_table(TABLE_COLUMNS, rows, title)
    if study and study.explanations:
        remedies = find_remedies(groups, study.explanations)
        print_table(REMEDY_COLUMNS, remedy_rows(remedies), f"{title}: what each remedy closes of the gap")
    if study and study.others:
        print_table(
            ("source", "length", *study.others[0].nets), other_rows(study), "Published, test error %, by length"
        )
    try:  # what was measured has been said, whatever becomes of the files
        written = draw_study(groups, path, kind=study.figure if study else "curves", title=title, note=note)
        if study and study.gaps:
            gap = path.with_name(f"{path.name}-gap")
            written += draw_gaps(study.gaps, groups, gap, title=f"{title}: gaps over the steps", note=note)
        table_file = path.with_name(path.name + ".md")
        table_file.write_text(f"{title}. {note}\n\n{markdown_table(TABLE_COLUMNS, rows)}", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {path.parent}: {error.strerror}; set another output folder") from None
    print("figure: " + ", ".join(map(str, written)))


def show_verdicts(study: "Study", groups: "list[Group]") -> "list[Verdict]":
    """Print the verdicts, and how far the errors are from published means."""
    from resexp.console import print_table
    from resexp.studies.claims import judge
    from resexp.studies.tables import DISTANCE_COLUMNS, distance_rows
    from resexp.studies.verdicts import VERDICT_COLUMNS, verdict_rows

    verdicts = judge(study.claims, groups)
    if verdicts:
        source = f"; published: {study.source}" if study.source else ""
        print_table(VERDICT_COLUMNS, verdict_rows(verdicts, study), f"{study.title}: claims, in points{source}")
    if distances := distance_rows(groups):
        print_table(DISTANCE_COLUMNS, distances, "Distance to the published number, in its standard deviations")
    return verdicts


def write_finding(found: "Finding", path: Path) -> None:
    """The figure as PNG and SVG, the table as Markdown, and the numbers behind both as JSON."""
    from resexp.console import markdown_table
    from resexp.figures.finding import draw_finding
    from resexp.studies import finding

    try:
        print("figure: " + ", ".join(map(str, draw_finding(found, path))))
        finding.save(found, path.with_name(path.name + ".json"))
        text = f"{found.title}. {found.about}\n\n{markdown_table(finding.COLUMNS, finding.table(found))}"
        path.with_name(path.name + ".md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {path.parent}: {error.strerror}; set another output_dir=") from None
