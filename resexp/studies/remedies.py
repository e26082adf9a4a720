"""Remedies for the degradation of plain nets: what each leaves of the gap between plain and residual nets."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resexp.studies.groups import Group, best_of
from resexp.studies.stats import Difference, share, welch

METRIC = "train_error"
RATE = "protocol.lr"
COLUMNS = (
    *("remedy", "explanation", "learning rate", "layers", "training error %"),
    *("share of the gap (95 % interval)", "more than half?"),
)


@dataclass(frozen=True)
class Remedy:
    """Nets alike in all but depth, rate and seed.

    :param words: what they have that the study's usual nets have not; none: the bounds of the gap.
    :param why: the explanation that it is a remedy for, as the study's file says.
    :param nets: by depth, at the rate that is best for the deepest nets, by training error.
    :param others: the deepest nets at other rates.
    """

    family: str
    words: frozenset[str]
    why: str
    nets: Mapping[int, Group]
    others: Sequence[Group]

    @property
    def name(self) -> str:
        words = [word.removeprefix("protocol.") for word in sorted(self.words)]
        return " ".join([*([] if self.family == "plain" and words else [self.family]), *words])

    @property
    def deepest(self) -> Group:
        return self.nets[max(self.nets)]

    @property
    def rate(self) -> str:
        return _value(self.deepest, RATE)


def find_remedies(groups: Sequence[Group], explanations: Mapping[str, str]) -> list[Remedy]:
    """The remedies among a study's nets, the one that leaves the lowest training error first.

    A remedy is a setting that is not that of most nets of its family here; where there is no such, not the paper's.

    :param explanations: by the words of a remedy, ``"init=dirac"``.
    """
    named = {word for words in explanations for word in words.split()}  # however many runs have them
    ended = [group for group in groups if group.values(METRIC)]
    alike: dict[tuple[str, frozenset[str]], list[Group]] = defaultdict(list)
    for family in {group.family for group in ended}:
        members = [group for group in ended if group.family == family]
        counts = Counter(word for group in members for word in group.words)
        shared = {word for word, count in counts.items() if 2 * count > len(members)} - named
        settled = {word.partition("=")[0] for word in shared}
        for group in members:
            own = {w for w in group.words - shared if w.partition("=")[0] in settled or w not in group.usual}
            alike[family, frozenset(word for word in own if not word.startswith(f"{RATE}="))].append(group)
    whys = {frozenset(words.split()): why for words, why in explanations.items()}
    found = [_remedy(*key, members, whys.get(key[1], "")) for key, members in alike.items()]
    return sorted(found, key=lambda remedy: remedy.deepest.mean(METRIC))


def _remedy(family: str, words: frozenset[str], groups: Sequence[Group], why: str) -> Remedy:
    depth = max(group.depth for group in groups)
    deepest = [group for group in groups if group.depth == depth]
    best = best_of(deepest, METRIC)
    rate = _value(best, RATE)
    nets = {group.depth: group for group in groups if _value(group, RATE) == rate}
    return Remedy(family, words, why, nets, [group for group in deepest if group is not best])


def shares(remedies: Sequence[Remedy]) -> dict[str, Difference]:
    """By a remedy's name, the share of the gap between the deepest plain and residual nets that it closes, as 0 to 1.

    Only of plain nets, and only if the plain one at that depth has the higher error; with several seeds of both, if
    Welch's interval says so.
    """
    bounds = _bounds(remedies)
    if bounds is None:
        return {}
    plain, residual = (bound.values(METRIC) for bound in bounds)
    gap = welch(plain, residual)
    if not (gap.low if gap.has_interval else gap.mean) > 0:
        return {}
    return {
        remedy.name: share(plain, remedy.nets[bounds[0].depth].values(METRIC), residual)
        for remedy in remedies
        if remedy.family == "plain" and remedy.words and bounds[0].depth in remedy.nets
    }


def seeds_above_half(remedies: Sequence[Remedy], remedy: Remedy) -> tuple[int, int]:
    """In how many seeds it closes more than half of that seed's own gap, and how many seeds all three have."""
    bounds = _bounds(remedies)
    if bounds is None or bounds[0].depth not in remedy.nets:
        return 0, 0
    plain, residual, own = (group.by_seed(METRIC) for group in (*bounds, remedy.nets[bounds[0].depth]))
    seeds = plain.keys() & residual.keys() & own.keys()
    return sum(plain[seed] - own[seed] > (plain[seed] - residual[seed]) / 2 for seed in seeds), len(seeds)


def _bounds(remedies: Sequence[Remedy]) -> tuple[Group, Group] | None:
    """The deepest plain net without a remedy, and the residual net of its depth."""
    found = {remedy.family: remedy for remedy in remedies if not remedy.words}
    if not {"plain", "resnet"} <= found.keys():
        return None
    depth = max(found["plain"].nets)
    return (found["plain"].nets[depth], found["resnet"].nets[depth]) if depth in found["resnet"].nets else None


def remedy_rows(remedies: Sequence[Remedy]) -> list[list[str]]:
    """A row for each, as ``COLUMNS`` say."""
    closed = shares(remedies)
    rows = []
    for remedy in remedies:
        row = [
            remedy.name,
            remedy.why or "-",
            remedy.rate,
            str(remedy.deepest.depth),
            str(remedy.deepest.error(METRIC)),
        ]
        found = closed.get(remedy.name)
        rows.append([*row, *(_share_cells(found, seeds_above_half(remedies, remedy)) if found else ("-", "-"))])
    return rows


def _share_cells(found: Difference, seeds: tuple[int, int]) -> tuple[str, str]:
    percent = f"{100 * found.mean:.0f} %"
    if not found.has_interval:
        return percent, f"{'yes' if found.mean > 0.5 else 'no'} (one seed)"
    verdict = "yes" if found.low > 0.5 else "no" if found.high < 0.5 else "undecided"
    return (
        f"{percent} ({100 * found.low:.0f} to {100 * found.high:.0f})",
        f"{verdict} (in {seeds[0]} of {seeds[1]} seeds)",
    )


def _value(group: Group, key: str) -> str:
    return next((word.partition("=")[2] for word in group.words if word.startswith(f"{key}=")), "-")
