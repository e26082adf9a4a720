"""Figures come from logs alone, follow the papers' conventions and say what they show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import write_run
from matplotlib.figure import Figure

from resexp import config
from resexp.figures.curves import _colours, _draw_key, _draw_split, draw_curves
from resexp.figures.gap import gap_curve
from resexp.figures.study import KINDS, draw_gaps, draw_study
from resexp.figures.style import error_floor
from resexp.figures.summary import _series
from resexp.report import plots
from resexp.run.reader import CONFIG, METRICS, Run, find_runs
from resexp.studies.finding import Panel, Series
from resexp.studies.groups import describe_runs, group_runs, rate_drops


def svg_text(path: Path) -> str:
    """The words of an SVG: matplotlib keeps each as a comment beside its outlines."""
    return " ".join(line.strip()[5:-4] for line in path.read_text().splitlines() if line.strip().startswith("<!-- "))


@pytest.fixture
def drawn(tmp_path: Path) -> str:
    runs = [
        write_run(
            tmp_path, [f"model={net}", f"seed={seed}", "model.width=8"], train_error=depth, test_error=depth + seed
        )
        for net, depth in (("plain20", 20.0), ("plain56", 50.0), ("resnet20", 10.0), ("resnet56", 5.0))
        for seed in (0, 1)
    ]
    written = draw_curves(group_runs(runs), tmp_path / "figure", title="A title", note="Own runs.")
    assert [path.suffix for path in written] == [".png", ".svg"]
    return svg_text(written[1])


def test_a_figure_has_plain_and_residual_panels_and_a_key(drawn: str) -> None:
    for words in ("A title", "plain nets", "residual nets", "training error", "test error", "steps", "error (%)"):
        assert words in drawn
    assert "56 layers: 50.0 / 50.5%" in drawn  # mean over the seeds


def test_a_figure_says_data_set_protocol_seeds_and_steps(drawn: str) -> None:
    for words in (
        "Data set digits",
        "protocol digits",
        "1,280 steps of 64 images",
        "fp32",
        "width 8",
        "seeds 0, 1",
        "Own runs.",
    ):
        assert words in drawn


def test_a_figure_says_what_was_taken_of_imagenet(tmp_path: Path) -> None:
    taken = ["dataset=imagenet", "dataset.classes=50", "dataset.images_per_class=9", "dataset.image_size=32"]
    groups = group_runs([write_run(tmp_path, ["model=resnet18", "dataset.root=/none/imagenet", *taken])])
    text = svg_text(draw_curves(groups, tmp_path / "figure", title="t")[1])
    assert "Data set imagenet, 50 classes, 9 images a class at 32 pixels" in text


def test_a_drop_on_a_plateau_is_found_in_the_log(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["model=resnet18", "dataset=imagenet", "dataset.root=/none/imagenet"])
    lines = [
        {"step": step, "epoch": 0, "split": "train", "loss": 1, "error": 90, "lr": lr, "images_per_s": 100}
        for step, lr in ((100, 0.1), (200, 0.1), (300, 0.01), (400, 0.01), (500, 0.001))
    ]
    (run.path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rate_drops(group_runs([Run(run.path)])) == [300, 500]


@pytest.mark.parametrize(("lowest", "highest", "floor"), [(1, 9, 0), (30, 80, 0), (72, 98, 70), (80, 99, 80)])
def test_the_axis_of_errors_leaves_zero_only_where_all_of_them_are_high(
    lowest: float, highest: float, floor: float
) -> None:
    assert error_floor(lowest, highest) == floor


def test_a_figure_is_the_same_file_each_time(tmp_path: Path) -> None:
    groups = group_runs([write_run(tmp_path, ["model=plain20"])])
    first, second = (draw_curves(groups, tmp_path / name, title="t")[1].read_bytes() for name in ("a", "b"))
    assert first == second


def test_an_unfinished_run_is_drawn_and_declared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, ["model=plain20"], status="interrupted"), write_run(tmp_path, ["model=plain56"])]
    written = draw_curves(group_runs(runs), tmp_path / "figure", title="t")
    assert "1 of 2 runs unfinished" in svg_text(written[1])


def test_a_seed_that_has_just_begun_does_not_cut_the_finished_ones(tmp_path: Path) -> None:
    whole = write_run(tmp_path, ["model=plain20"])
    begun = write_run(tmp_path, ["model=plain20", "seed=1"], status="interrupted")
    log = begun.path / "metrics.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    axes = Figure().subplots()
    for group in group_runs([whole, begun]):
        assert len(_draw_split(axes, group, "train", "black")) == 2


@pytest.mark.slow
def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs" / "runs", ["model=plain20", "model.width=8"])
    code = "import sys; from resexp.cli import main; sys.exit(main(['figures']) or 7 * ('torch' in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs" / "figures" / "degradation.png").is_file()


def many_runs(root: Path) -> list:
    return [
        write_run(
            root,
            [f"model={net}", f"seed={seed}", *words],
            train_error=error,
            test_error=error + 2 * seed + 1,
            params=params,
        )
        for net, words, error, params in (
            ("transformer6", ["model.residual=both"], 4.0, 1000),
            ("transformer12", ["model.residual=both"], 3.0, 2000),
            ("transformer6", ["model.residual=none"], 50.0, 1000),
            ("transformer12", ["model.residual=none"], 80.0, 2000),
        )
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("depth", ("layers", "transformer residual=none", "training error", "error at the end (%)")),
        ("parameters", ("parameters", "transformer12 residual=none", "test error at the end (%)")),
        ("table", ("transformer12 residual=none", "80.0 / 82.0 %", "right: training / test")),
        ("curves", ("transformers", "12 layers residual=none: 80.0 / 82.0%")),
    ],
)
def test_each_kind_of_figure_names_its_runs_and_says_what_was_run(
    tmp_path: Path, kind: str, words: tuple[str, ...]
) -> None:
    groups = group_runs(many_runs(tmp_path))
    text = svg_text(draw_study(groups, tmp_path / kind, kind=kind, title="A title", note="Own runs.")[1])
    for word in (*words, "A title", "Data set digits", "seeds 0, 1", "Own runs."):
        assert word in text, word


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_that_is_stopped_before_its_first_run_ends_has_its_figure(kind: str, tmp_path: Path) -> None:
    for net in ("plain8", "plain20", "resnet20"):
        write_run(tmp_path, [f"model={net}"], status="interrupted")
    written = draw_study(group_runs(find_runs(tmp_path)), tmp_path / kind, kind=kind, title="A study")
    assert [path.suffix for path in written] == [".png", ".svg"]


def test_a_summary_leaves_unfinished_runs_out_and_says_so(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, ["model=plain20"]), write_run(tmp_path, ["model=plain56"], status="interrupted")]
    text = svg_text(draw_study(group_runs(runs), tmp_path / "t", kind="table", title="t")[1])
    assert "plain20" in text and "plain56" not in text and "1 of 2 runs unfinished" in text


def test_every_series_of_a_depth_figure_is_drawn_and_joined_over_depth(tmp_path: Path) -> None:
    _, jobs = config.load_study("transformer-depth")
    groups = group_runs([write_run(tmp_path, job) for job, _ in jobs])
    series = {_series(group, groups) for group in groups}
    assert len(series) == 8 and len(groups) == 16  # the four kinds of residual over three depths; four of one depth
    text = svg_text(draw_study(groups, tmp_path / "t", kind="depth", title="t")[1])
    assert all(name in text for name in series)


def test_nets_of_one_depth_and_different_names_are_told_apart(tmp_path: Path) -> None:
    wide = ["wrn16_4", "wrn16_8", "wrn40_4", "resnext29_8x64d", "resnext29_16x64d", "se_resnet20"]
    groups = group_runs([write_run(tmp_path, [f"model={net}", "dataset=synthetic"]) for net in [*wide, "resnet20"]])
    colours = _colours(groups)
    assert len({colours[group.label] for group in groups if group.net in wide}) == len(wide)
    assert [_series(group, groups) for group in groups if group.family == "wrn"] == ["wrn_4", "wrn_8", "wrn_4"]
    pairs = group_runs([write_run(tmp_path, [f"model={net}"]) for net in ("plain20", "preresnet20", "plain56")])
    assert [*_colours(pairs).values()].count(_colours(pairs)["plain20"]) == 2  # with its residual twin


@pytest.mark.parametrize("decays", [[0.0001], [0.001, 0.01]])
def test_the_key_with_the_errors_lies_below_the_panel(decays: list[float], tmp_path: Path) -> None:
    nets = [[f"model=plain{depth}", f"protocol.weight_decay={decay}"] for depth in (20, 32, 56) for decay in decays]
    runs = [write_run(tmp_path, words, train_error=50.0) for words in nets]
    groups = group_runs(runs)
    figure = Figure()
    axes = figure.add_subplot()
    _draw_key(axes, groups, _colours(groups), with_errors=True)
    figure.draw_without_rendering()
    legend = axes.get_legend()
    assert legend is not None and len(legend.get_texts()) == len(groups)
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0
    assert draw_curves(groups, tmp_path / "figure", title="t")


def test_the_key_says_how_far_the_rate_drops(tmp_path: Path) -> None:
    tenth, fifth = (
        write_run(tmp_path, ["model=plain20", f"protocol.lr_drop_factor={factor}"]) for factor in (0.1, 0.2)
    )
    for runs, words in (([tenth], "÷ 10"), ([fifth], "÷ 5"), ([tenth, fifth], "drops")):
        written = draw_curves(group_runs(runs), tmp_path / "figure", title="t")
        assert f"learning rate {words}" in svg_text(written[1])


def test_curves_with_depth_have_a_panel_for_the_errors_at_the_end(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path, [f"model={family}{depth}", "model.width=8"], train_error=float(depth), test_error=depth + 1.0
        )
        for family in ("plain", "resnet")
        for depth in (8, 20, 56)
    ]
    written = draw_study(group_runs(runs), tmp_path / "figure", kind="curves-depth", title="A title")
    words = svg_text(written[1])
    assert all(text in words for text in ("plain nets", "residual nets", "at the end, by depth", "layers", "steps"))
    assert words.count("20 layers") == 1  # one key, where it hides no curve


GAP = config.Gap(net="plain56", minus="plain20")


def write_curves(root: Path, errors: dict[str, list[float]], split: str = "train") -> list:
    """Runs of 1,280 steps with an error every 40, for each seed of each net."""
    runs = []
    for net, seeds in errors.items():
        for seed, error in enumerate(seeds):
            run = write_run(root, [f"model={net}", f"seed={seed}"])
            lines = [
                {
                    "step": step,
                    "epoch": 0,
                    "split": split,
                    "loss": 1,
                    "error": error + step / 40,
                    "lr": 0.1,
                    "images_per_s": 1,
                }
                for step in range(40, 1281, 40)
            ]
            (run.path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
            runs.append(Run(run.path))
    return runs


def test_a_gap_is_the_difference_of_each_seed_at_eight_points(tmp_path: Path) -> None:
    groups = group_runs(write_curves(tmp_path, {"plain56": [40.0, 44.0], "plain20": [10.0, 11.0, 12.0]}))
    steps, values = gap_curve(GAP, groups, "train")
    assert steps == [160 * part for part in range(1, 9)]
    assert values == [pytest.approx([30.0, 33.0])] * 8  # of the seeds that both have
    assert gap_curve(GAP, groups, "test") == ([], [])


def test_the_caption_of_a_gap_names_the_seeds_that_both_nets_have(tmp_path: Path) -> None:
    groups = group_runs(write_curves(tmp_path, {"plain56": [40.0], "plain20": [10.0, 11.0], "plain32": [1.0] * 3}))
    words = svg_text(draw_gaps([GAP], groups, tmp_path / "gap", title="t")[1])
    assert "seed 0." in words and "least to most" not in words


def test_a_thin_curve_without_a_label_has_the_colour_of_the_one_before_it() -> None:
    def series(label: str, style: str) -> Series:
        return Series(label=label, x=[0, 1], y=[0, 1], style=style)

    panel = Panel(
        title="", x="", y="", series=[series("", "thin"), series("a", "line"), series("", "thin"), series("b", "thin")]
    )
    assert panel.hues == [0, 1, 1, 2]
    drawn = plots.panel(panel)["series"]
    assert drawn[1]["colour"] == drawn[2]["colour"] != drawn[3]["colour"]


def test_a_run_that_has_diverged_is_not_called_unfinished(tmp_path: Path) -> None:
    ends = enumerate(("finished", "diverged", "interrupted"))
    runs = [write_run(tmp_path, ["model=plain20", f"seed={seed}"], status=end) for seed, end in ends]
    assert describe_runs(group_runs(runs)).endswith("; 1 of 3 runs diverged; 1 of 3 runs unfinished.")


def test_a_gap_without_one_of_its_nets_draws_nothing(tmp_path: Path) -> None:
    groups = group_runs(write_curves(tmp_path, {"plain56": [40.0]}))
    assert draw_gaps([GAP], groups, tmp_path / "gap", title="t") == [] and not (tmp_path / "gap.png").exists()


def test_the_published_gap_stands_at_its_own_number_of_steps(tmp_path: Path) -> None:
    groups = group_runs(write_curves(tmp_path, {"plain56": [40.0], "plain20": [10.0]}))
    written = draw_gaps([GAP], groups, tmp_path / "gap", title="t")
    words = svg_text(written[1])
    assert "64,000" in words and "plain56 - plain20" in words and "Open marks: published" in words


def test_a_published_mark_without_a_curve_of_its_own_is_in_the_key(tmp_path: Path) -> None:
    groups = group_runs(write_curves(tmp_path, {"plain56": [40.0], "plain20": [10.0]}, "test"))
    gaps = [GAP, config.Gap(net="resnet56", minus="resnet20")]
    words = svg_text(draw_gaps(gaps, groups, tmp_path / "gap", title="t")[1])
    assert "resnet56 - resnet20, published only" in words and "plain20, published only" not in words


def test_an_older_run_that_knows_fewer_settings_is_of_the_same_group(tmp_path: Path) -> None:
    """Settings that came later have their defaults, and are no difference."""
    runs = [write_run(tmp_path, ["model=plain20", "model.width=8", f"seed={seed}"]) for seed in (0, 1)]
    kept = yaml.safe_load((runs[0].path / CONFIG).read_text())
    for key in ("warmup_steps", "warmup_limit", "plateau_drops", "test_scales"):
        del kept["protocol"][key]
    del kept["dataset"]["wnids"], kept["dataset"]["pack_gb"], kept["model"]["reduction"]
    (runs[0].path / CONFIG).write_text(yaml.safe_dump(kept))
    assert [group.label for group in group_runs([Run(run.path) for run in runs])] == ["plain20"]
