"""Figures of two builds that were measured in turn, and the ratio between them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from statistics import median

#: Samples of a bootstrap (Efron, 1979), for the interval of a median.
RESAMPLES = 5000


@dataclass(slots=True)
class Comparison:
    """One figure of both commits, by round. A ratio above 1 is an improvement."""

    name: str
    more_is_better: bool
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        pairs = zip(self.before, self.after, strict=True)
        return [
            after / before if self.more_is_better else before / after for before, after in pairs
        ]


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median of ratios, between the ends of its 95 % interval (bootstrap)."""
    chance = random.Random(1)
    medians = sorted(median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], median(ratios), medians[-RESAMPLES // 40]
