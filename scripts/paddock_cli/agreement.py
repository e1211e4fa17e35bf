"""How far two raters agree beyond chance: Cohen's kappa, with an interval that is honest for few ratings."""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from paddock_cli.suites.inference import CONFIDENCE, Count, Interval, wilson

DRAWS = 4_000
_PRIOR_MASS = 2.0
"""Ratings that the prior weighs as much as, spread over all cells: Jeffreys' half a rating a cell for two categories."""


@dataclass(frozen=True)
class Agreement:
    """A confusion matrix and what follows from it.

    `matrix[i][j]` counts what the first rater (people) put into category i and the second (the judge) into j. `kappa` is
    None where it is not defined: both put everything into one category, so chance would agree as well.
    """

    categories: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    kappa: float | None
    kappa_interval: Interval | None

    @property
    def agreed(self) -> Count:
        """Ratings that are the same, of all."""
        return Count(sum(row[i] for i, row in enumerate(self.matrix)), sum(map(sum, self.matrix)))

    def as_json(self) -> dict[str, Any]:
        """Its part of the document of --json."""
        share, interval = self.agreed, wilson(self.agreed)
        return {
            "n": share.decided,
            "agreed": share.passed,
            "agreement": share.rate,
            "agreement_interval": vars(interval) if interval else None,
            "kappa": self.kappa,
            "kappa_interval": vars(self.kappa_interval) if self.kappa_interval else None,
            "categories": list(self.categories),
            "confusion": {
                person: dict(zip(self.categories, row, strict=True))
                for person, row in zip(self.categories, self.matrix, strict=True)
            },
        }


def agreement(pairs: Iterable[tuple[str, str]]) -> Agreement:
    """Count pairs of ratings: people's and the judge's."""
    rated = list(pairs)
    categories = tuple(sorted({one for pair in rated for one in pair}, key=_order))
    matrix = tuple(
        tuple(sum(pair == (person, judge) for pair in rated) for judge in categories) for person in categories
    )
    return Agreement(categories, matrix, kappa(matrix), kappa_interval(matrix))


def kappa(matrix: tuple[tuple[float, ...], ...]) -> float | None:
    """Agreement beyond chance: 1 is complete, 0 is that of chance. None where chance would agree completely.

    Source: J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960).
    """
    total = sum(map(sum, matrix))
    if not total:
        return None
    rows, columns = [sum(row) for row in matrix], [sum(column) for column in zip(*matrix, strict=True)]
    observed = sum(row[i] for i, row in enumerate(matrix)) / total
    expected = sum(row * column for row, column in zip(rows, columns, strict=True)) / total**2
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)


def kappa_interval(matrix: tuple[tuple[int, ...], ...], confidence: float = CONFIDENCE) -> Interval | None:
    """Within which kappa lies, by what these ratings can tell; None for fewer than two categories.

    The credible interval of a Dirichlet posterior over the cells, from Jeffreys' prior: the textbook's standard error
    (J. Fleiss, J. Cohen, B. Everitt, Psychological Bulletin 72, 1969) is 0 where few ratings happen to agree, and its
    "95 %" then hold kappa in as little as a tenth of cases. Source: S. Basu, M. Banerjee, A. Sen, Bayesian inference for
    kappa from single and multiple studies, Biometrics 56 (2000). The draws are the same at every call.
    """
    cells = [cell for row in matrix for cell in row]
    size = len(matrix)
    if size < 2 or not sum(cells):
        return None
    dice = Random(20001)
    prior = _PRIOR_MASS / len(cells)
    drawn = []
    for _ in range(DRAWS):
        weights = [dice.gammavariate(cell + prior, 1) for cell in cells]
        value = kappa(tuple(tuple(weights[i : i + size]) for i in range(0, len(weights), size)))
        if value is not None:
            drawn.append(value)
    drawn.sort()
    tail = (1 - confidence) / 2
    return Interval(drawn[int(tail * len(drawn))], drawn[min(len(drawn) - 1, int((1 - tail) * len(drawn)))])


def _order(category: str) -> tuple[int, str]:
    return ({"yes": 0, "no": 1}.get(category, 2), category)
