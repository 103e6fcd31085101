"""How far annotators agree beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number.

Both for nominal values; items that an annotator has not judged are left out of what they would be compared
in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from platen.data.labelling.items import Judgement

Ratings = Mapping[str, Mapping[str, str]]
"""Item → annotator → value."""


@dataclass(frozen=True)
class PairAgreement:
    """Two annotators on the `items` that both have judged.

    `kappa` is None where chance alone agrees fully.
    """

    first: str
    second: str
    items: int
    observed: float
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """All annotators together. `alpha` is None without two judgements of one item, or with one value only."""

    items: int
    shared_items: int
    alpha: float | None
    pairs: tuple[PairAgreement, ...]
    disagreed: tuple[str, ...]
    """Ids of items with different values, in order."""


def ratings_of(judgements: Iterable[Judgement]) -> dict[str, dict[str, str]]:
    ratings: dict[str, dict[str, str]] = {}
    for judgement in judgements:
        ratings.setdefault(judgement.item, {})[judgement.annotator] = judgement.value
    return ratings


def agreement(ratings: Ratings) -> Agreement:
    annotators = sorted({annotator for values in ratings.values() for annotator in values})
    shared = [item for item, values in ratings.items() if len(values) > 1]
    pairs = (_pair(ratings, first, second) for first, second in combinations(annotators, 2))
    return Agreement(
        items=len(ratings),
        shared_items=len(shared),
        alpha=krippendorff_alpha(ratings),
        pairs=tuple(pair for pair in pairs if pair is not None),
        disagreed=tuple(item for item in shared if len(set(ratings[item].values())) > 1),
    )


def cohen_kappa(pairs: Iterable[tuple[str, str]]) -> float | None:
    """Cohen (1960): (observed - expected) / (1 - expected), expected from each annotator's own shares.

    None without pairs, or when both always say the same one value.
    """
    judged = list(pairs)
    if not judged:
        return None
    total = len(judged)
    observed = sum(first == second for first, second in judged)
    firsts, seconds = Counter(first for first, _ in judged), Counter(second for _, second in judged)
    expected = sum(firsts[value] * seconds[value] for value in firsts)  # times total squared
    if expected == total * total:
        return None
    return (observed * total - expected) / (total * total - expected)


def krippendorff_alpha(ratings: Ratings) -> float | None:
    """Krippendorff's alpha for nominal data with any number of annotators and missing judgements.

    1 - observed / expected disagreement, from the coincidences of values within items that have at least two.
    """
    units = [Counter(values.values()) for values in ratings.values() if len(values) > 1]
    totals: Counter[str] = Counter()
    disagreements = 0.0
    for unit in units:
        totals.update(unit)
        size = unit.total()
        disagreements += (size * size - sum(count * count for count in unit.values())) / (size - 1)
    pairable = totals.total()
    expected = pairable * pairable - sum(count * count for count in totals.values())
    if not expected:
        return None
    return 1 - (pairable - 1) * disagreements / expected


def _pair(ratings: Ratings, first: str, second: str) -> PairAgreement | None:
    both = [
        (values[first], values[second]) for values in ratings.values() if first in values and second in values
    ]
    if not both:
        return None
    observed = sum(one == other for one, other in both) / len(both)
    return PairAgreement(first, second, len(both), observed, cohen_kappa(both))


def settled(ratings: Ratings) -> dict[str, str]:
    """Item → the value that more annotators chose than any other; items with a tie are not in it."""
    result = {}
    for item, values in ratings.items():
        ranked = Counter(values.values()).most_common(2)
        if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
            result[item] = ranked[0][0]
    return result
