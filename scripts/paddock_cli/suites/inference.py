"""What a few passes and failures can say: intervals, pass@k, and whether two results differ.

The formulas are short and exact, so they stand here instead of a library of 164 MB that every gate in CI would install;
the tests compare them with SciPy and with published figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Bounds of a proportion or of an agreement."""

    low: float
    high: float


@dataclass(frozen=True)
class Count:
    """Attempts that passed, of those that were decided."""

    passed: int
    decided: int

    @property
    def rate(self) -> float | None:
        """Passes a decided attempt, 0 to 1; None where nothing was decided."""
        return self.passed / self.decided if self.decided else None


@dataclass(frozen=True)
class Test:
    """How probable a result is that is at least as far out as this one, if nothing changed.

    `worse` and `better` look to one side; `differs` to both.
    """

    worse: float
    better: float
    differs: float


def wilson(count: Count, confidence: float = CONFIDENCE) -> Interval | None:
    """The score interval of a proportion; None where nothing was decided.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927). Unlike
    the textbook's `p ± z·s` it keeps its promise for few attempts and for rates near 0 and 1.
    """
    n = count.decided
    if not n:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = count.passed / n
    centre = p + z * z / (2 * n)
    reach = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding would leave 1e-17 instead of the bound itself.
    low = 0.0 if count.passed == 0 else (centre - reach) / scale
    high = 1.0 if count.passed == n else (centre + reach) / scale
    return Interval(low, high)


def pass_at(k: int, counts: Iterable[Count]) -> float | None:
    """The probability that at least one of k attempts at a task passes, averaged over tasks.

    The unbiased estimator `1 - C(n-c, k) / C(n, k)` of n attempts with c passes. Source: M. Chen et al., Evaluating Large
    Language Models Trained on Code, arXiv:2107.03374 (2021), section 2.1.

    Returns:
        None where a task has fewer than k attempts, or there is no task.
    """
    shares = []
    for count in counts:
        if count.decided < k:
            return None
        shares.append(1 - comb(count.decided - count.passed, k) / comb(count.decided, k))
    return sum(shares) / len(shares) if shares else None


def compare(strata: Sequence[tuple[Count, Count]]) -> Test:
    """Test whether the passes of two results differ, task by task.

    Exact and conditional: within each stratum (a task on an endpoint) the passes that both sides have together are taken
    as given, and which side has them is chance if nothing changed. So tasks are compared with themselves alone, however
    hard they are, and either side may have any number of attempts. With one attempt on each side it is the exact McNemar
    test, with one stratum it is Fisher's. It says something of these tasks; of others only as far as they are alike.

    Source: A. Agresti, Categorical Data Analysis, 3rd ed. (2013), section 7.3.5 (the exact test of conditional
    independence in 2×2×K tables); R has it as `mantelhaen.test(exact=TRUE)`.

    Args:
        strata: before and now, of each.
    """
    ways = [1]
    """How many ways there are to have a number of passes now, beginning with the smallest possible number."""
    smallest = seen = 0
    for before, now in strata:
        passes = before.passed + now.passed
        failures = before.decided + now.decided - passes
        least, most = max(0, now.decided - failures), min(passes, now.decided)
        own = [comb(passes, x) * comb(failures, now.decided - x) for x in range(least, most + 1)]
        ways = _convolved(ways, own)
        smallest += least
        seen += now.passed
    total, place = sum(ways), seen - smallest
    return Test(
        worse=sum(ways[: place + 1]) / total,
        better=sum(ways[place:]) / total,
        differs=sum(way for way in ways if way <= ways[place]) / total,
    )


def _convolved(left: list[int], right: list[int]) -> list[int]:
    result = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            result[i + j] += a * b
    return result


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, in their order.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
