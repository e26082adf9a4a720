"""Claims against measurements: intervals, verdicts, and what articles say."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import write_run

from resexp import config
from resexp.cli import main
from resexp.config import Claim
from resexp.studies.claims import Comparison, Outcome, _needed, judge
from resexp.studies.groups import group_runs
from resexp.studies.popular import Agreement, Answer, Evidence, Popular, answer_all, calculate, compare, load_popular
from resexp.studies.published import published_like
from resexp.studies.stats import paired, seeds_needed, welch
from resexp.studies.tables import distance_rows, table_rows
from resexp.studies.verdicts import (
    PublishedDifference,
    _direction,
    in_words,
    published_difference,
    verdict_data,
    verdict_rows,
)

ROOT = Path(__file__).parent.parent


def claim(**bounds: float) -> Claim:
    return Claim(text="t", metric="train_error", net="plain56", minus="plain20", **bounds)


def write_sides(folder: Path, deep: list[float], shallow: list[float]) -> list:
    runs = [write_run(folder, ["model=plain56", f"seed={i}"], train_error=e) for i, e in enumerate(deep)]
    return group_runs(
        runs + [write_run(folder, ["model=plain20", f"seed={i}"], train_error=e) for i, e in enumerate(shallow)]
    )


# Intervals


@pytest.mark.parametrize(("count", "spreads"), [(3, (1.0, 1.0)), (5, (1.0, 3.0))])
def test_welchs_interval_covers_the_truth_in_95_of_100_cases(count: int, spreads: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        one, two = (random.normal(mean, spread, count) for mean, spread in zip((7.0, 5.0), spreads, strict=True))
        found = welch(one, two)
        covered += found.low <= 2.0 <= found.high
    # 3.6 standard deviations around 950; with three values a side Welch's approximation is known to be on the wide side
    assert 925 <= covered <= (975 if count > 3 else 990)


def test_welch_is_scipys(tmp_path: Path) -> None:
    from scipy.stats import ttest_ind

    one, two = [71.0, 74.0, 70.5], [1.0, 2.0, 1.5, 0.5]
    slow = ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    found = welch(one, two)
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))
    assert not welch([1.0], two).has_interval and welch([1.0, 1.0], [2.0, 2.0]).low == -1.0


@pytest.mark.parametrize("power", [0.5, 0.8])
def test_the_seeds_needed_decide_as_often_as_they_say(power: float) -> None:
    """A true difference of 3 against a bound of 2, with the two sides' spreads: how often is the interval clear?"""
    one, two = [5.0, 9.0, 7.0], [4.0, 6.0, 5.0]
    count = seeds_needed(one, two, [1.0], power=power)
    assert count is not None and 3 < count < 100
    spreads = np.std(one, ddof=1), np.std(two, ddof=1)
    random = np.random.default_rng(0)

    def decided(n: int) -> float:
        return float(
            np.mean(
                [welch(random.normal(3, spreads[0], n), random.normal(0, spreads[1], n)).low > 2 for _ in range(1500)]
            )
        )

    assert abs(decided(count) - power) < 0.05


@pytest.mark.parametrize("power", [0.5, 0.8])
def test_between_two_bounds_the_seeds_needed_keep_clear_of_both(power: float) -> None:
    """A true difference of 0 between -1 and 1, both sides with the standard deviation 1."""
    sides = [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]
    between = Claim(text="t", metric="test_error", net="a", minus="b", at_least=-1, at_most=1)
    count = _needed(between, Comparison("", (0, 1, 2), *map(tuple, sides), welch(*sides)), power)
    assert count is not None
    random = np.random.default_rng(0)
    found = [welch(random.normal(0, 1, count), random.normal(0, 1, count)) for _ in range(1500)]
    assert power - 0.05 < np.mean([one.low > -1 and one.high < 1 for one in found]) < power + 0.15


def test_an_unknown_number_of_seeds_is_not_named() -> None:
    one, two = [5.0, 9.0, 7.0], [4.0, 6.0, 5.0]
    assert seeds_needed(one, two, [1e-6]) is None  # more than a thousand
    assert seeds_needed(one[:2], two, [1.0]) is None  # two values say nothing of their spread


def test_a_paired_interval_is_scipys() -> None:
    from scipy.stats import ttest_rel

    one, two = [71.0, 74.0, 70.5], [1.0, 5.0, 1.5]
    found, slow = paired(one, two), ttest_rel(one, two).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))


# Verdicts


@pytest.mark.parametrize(
    ("deep", "bounds", "word"),
    [
        ([30.0, 31.0, 30.5], {"at_least": 20}, Outcome.HOLDS),
        ([30.0, 31.0, 30.5], {"at_least": 40}, Outcome.FAILS),
        ([30.0, 31.0, 30.5], {"at_least": 20, "at_most": 25}, Outcome.FAILS),
        ([30.0, 15.0, 40.0], {"at_least": 20}, Outcome.UNDECIDED),
        ([30.0], {"at_least": 20}, Outcome.AS_CLAIMED),
        ([30.0], {"at_least": 40}, Outcome.AGAINST),
        ([], {"at_least": 40}, Outcome.OPEN),
    ],
)
def test_a_verdict_follows_from_the_interval(
    deep: list[float], bounds: dict[str, float], word: str, tmp_path: Path
) -> None:
    groups = write_sides(tmp_path, deep, [1.0, 1.5, 0.5][: max(1, len(deep))])
    verdict = judge([claim(**bounds)], groups)[0]
    assert verdict.word == word and (verdict.needed is None) == (verdict.even is None) == (word != Outcome.UNDECIDED)
    assert verdict_rows([verdict], config.load_study("degradation")[0])[0][0] == word


def test_an_undecided_claim_says_how_many_seeds_it_needs(tmp_path: Path) -> None:
    verdict = judge([claim(at_least=20)], write_sides(tmp_path, [30.0, 15.0, 40.0], [1.0, 1.5, 0.5]))[0]
    assert verdict.needed is not None and verdict.even is not None and verdict.needed > verdict.even > 3
    row = verdict_rows([verdict], config.load_study("degradation")[0])[0]
    assert row[-1] == f"0,1,2\n{verdict.needed} needed; even odds at {verdict.even}"


def test_runs_of_one_seed_that_see_the_same_images_have_a_paired_interval_too(tmp_path: Path) -> None:
    deep, shallow = [30.0, 25.0, 40.0], [10.0, 6.0, 19.0]  # they rise and fall together
    groups = write_sides(tmp_path, deep, shallow)
    one = judge([claim(at_least=0)], groups)[0].comparisons[0]
    assert one.pairs is not None and one.pairs.high - one.pairs.low < one.effect.high - one.effect.low
    other = [write_run(tmp_path / "other", ["model=plain20", f"seed={i}", "protocol.batch_size=32"]) for i in range(3)]
    mixed = judge([claim(at_least=0)], [groups[1], *group_runs(other)])[0].comparisons[0]
    assert mixed.pairs is None  # batches of another size are drawn in another order


def test_the_best_setting_of_each_side_is_that_of_its_training_error(tmp_path: Path) -> None:
    words = [("plain56", 0.1, 70.0), ("plain56", 0.01, 40.0), ("plain20", 0.1, 3.0), ("plain20", 0.01, 9.0)]
    runs = [
        write_run(
            tmp_path,
            [f"model={net}", f"protocol.lr={lr}", f"seed={seed}"],
            train_error=error + seed / 10,
            test_error=100 - error + seed / 10,
        )
        for net, lr, error in words
        for seed in (0, 1, 2)
    ]
    tried = ["model=plain56", "protocol.lr=0.001", "seed=0"]  # and not taken, so not compared
    runs.append(write_run(tmp_path, tried, train_error=1.0, test_error=1.0))
    best = Claim(text="t", metric="test_error", net="plain56", minus="plain20", at_least=0, best=True)
    verdict = judge([best], group_runs(runs))[0]
    assert verdict.effects == (pytest.approx(60.0 - 97.0),) and verdict.word == Outcome.FAILS
    assert "plain56 protocol.lr=0.01 against plain20 protocol.lr=0.1" in verdict.comparisons[0].setting


def test_a_claim_compares_runs_of_the_same_settings_alone(tmp_path: Path) -> None:
    words = [("plain56", 4, 50.0), ("plain20", 4, 1.0), ("plain56", 8, 10.0), ("plain20", 8, 2.0)]
    runs = [write_run(tmp_path, [f"model={n}", f"model.width={w}"], train_error=e) for n, w, e in words]
    verdict = judge([claim(at_least=20)], group_runs(runs))[0]
    assert verdict.effects == (49.0, 8.0) and verdict.word == Outcome.AGAINST  # the worse of the two


@pytest.mark.parametrize("number", [None, "many", float("nan")])
def test_a_claim_on_a_number_that_runs_lack_is_open(number: object, tmp_path: Path) -> None:
    runs = [write_run(tmp_path, [f"model=plain{depth}"], val_error=number) for depth in (20, 56)]  # type: ignore[arg-type]
    on_val = Claim(text="t", metric="val_error", net="plain56", minus="plain20", at_least=0)
    assert judge([on_val], group_runs(runs))[0].word == Outcome.OPEN


def test_a_claim_without_finished_runs_is_open(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, [f"model=plain{depth}"], status="interrupted") for depth in (20, 56)]
    assert judge([claim(at_least=0)], group_runs(runs))[0].word == Outcome.OPEN


def test_a_claim_names_the_settings_that_tell_runs_apart(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, ["model=resnet20", f"model.order={order}", f"seed={seed}", *words], test_error=error + seed)
        for order, words, error in (
            ("original", (), 9.0),
            ("full", (), 7.0),
            ("full", ("model.dropout=0.3",), 30.0),
        )
        for seed in (0, 1)
    ]
    claim = config.Claim(
        text="t",
        metric="test_error",
        net="resnet20 order=original",
        minus="resnet20 order=full dropout=0.0",
        at_least=1,
    )
    verdict = judge([claim], group_runs(runs))[0]
    assert verdict.effects == (2.0,) and verdict.seeds == (0, 1)
    names = {group.label: group.name for group in group_runs(runs)}
    assert set(names.values()) == {"resnet20", "resnet20 order=full", "resnet20 dropout=0.3 order=full"}


def test_a_claim_finds_its_runs_when_others_are_missing_or_nothing_varies(tmp_path: Path) -> None:
    study, jobs = config.load_study("stochastic-depth-small")
    runs = [write_run(tmp_path, job) for job, _ in jobs[:2]]
    verdicts = judge(study.claims, group_runs(runs))
    assert [verdict.word != Outcome.OPEN for verdict in verdicts] == [True, False, False]
    study, jobs = config.load_study("resnet-v2", ["dataset=cifar10"])
    groups = group_runs([write_run(tmp_path, job) for job, _ in jobs])
    judged = [v.word != Outcome.OPEN for v in judge(study.claims, groups)]
    assert judged == [True] * 6 + [False] * 2  # the two of CIFAR-100


def test_a_width_that_only_one_side_has_in_two_is_compared_with_its_like(tmp_path: Path) -> None:
    words = [("plain56", 4, 50.0), ("plain56", 8, 10.0), ("plain20", 8, 2.0)]
    runs = [write_run(tmp_path, [f"model={n}", f"model.width={w}"], train_error=e) for n, w, e in words]
    verdict = judge([claim(at_least=0)], group_runs(runs))[0]
    assert verdict.effects == (8.0,) and verdict.comparisons[0].setting == "width=8"


def test_no_difference_at_all_is_no_difference_claimed(tmp_path: Path) -> None:
    for count, word in ((1, Outcome.AGAINST), (2, Outcome.UNDECIDED)):
        groups = write_sides(tmp_path / str(count), [50.0] * count, [50.0] * count)
        assert judge([claim(at_least=0)], groups)[0].word == word


@pytest.mark.parametrize("best", [False, True])
def test_a_claim_waits_for_a_setting_that_has_begun(best: bool, tmp_path: Path) -> None:
    """The plain net may do better there."""
    waiting = Claim(text="t", metric="train_error", net="plain56", minus="plain20", at_least=20, best=best)
    rates = ("protocol.lr=0.1", "protocol.lr=0.01")
    runs = [write_run(tmp_path, ["model=plain20", rate]) for rate in rates]
    runs.append(write_run(tmp_path, ["model=plain56", rates[0]], train_error=60.0))
    assert judge([waiting], group_runs(runs))[0].word == Outcome.AS_CLAIMED
    begun = write_run(tmp_path, ["model=plain56", rates[1]], status="interrupted")
    assert judge([waiting], group_runs([*runs, begun]))[0].word == Outcome.OPEN


def test_a_claim_that_fails_in_one_setting_waits_for_no_other(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, [f"model=plain{depth}", "model.width=4"], train_error=50.0) for depth in (20, 56)]
    runs.append(write_run(tmp_path, ["model=plain56", "model.width=8"], status="interrupted"))
    assert judge([claim(at_least=20)], group_runs(runs))[0].word == Outcome.AGAINST


@pytest.mark.parametrize("best", [False, True])
def test_nets_that_guess_say_nothing_of_each_other(best: bool, tmp_path: Path) -> None:
    alike = Claim(text="t", metric="train_error", net="plain56", minus="plain20", at_least=-1, at_most=1, best=best)
    assert (
        judge([alike], write_sides(tmp_path / "guess", [90.0, 89.9, 90.1], [89.9, 90.0, 89.5]))[0].word
        == "neither learns"
    )
    assert judge([alike], write_sides(tmp_path / "one", [90.0, 89.9, 90.1], [3.0, 3.1, 3.2]))[0].word == Outcome.FAILS


@pytest.mark.parametrize("count", [2, 3])
def test_equal_values_on_each_side_decide_nothing(count: int, tmp_path: Path) -> None:
    """One test image of 359 makes a difference of 0.28: that all seeds have it may be chance."""
    sides = write_sides(tmp_path, [0.28] * count, [0.0] * count)
    assert judge([claim(at_least=0)], sides)[0].word == Outcome.UNDECIDED


def test_a_diverged_run_counts_as_guessing(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, ["model=plain56"], status="diverged", classes=4),
        write_run(tmp_path, ["model=plain20"]),
    ]
    claim = config.Claim(text="t", metric="train_error", net="plain56", minus="plain20", at_least=20)
    verdict = judge([claim], group_runs(runs))[0]
    assert verdict.word == Outcome.AS_CLAIMED and verdict.effects == (74.0,)


def test_one_rule_counts_a_diverged_run_in_tables_and_verdicts(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, ["model=plain56"], status="diverged", train_error=3.0),
        write_run(tmp_path, ["model=plain56", "seed=1"], train_error=10.0),
    ]
    group = group_runs(runs)[0]
    error = group.error("train_error")
    assert error is not None and error.mean == pytest.approx((90 + 10) / 2)
    assert "50.00 ± 56.57 (1 diverged, as guessing)" in table_rows([group])[0]


def test_a_published_difference_needs_both_sides_from_one_source() -> None:
    fig6 = config.load_study("he2015-fig6")[0]
    known = published_difference(claim(at_least=0), fig6)
    assert known is not None and known.points == pytest.approx(4.3) and "Fig. 1" in known.source
    other = Claim(text="t", metric="test_error", net="plain56", minus="resnet56", at_least=0)
    known = published_difference(other, fig6)  # not Fig. 1 against Table 6
    assert known is not None and known.points == pytest.approx(12.76 - 7.33) and "a-martyn" in known.source
    assert (
        published_difference(Claim(text="t", metric="test_error", net="plain56", minus="resnet1202", at_least=0), fig6)
        is None
    )
    gates = config.load_study("identity-shortcuts-small")[0]
    differences = [published_difference(one, gates) for one in gates.claims]
    assert (
        differences[0] is not None and differences[0].metric == "test_error" and gates.claims[0].metric == "train_error"
    )
    assert differences[0].points == pytest.approx(12.35 - 6.61) and not differences[0].bound
    assert differences[1] is not None  # "fails (> 20)"
    assert differences[1].points == pytest.approx(20 - 6.61) and differences[1].bound


def test_published_numbers_with_a_remark_and_bounds_stand_beside_claims() -> None:
    def difference(name: str, net: str, minus: str) -> PublishedDifference | None:
        one = Claim(text="t", metric="test_error", net=net, minus=minus, at_least=0)
        return published_difference(one, config.load_study(name)[0])

    paths = difference("cardinality-small", "resnext29_2x5d", "resnext29_1x8d")
    assert paths is not None and paths.points == pytest.approx(23.0 - 23.9)
    over = difference("he2015-cifar", "plain110", "plain20")
    assert over is not None and over.points == pytest.approx(60 - 9.7) and over.bound
    under = difference("he2015-cifar", "plain20", "plain110")
    assert under is not None and under.points == pytest.approx(9.7 - 60) and under.bound
    study = config.load_study("he2015-cifar")[0]
    capped = dataclasses.replace(study, published={**study.published, "plain20": "> 60", "plain56": "70"})
    for net, minus in (("plain110", "plain20"), ("plain110", "plain56")):  # either may be the larger
        one = Claim(text="t", metric="test_error", net=net, minus=minus, at_least=0)
        assert published_difference(one, capped) is None
    wider = Claim(text="t", metric="test_error", net="vgg_b_5x5", minus="vgg_b", at_least=0)
    assert published_difference(wider, config.load_study("vgg-5x5")[0]) is None  # "7 points more than B" is no error


def test_of_an_error_without_a_protocol_only_the_direction_is_compared(tmp_path: Path) -> None:
    fig6 = config.load_study("he2015-fig6")[0]
    groups = group_runs([write_run(tmp_path, [f"model={net}", "dataset=cifar10"]) for net in ("plain32", "plain20")])
    groups = sorted(groups, key=lambda group: -group.depth)
    known = published_difference(
        Claim(text="t", metric="train_error", net="plain32", minus="plain20", at_least=0), fig6, groups
    )
    assert known is not None and "zhanghang1989" in known.source and known.elsewhere == "CIFAR-10"  # its steps differ


LI, XIE, HUANG = "protocol=li2018-cifar", "protocol=xie2017-cifar", "protocol=huang2017-cifar"
WIDE = "protocol=zagoruyko2016-cifar"


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["model=plain56"], 13.3),
        (["model=resnet56"], 6.97),
        (["model=resnet56", "protocol.eval_every=100"], 6.97),  # of no effect on what is learnt
        (["model=resnet56", "protocol.lr=0.01"], None),
        (["model=resnet56", "protocol.batch_size=32", "protocol.weight_decay=0"], None),
        (["model=resnet164"], None),  # published on all 50,000 images with a warm-up
        (["model=resnet164", "protocol=he2016-cifar"], 5.93),
        (["model=resnet110", "protocol=he2016-cifar"], 6.61),
        (["model=resnet110", "protocol=huang2016-cifar"], 6.41),
        (["model=plain56", LI], 13.31),
        (["model=plain56", LI, "protocol.lr=0.01"], None),
        (["model=plain110", LI], None),  # published at another rate
        (["model=resnet56", LI], None),
        (["model=resnet56", LI, "model.shortcut=B"], 5.89),
        (["model=plain56", XIE], None),  # as many steps as Li's, of another training
        (["model=resnext29_8x64d", XIE, "model.init=he-fan-out"], 3.65),
        (["model=resnext29_8x64d", XIE], None),
        (["model=densenet40_k12", HUANG, "model.init=he-fan-out"], 5.24),
        (["model=densenet40_k12", HUANG, "model.init=he-fan-out", "protocol.pad=0", "protocol.flip=false"], None),
        (["model=densenet40_k12", HUANG, "model.init=he-fan-out", "protocol.steps=300000"], None),
        (["model=wrn28_10", WIDE, "model.init=torch7"], 4.00),
        (["model=wrn28_10", WIDE, "model.init=he-fan-out"], None),
        (["model=wrn28_10", WIDE, "model.init=torch7", "protocol.pad_mode=zeros"], None),
        (["model=wrn28_10", WIDE, "model.init=torch7", "model.dropout=0.3"], None),
        (["model=highway32"], None),  # other widths
    ],
    ids=str,
)
def test_beside_a_run_stands_the_number_of_its_own_experiment(words: list[str], number: float | None) -> None:
    known = published_like(dataclasses.asdict(config.load([*words, "dataset=cifar10"])))
    assert (known and known.value) == number


@pytest.mark.parametrize(
    ("words", "classes", "number"),
    [
        (["model=plain34"], 1000, 28.54),
        (["model=plain34"], 50, None),  # a folder with a part of ImageNet
        (["model=plain34", "dataset.image_size=64"], 1000, None),
        (["model=vgg_d", "protocol=vgg-imagenet"], 1000, 27.0),
        (["model=vgg_d"], 1000, None),
    ],
    ids=str,
)
def test_on_imagenet_too(words: list[str], classes: int, number: float | None, tmp_path: Path) -> None:
    settings = dataclasses.asdict(config.load([*words, "dataset=imagenet", f"dataset.root={tmp_path}"]))
    known = published_like(settings, classes)
    assert (known and known.value) == number
    assert known is None or known.source.endswith(("ten crops", "dense evaluation"))


def test_distance_is_in_published_deviations_of_the_papers_own_run(tmp_path: Path) -> None:
    same = ["protocol.eval_every=100", "protocol.save_seconds=5"]  # of no effect on what is learnt
    full = write_run(tmp_path / "full", ["model=resnet110", "dataset=cifar10", *same], test_error=6.93)
    assert [row[3] for row in distance_rows(group_runs([full]))] == ["+2.0"]


OTHERS = [
    ["model.width=8"],
    ["protocol.lr=0.01"],
    ["protocol.batch_size=32"],
    ["protocol.weight_decay=0"],
    ["protocol.steps=500"],
    ["protocol.steps=200000"],
    ["protocol.precision=bf16"],
    ["dataset=cifar10-16"],
    ["protocol=he2015-cifar-full"],
]


@pytest.mark.parametrize("words", OTHERS, ids=lambda words: words[0])
def test_a_run_that_differs_from_the_papers_has_no_distance_to_it(words: list[str], tmp_path: Path) -> None:
    other = write_run(tmp_path, ["model=resnet110", "dataset=cifar10", *words], test_error=6.93)
    assert distance_rows(group_runs([other])) == []


@pytest.mark.parametrize(
    "words", [*OTHERS[:1], *OTHERS[4:6], ["dataset=cifar10-16"], ["dataset=digits"]], ids=lambda words: words[0]
)
def test_no_published_number_stands_beside_a_run_of_other_images_width_or_length(
    words: list[str], tmp_path: Path
) -> None:
    papers = write_run(tmp_path / "papers", ["model=resnet110", "dataset=cifar10"])
    other = write_run(tmp_path / "other", ["model=resnet110", "dataset=cifar10", *words])
    known = published_like(papers.config)
    assert known is not None and known.value == 6.43 and published_like(other.config) is None
    assert table_rows(group_runs([other]))[0][-2:] == ["-", "-"]


@pytest.mark.parametrize("words", [[], *OTHERS[:2], ["protocol.steps=100"], ["model.dropout=0.1"]], ids=str)
def test_a_studys_own_numbers_stand_beside_its_own_runs_alone(words: list[str], tmp_path: Path) -> None:
    study, jobs = config.load_study("resnet-v2")
    nets = [next(job for job, cfg in jobs if cfg.model.name == net) for net in ("resnet110", "preresnet110")]
    runs = [write_run(tmp_path, [*job, *words], test_error=error) for job, error in zip(nets, (6.6, 6.4), strict=True)]
    rows = table_rows(group_runs(runs), study)
    assert [row[-2] for row in rows] == (["-", "-"] if words else ["6.61", "6.37"])
    verdicts = judge([claim for claim in study.claims if "110 layers (6.37" in claim.text], group_runs(runs))
    cell = verdict_rows(verdicts, study)[0][4]
    assert cell == ("above 0 (cifar10 and cifar100 by the study)" if words else "+0.24")


def test_numbers_of_another_protocol_than_the_runs_give_the_direction_alone(tmp_path: Path) -> None:
    study, jobs = config.load_study("he2015-cifar")
    nets = [next(job for job, cfg in jobs if cfg.model.name == net) for net in ("resnet164", "preresnet164")]
    runs = [write_run(tmp_path, job, test_error=error) for job, error in zip(nets, (6.0, 5.5), strict=True)]
    verdicts = judge([claim for claim in study.claims if "164 layers (5.46" in claim.text], group_runs(runs))
    cell = verdict_rows(verdicts, study)[0][4]
    assert cell == "above 0 (CIFAR-10, 64,000 steps by he2016-cifar)\nHe et al. 2016, Tables 2 to 4, CIFAR-10"
    assert all(row[-2] == "-" for row in table_rows(group_runs(runs), study))


def test_studies_whose_runs_are_not_the_papers_say_so(tmp_path: Path) -> None:
    """Highway nets of other widths, say, or another schedule, are what these studies run."""
    for name in ("highway", "cardinality", "squeeze-excitation", "vgg-depth", "vgg-5x5"):
        assert config.load_study(name)[0].published_on, name


def test_a_published_difference_lies_within_what_is_asked_or_outside() -> None:
    claim = Claim(text="alike", metric="test_error", net="a", minus="b", at_least=-1, at_most=1)
    assert [_direction(points, claim) for points in (0.06, -3.0)] == ["within that", "outside that"]
    more = dataclasses.replace(claim, at_most=None)
    assert [_direction(points, more) for points in (0.06, -3.0, 0.0)] == ["above 0", "below 0", "0"]


def test_on_other_images_only_the_direction_of_a_published_difference_is_printed(tmp_path: Path) -> None:
    study, jobs = config.load_study("identity-shortcuts-small")
    runs = [write_run(tmp_path, job, train_error=error) for (job, _), error in zip(jobs[:2], (2.0, 20.0), strict=True)]
    verdicts = judge(study.claims, group_runs(runs))
    cells = [row[4] for row, verdict in zip(verdict_rows(verdicts, study), verdicts, strict=True) if verdict.effects]
    assert cells and all(cell.startswith("above 0 (test error, CIFAR-10)") for cell in cells)


def test_small_studies_print_no_published_number() -> None:
    import re

    for name in config.names("study"):
        study = config.load_study(name)[0]
        if study.published_on:
            assert not [one.text for one in study.claims if re.search(r"\d\.\d+ against \d", one.text)], name


# The command


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[float], list[str]]:
    """Runs of a study whose claim asks for ``at_least`` points of a difference that is 10."""

    def plant(at_least: float, seeds: int = 3) -> list[str]:
        folder = tmp_path / "conf" / "study"
        folder.mkdir(parents=True, exist_ok=True)
        study = {
            "title": "t",
            "sweep": ["model=plain20,plain56", "model.width=8"],
            "claims": [
                {"text": "planted", "metric": "train_error", "net": "plain56", "minus": "plain20", "at_least": at_least}
            ],
        }
        (folder / "planted.yaml").write_text(json.dumps(study))
        for seed in range(seeds):
            for net, error in (("plain20", 1.0), ("plain56", 11.0)):
                words = [f"model={net}", "model.width=8", f"seed={seed}"]
                write_run(tmp_path / "runs", words, train_error=error + seed / 10)
        return ["verify", "planted", "--config-dir", str(tmp_path / "conf"), f"output_dir={tmp_path}"]

    return plant


def test_a_planted_false_claim_fails_and_a_true_one_holds(
    planted: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(planted(5)) == 0
    assert "holds" in capsys.readouterr().out


def test_a_planted_false_claim_ends_with_1_in_json_too(
    planted: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = planted(15)
    assert main(command) == 1
    capsys.readouterr()
    assert main([*command, "--json"]) == 1
    entry = json.loads(capsys.readouterr().out)[0]
    assert entry["verdict"] == Outcome.FAILS and entry["comparisons"][0]["effect"] == pytest.approx(10)
    assert entry["comparisons"][0]["interval"][1] < 15


def test_one_seed_neither_holds_nor_fails(
    planted: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*planted(15, seeds=1), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == Outcome.AGAINST


def test_a_claim_about_a_net_without_runs_is_open(
    planted: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = planted(5, seeds=1)
    for path in (tmp_path / "runs").glob("plain56-*"):
        path.rename(tmp_path / path.name)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == Outcome.OPEN


# What articles say


def test_every_popular_claim_has_one_ground() -> None:
    claims = load_popular()
    assert len({one.claim for one in claims}) == len(claims)
    for one in claims:
        grounds = [one.study, one.analysis, one.arithmetic, one.cannot]
        assert sum(map(bool, grounds)) == 1 and one.answer and one.because
        assert bool(one.needs) == bool(one.study or one.analysis)


def test_arithmetic_rests_on_the_nets_and_not_on_itself() -> None:
    known = ("parameters(", "macs(", "published(", "_weights(", "receptive_field(")
    assert all(any(word in one.arithmetic for word in known) for one in load_popular() if one.arithmetic)


@pytest.mark.parametrize(
    ("needs", "found", "agrees"),
    [
        ({"a": True}, [True], Agreement.AGREES),
        ({"a": False}, [False], Agreement.AGREES),
        ({"a": True}, [False], Agreement.DISAGREES),
        ({"a": False}, [True], Agreement.DISAGREES),
        ({"a": True}, [True, False], Agreement.DISAGREES),  # two rows of one id
        ({"a": True}, [True, None], Agreement.OPEN_YET),
        ({"a": None}, [False], Agreement.OPEN_YET),  # shown, and deciding nothing
        ({"a": True, "b": True}, [True], Agreement.MISSING),
    ],
)
def test_agreement_is_computed_from_the_evidence(
    needs: dict[str, bool | None], found: list[bool | None], agrees: str
) -> None:
    assert compare(needs, [Evidence("a", "", true) for true in found]) == agrees


def test_one_seed_neither_supports_an_answer_nor_refutes_it(tmp_path: Path) -> None:
    for job, _ in config.load_study("dense-vs-residual-small")[1]:
        write_run(tmp_path / "runs", job, test_error=1.0 if "densenet" in " ".join(job) else 30.0)
    claim = "A sum hinders the flow of information more than concatenation"
    found = {one.popular.claim: one for one in answer_all(tmp_path)}[claim]
    assert Outcome.AS_CLAIMED in found.measured and found.agrees == Agreement.OPEN_YET


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "reference").symlink_to(ROOT / "outputs" / "reference")
    return {one.popular.claim: one for one in answer_all(folder)}


@pytest.mark.parametrize("popular", load_popular(), ids=lambda one: one.claim[:40])
def test_every_answer_stands_on_what_is_committed(popular: Popular, answers: dict[str, Answer]) -> None:
    found = answers[popular.claim]
    assert found.stands, found


def test_a_false_calculation_is_false() -> None:
    assert calculate("parameters('resnet20') == 269722") and not calculate("basic_weights(256) == 19")


def test_the_command_answers_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reference").symlink_to(ROOT / "outputs" / "reference")
    assert main(["verify", "--popular", "--json", f"output_dir={tmp_path}"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(load_popular())
    assert main(["verify", "degradation", "--popular"]) == 2


def test_an_answer_without_its_ground_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--popular", f"output_dir={tmp_path}"]) == 1
    assert "not measured" in " ".join(capsys.readouterr().out.split())


def test_new_runs_can_refute_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reference").symlink_to(ROOT / "outputs" / "reference")
    for job, cfg in config.load_study("degradation", ["seed=0,1,2"])[1]:
        write_run(tmp_path / "runs", job, train_error=cfg.seed + (1.0 if "model=plain56" in job else 30.0))
    claim = "The degradation is no overfitting"
    answers = {one.popular.claim: one for one in answer_all(tmp_path)}
    assert answers[claim].agrees == Agreement.DISAGREES and not answers[claim].stands
    assert main(["verify", "--popular", f"output_dir={tmp_path}"]) == 1


def test_an_answer_falls_back_on_the_reference_where_the_users_results_lack_its_ground(tmp_path: Path) -> None:
    (tmp_path / "reference").symlink_to(ROOT / "outputs" / "reference")
    write_run(tmp_path / "runs", ["model=plain20", "model.width=8"])  # one side of a claim
    (tmp_path / "analysis").mkdir()
    other = {"analysis": "lesion", "title": "t", "about": "a", "panels": [], "rows": [{"what": "x", "measured": "1"}]}
    (tmp_path / "analysis" / "lesion.json").write_text(json.dumps(other))
    answers = answer_all(tmp_path)
    assert all(one.stands for one in answers)
    assert sum("holds (+72.4)" in one.measured for one in answers) >= 2


def test_what_was_seen_is_said_in_words(tmp_path: Path) -> None:
    study = config.load_study("degradation")[0]
    groups = write_sides(tmp_path, [70.0], [1.0])
    words = " ".join(in_words(study, groups, judge([claim(at_least=5), claim(at_most=5)], groups)).split())
    assert words.startswith(
        "From 20 to 56 layers the training error of plain nets went from 1.0 to 70.0 %. Of 2 claims, "
    )
    assert "1 came out as claimed (one seed), 1 came out against it (one seed). One seed has no spread" in words
    assert words.endswith(" ".join(study.note.split()))


@pytest.mark.parametrize(("shallow", "said"), [("wrn16_2", True), ("wrn16_4", False)])
def test_depth_is_spoken_of_only_where_nothing_else_differs(shallow: str, said: bool, tmp_path: Path) -> None:
    groups = group_runs([write_run(tmp_path, [f"model={net}", "dataset=cifar10"]) for net in (shallow, "wrn40_2")])
    assert ("From 16 to 40 layers" in in_words(config.load_study("degradation")[0], groups, [])) == said


def test_data_for_machines_has_every_side(tmp_path: Path) -> None:
    study = config.load_study("degradation")[0]
    verdicts = judge([claim(at_least=5)], write_sides(tmp_path, [30.0, 31.0], [1.0, 2.0]))
    entry = verdict_data(study, verdicts, reference=True)[0]
    assert entry["comparisons"][0]["net"] == (30.0, 31.0) and entry["comparisons"][0]["seeds"] == (0, 1)
    json.dumps(entry, allow_nan=False)
