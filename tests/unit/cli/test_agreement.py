"""Cohen's kappa and its interval: against published figures, and against the truth where that is known."""

from itertools import product
from math import factorial, prod

import pytest

from paddock_cli import agreement as rating
from paddock_cli.agreement import agreement, kappa, kappa_interval


def matrix(*rows):
    return tuple(tuple(row) for row in rows)


def test_kappa_has_the_published_values():
    # J. Cohen, Educational and Psychological Measurement 20 (1960) 37–46, table 1: 200 judgments.
    assert round(kappa(matrix((88, 14, 18), (10, 40, 10), (2, 6, 12))), 3) == 0.492
    # J. Fleiss, J. Cohen, B. Everitt, Psychological Bulletin 72 (1969) 323–327: 200 patients, three diagnoses.
    assert round(kappa(matrix((106, 10, 4), (22, 28, 10), (2, 12, 6))), 3) == 0.429


def test_disagreement_beyond_chance_is_negative():
    assert kappa(matrix((0, 5), (5, 0))) == -1
    assert kappa(matrix((4, 4), (4, 4))) == 0


def test_one_category_on_both_sides_has_no_kappa():
    found = agreement([("yes", "yes")] * 50)

    assert found.kappa is None
    assert found.kappa_interval is None
    assert found.agreed.rate == 1


def test_nothing_rated_has_neither():
    assert agreement([]).kappa is None
    assert agreement([]).kappa_interval is None


def test_the_matrix_has_people_in_rows_and_yes_first():
    found = agreement([("no", "yes"), ("no", "yes"), ("yes", "yes"), ("unsure", "no")])

    assert found.categories == ("yes", "no", "unsure")
    assert found.matrix == ((1, 0, 0), (2, 0, 0), (0, 1, 0))
    assert found.as_json()["confusion"]["no"] == {"yes": 2, "no": 0, "unsure": 0}


def test_few_labels_that_agree_prove_little():
    """The textbook's interval is 1 to 1 here."""
    interval = kappa_interval(matrix((4, 0), (0, 1)))

    assert interval.low < 0.2
    assert interval.high < 1


def test_with_many_labels_the_interval_is_the_textbooks():
    counts = matrix((320, 60), (40, 180))
    # Fleiss, Cohen and Everitt's standard error, by statsmodels 0.15: cohens_kappa(counts).std_kappa
    error = 0.03194
    interval = kappa_interval(counts)

    assert interval.low == pytest.approx(kappa(counts) - 1.96 * error, abs=0.01)
    assert interval.high == pytest.approx(kappa(counts) + 1.96 * error, abs=0.01)


@pytest.mark.parametrize(("good", "true"), [(0.5, 0.4), (0.8, 0.4), (0.8, 0.8)])
def test_it_holds_the_true_kappa_as_often_as_it_says(monkeypatch, good, true):
    """Six labels of a judge whose kappa is known, over every way that they can fall out."""
    monkeypatch.setattr(rating, "DRAWS", 400)
    chance = good**2 + (1 - good) ** 2
    differ = (1 - (true * (1 - chance) + chance)) / 2
    cells = (good - differ, differ, differ, 1 - good - differ)
    held = 0.0
    for counts in product(range(7), repeat=4):
        if sum(counts) != 6:
            continue
        share = factorial(6) / prod(map(factorial, counts))
        share *= prod(cell**count for cell, count in zip(cells, counts, strict=True))
        interval = kappa_interval(matrix(counts[:2], counts[2:]))
        held += share * (interval.low <= true <= interval.high)

    # With five labels the textbook's interval holds it in 65, 37 and 19 of a hundred cases.
    assert held > 0.88


def test_it_is_the_same_at_every_call():
    assert kappa_interval(matrix((4, 1), (2, 3))) == kappa_interval(matrix((4, 1), (2, 3)))
