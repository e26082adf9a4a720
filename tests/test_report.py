"""The page of all that has been run: what it holds, what it survives, and how it behaves in a browser."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import markupsafe
import pytest
import yaml
from helpers import write_run
from PIL import Image

from resexp import UserError, config
from resexp.cli import main
from resexp.config.studies import load_study
from resexp.report.page import write_report
from resexp.run.reader import Run
from resexp.run.store import runs_at, stores
from resexp.studies.popular import load_popular

ROOT = Path(__file__).parent.parent
STUDY = ("plain20", "plain56", "resnet20", "resnet56")
LINES = 2 * len({cfg.model.name for _, cfg in load_study("degradation")[1]})  # training and test error


def write_study(folder: Path, *, seeds: int = 2, **numbers: Any) -> list[Any]:
    """Runs of the study degradation in ``folder``/runs, without training."""
    words = [(f"model={net}", "model.width=8", f"seed={seed}") for net in STUDY for seed in range(seeds)]
    return [write_run(folder / "runs", list(one), **numbers) for one in words]


def rename(run: Run, name: str) -> None:
    """Another name of the data set, as no command of ours would take it."""
    kept = yaml.safe_load((run.path / "config.yaml").read_text())
    kept["dataset"]["name"] = name
    (run.path / "config.yaml").write_text(yaml.safe_dump(kept))


def plots_of(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.S)[1])  # type: ignore[index]


def links_of(text: str) -> list[str]:
    """All that the page's tags point to, outside its scripts."""
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Links().feed(text)
    return found


def test_the_page_holds_everything_and_needs_nothing_else(tmp_path: Path) -> None:
    runs = write_study(tmp_path)
    path = tmp_path / "report.html"
    assert write_report(tmp_path, path) == 8
    text = path.read_text()
    assert all(link.startswith(("#", "data:")) for link in links_of(text))
    assert all(run.path.name in text for run in runs)
    plot = plots_of(text)["degradation"]
    assert {line["name"] for line in plot["lines"]} == set(STUDY) and plot["drops"] == [640, 960]
    assert len(plot["lines"]) == 4 * 2 and all(line["seeds"] == [0, 1] for line in plot["lines"])  # nets, splits
    assert all(len(plot["steps"][line["x"]]) == len(y) > 1 for line in plot["lines"] for y in line["ys"])
    assert all(str(markupsafe.escape(one.claim)) in text for one in load_popular())


@pytest.mark.slow
def test_fifty_runs_take_less_than_three_megabytes(tmp_path: Path) -> None:
    lines = next(iter(runs_at(ROOT / "outputs/reference/cifar10-1500-steps.jsonl").values())).metrics
    log = "".join(json.dumps(line) + "\n" for line in lines)
    for run in write_study(tmp_path, seeds=13):
        (run.path / "metrics.jsonl").write_text(log)
    path = tmp_path / "report.html"
    assert write_report(tmp_path, path) == 52 and path.stat().st_size < 3e6


@pytest.mark.slow
def test_html_in_names_and_commands_is_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = write_run(tmp_path / "runs", ["model=plain20", "dataset.name=evil"])
    rename(run, evil)
    (run.path / "env.json").write_text(json.dumps({"command": "</script><script>alert(1)</script>", "hardware": {}}))
    write_report(tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert evil not in text and "&lt;img src=x onerror=alert(1)&gt;" in text and "<script>alert(1)" not in text
    plots_of(text)  # the data are whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["summary.json", "env.json", "config.yaml"])
def test_a_damaged_run_is_left_out_with_a_line_and_the_rest_is_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_study(tmp_path)[0].path / name
    broken.write_text('{"half": [')
    assert main(["report", f"output_dir={tmp_path}"]) == 0
    printed = capsys.readouterr()
    assert "7 runs" in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
    assert lines and all(str(broken) in line and "damaged" in line for line in lines)
    assert main(["verify", "degradation", f"output_dir={tmp_path}"]) in (0, 1)


DAMAGES = {
    "summary without status": ("summary.json", lambda text: '{"test_error": 1.0}'),
    "config without drops": ("config.yaml", lambda text: text.replace("lr_drops:", "no_drops:")),
    "seed in words": ("config.yaml", lambda text: text.replace("seed: 0", "seed: zero")),
    "no hardware": ("env.json", lambda text: '{"hardware": null}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_a_run_lacks_it_costs_one_line(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, change = DAMAGES[damage]
    file = write_study(tmp_path)[0].path / name
    file.write_text(change(file.read_text()))
    for command in (["report"], ["verify", "degradation"]):
        assert main([*command, f"output_dir={tmp_path}"]) in (0, 1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out: " in line]
    assert len(lines) == 1 and str(file.parent) in lines[0]


@pytest.mark.slow
def test_lines_and_numbers_of_no_use_are_passed_over(tmp_path: Path) -> None:
    run = write_study(tmp_path)[0]
    (run.path / "metrics.jsonl").write_text(
        '{"step": 1, "split": "test", "error": null}\n{"step": "x", "split": "test", "error": 1}\n'
        '{"step": 2, "split": "test", "error": 50.0}\n[]\n'
    )
    (run.path / "summary.json").write_text('{"status": "finished", "step": "all", "params": "many", "seconds": "few"}')
    assert write_report(tmp_path, tmp_path / "report.html") == 8


@pytest.mark.parametrize("text", ["", "sweep: [", "sweep: 3", "sweep:", "[1]"])
def test_a_malformed_study_costs_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(text)
    assert main(["verify", "--config-dir", str(tmp_path)]) == 2
    assert re.fullmatch(r"resexp: error: .*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_logs_that_end_in_the_middle_and_summaries_without_numbers_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    runs = write_study(tmp_path)
    metrics = runs[0].path / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    (runs[1].path / "summary.json").write_text('{"status": "finished", "test_error": "many"}')
    path = tmp_path / "report.html"
    assert write_report(tmp_path, path) == 8
    assert any(line["name"] == "plain20" for line in plots_of(path.read_text())["degradation"]["lines"])


@pytest.mark.slow
def test_a_folder_that_is_no_run_is_named_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path)
    (tmp_path / "runs" / "holiday").mkdir()
    assert main(["report", f"output_dir={tmp_path}"]) == 0
    assert "holiday: not a run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_of_no_study_have_sections_of_their_own_by_data_set_and_protocol(tmp_path: Path) -> None:
    for words in (["model=plain8"], ["model=plain8", "protocol=smoke"], ["model=plain8", "protocol=smoke", "seed=1"]):
        write_run(tmp_path / "runs", words)
    write_report(tmp_path, tmp_path / "report.html")
    titles = re.findall(r"<h2 id=\"[^\"]*\">(Other runs[^<]*)</h2>", (tmp_path / "report.html").read_text())
    assert titles == ["Other runs: digits, protocol digits", "Other runs: digits, protocol smoke"]


@pytest.mark.slow
def test_a_page_that_cannot_be_written_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path)
    (tmp_path / "file").write_text("")
    for out, why in (
        (tmp_path / "file" / "report.html", "cannot be written"),
        (tmp_path / "runs", "a folder"),
        (".", "a folder"),
    ):
        assert main(["report", f"output_dir={tmp_path}", "--out", str(out)]) == 2
        assert re.fullmatch(f"resexp: error: .*{why}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(UserError, match="no runs under"):
        write_report(tmp_path / "nothing", tmp_path / "report.html")


@pytest.mark.slow
def test_the_reference_results_are_one_page(tmp_path: Path) -> None:
    (tmp_path / "reference").symlink_to(ROOT / "outputs" / "reference")
    path = tmp_path / "report.html"
    kept = {store.stem: runs_at(store) for store in stores(ROOT / "outputs" / "reference")}
    count = sum(len(runs) for runs in kept.values())
    assert write_report(tmp_path, path) == count and path.stat().st_size < 3e6
    plots = plots_of(path.read_text())
    studies = [name for name in config.names("study") if name in kept]
    assert set(studies) < set(plots) and all(plots[name]["lines"] for name in studies)


# In a browser: make test-browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if not program:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root.
        flags = ["--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reference_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "reference").symlink_to(ROOT / "outputs" / "reference")
    write_report(folder, folder / "report.html")
    return folder / "report.html"


class Opened:
    """A page in the browser, with all that it complained of and asked the network for."""

    def __init__(self, chromium: Any, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        self.page = chromium.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"file://{path}")
        self.page.wait_for_selector("html[data-drawn=all]", timeout=120_000)

    def plot(self, key: str, expression: str) -> Any:
        """What a JavaScript expression over ``view`` and ``lines``, the data of means and of seeds, gives."""
        return self.page.evaluate(
            f"""() => {{ const view = figures.get(document.querySelector("[data-plot='{key}']")).view;
                const lines = view.model.renderers.map((one) => one.data_source.data); return {expression}; }}"""
        )


@pytest.fixture
def opened(chromium: Any, reference_page: Path) -> Iterator[Opened]:
    one = Opened(chromium, reference_page)
    yield one
    assert one.complaints == [] and all(url.startswith(("file:", "data:", "blob:")) for url in one.requests)
    one.page.close()


@pytest.mark.browser
def test_every_plot_of_the_page_is_drawn(opened: Opened) -> None:
    drawn = opened.page.evaluate(
        """() => places.map((place) => {
            const { view } = figures.get(place);
            const box = view.canvas_view.el.getBoundingClientRect();
            return [place.dataset.plot, view.model.renderers.length, box.height];
        })"""
    )
    assert len(drawn) > 50 and all(renderers >= 1 and height > 100 for _, renderers, height in drawn), drawn
    assert opened.plot("degradation", "lines.map((one) => one.xs.length)") == [LINES, 0]
    shot = opened.page.locator("[data-plot=degradation]").screenshot()
    colours = {colour for _, colour in Image.open(BytesIO(shot)).convert("RGB").getcolors(1 << 24)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73), (0xCC, 0x79, 0xA7)} <= colours  # the four nets


@pytest.mark.browser
def test_hovering_over_a_curve_shows_its_net_step_and_error(opened: Opened) -> None:
    place = opened.page.locator("[data-plot=degradation]")
    place.scroll_into_view_if_needed()
    label = "plain56, test error"
    x, y, error = opened.plot(
        "degradation",
        f"""(() => {{ const line = lines[0].label.indexOf("{label}"), point = 20;
            const box = view.canvas_view.el.getBoundingClientRect();
            return [box.x + view.frame.x_scale.compute(lines[0].xs[line][point]),
                    box.y + view.frame.y_scale.compute(lines[0].ys[line][point]), lines[0].ys[line][point]]; }})()""",
    )
    opened.page.mouse.move(x - 30, y - 30)
    opened.page.mouse.move(x, y)
    tooltip = opened.page.locator(".bk-Tooltip").filter(has_text=label).filter(has_text=f"{error:.2f} %")
    tooltip.first.wait_for(timeout=10_000)


@pytest.mark.browser
def test_the_switches_change_the_curves(opened: Opened) -> None:
    page = opened.page
    page.check("#seeds")
    assert opened.plot("degradation", "lines.map((one) => one.xs.length)") == [LINES, 5 * LINES]
    before = opened.plot("degradation", "lines[0].ys[0]")
    page.fill("#smooth", "0.9")
    after = opened.plot("degradation", "lines[0].ys[0]")
    assert after[0] == before[0] and after[1] == pytest.approx(0.9 * before[0] + 0.1 * before[1])
    assert opened.plot("degradation", "view.model.y_scale.type") == "LinearScale"
    page.check("#log")
    page.wait_for_function(
        "places.every((p) => !p.dataset.plot.endsWith('-small') || "
        "figures.get(p).view.model.y_scale.type === 'LogScale')",
        timeout=60_000,
    )
    assert opened.plot("degradation", "view.model.y_scale.type") == "LogScale"
    assert opened.plot("degradation", "lines.map((one) => one.xs.length)") == [
        LINES,
        5 * LINES,
    ]  # the others stay on
    page.locator(".key[data-of=degradation] button[data-name=plain20]").click()
    assert opened.plot("degradation", "lines[0].label.filter((label) => label.startsWith('plain20'))") == []
    assert opened.plot("degradation", "lines[0].xs.length") == LINES - 2


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_page_fits_its_window_in_both_colours(width: int, dark: bool, chromium: Any, reference_page: Path) -> None:
    one = Opened(chromium, reference_page, width=width, dark=dark)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    background = "getComputedStyle(document.body).backgroundColor"
    first = one.page.evaluate(background)
    assert first == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    one.page.click("#theme")
    assert one.page.evaluate(background) != first and one.complaints == []
    one.page.emulate_media(media="print")
    assert one.page.evaluate("getComputedStyle(document.getElementById('switches')).display") == "none"
    assert one.page.evaluate(background) == "rgb(255, 255, 255)"
    one.page.close()


@pytest.mark.browser
def test_html_in_a_runs_name_stays_text_in_the_browser(chromium: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=document.title=1>"
    for net in ("plain20", "plain56"):
        rename(write_run(tmp_path / "runs", [f"model={net}", "dataset.name=evil"]), evil)
        write_run(tmp_path / "runs", [f"model={net}", "dataset.name=tame"])
    write_report(tmp_path, tmp_path / "report.html")
    one = Opened(chromium, tmp_path / "report.html")
    assert one.complaints == [] and one.page.title().startswith("resexp")
    assert one.page.locator("img").count() == 0 and one.page.get_by_text(evil).count() > 0
