"""The statistics of suites: against published figures, and against SciPy."""

import itertools
import random

import pytest
from scipy import stats

from paddock_cli.suites.inference import Count, compare, holm, pass_at, wilson


@pytest.mark.parametrize(
    ("passed", "decided", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857–872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(passed, decided, low, high):
    interval = wilson(Count(passed, decided))

    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_wilson_is_that_of_scipy():
    for decided in (1, 2, 3, 7, 20, 61):
        for passed in range(decided + 1):
            expected = stats.binomtest(passed, decided).proportion_ci(method="wilson")
            interval = wilson(Count(passed, decided))
            assert interval.low == pytest.approx(expected.low, abs=1e-12)
            assert interval.high == pytest.approx(expected.high, abs=1e-12)


def test_nothing_decided_has_no_interval():
    assert wilson(Count(0, 0)) is None


def test_pass_at_k_is_the_probability_that_one_of_k_drawn_attempts_passes():
    for decided, passed, k in [(5, 2, 1), (5, 2, 3), (6, 1, 2), (4, 4, 4), (5, 0, 5)]:
        drawn = list(itertools.combinations([True] * passed + [False] * (decided - passed), k))
        expected = sum(map(any, drawn)) / len(drawn)
        assert pass_at(k, [Count(passed, decided)]) == pytest.approx(expected)


def test_pass_at_k_averages_over_tasks():
    assert pass_at(1, [Count(1, 2), Count(4, 4)]) == pytest.approx(0.75)
    # The plug-in estimator 1 - (1 - c/n)^k would give 0.875.
    assert pass_at(2, [Count(1, 2), Count(4, 4)]) == pytest.approx(1.0)


def test_pass_at_k_is_not_known_where_a_task_has_fewer_attempts():
    assert pass_at(3, [Count(2, 3), Count(2, 2)]) is None
    assert pass_at(1, []) is None


def test_the_comparison_gives_the_published_value():
    """Penicillin in rabbits: A. Agresti, Categorical Data Analysis (1990), p. 231; R's mantelhaen.test documents it."""
    at_once = [(0, 6), (3, 3), (6, 0), (5, 1), (2, 0)]
    delayed = [(0, 5), (0, 6), (2, 4), (6, 0), (5, 0)]

    strata = [
        (Count(cured, cured + died), Count(now, now + lost))
        for (cured, died), (now, lost) in zip(delayed, at_once, strict=True)
    ]

    assert round(compare(strata).differs, 5) == 0.03994


def test_one_attempt_on_each_side_is_the_exact_mcnemar_test():
    lost, won, same = 9, 2, 14
    yes, no = Count(1, 1), Count(0, 1)

    test = compare([(yes, no)] * lost + [(no, yes)] * won + [(yes, yes)] * same + [(no, no)] * same)

    assert test.differs == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert test.worse == pytest.approx(stats.binomtest(won, won + lost, alternative="less").pvalue)
    assert test.better == pytest.approx(stats.binomtest(won, won + lost, alternative="greater").pvalue)


def test_one_stratum_is_fishers_exact_test():
    for before, now in [(Count(3, 3), Count(0, 3)), (Count(5, 6), Count(1, 4)), (Count(2, 9), Count(6, 7))]:
        table = [
            [now.passed, now.decided - now.passed],
            [before.passed, before.decided - before.passed],
        ]
        test = compare([(before, now)])
        assert test.differs == pytest.approx(stats.fisher_exact(table).pvalue)
        assert test.worse == pytest.approx(stats.fisher_exact(table, alternative="less").pvalue)


def test_it_is_exact_over_every_way_to_deal_out_the_passes():
    """By hand: each stratum's attempts are dealt to the two sides in every way."""
    strata = [(Count(2, 3), Count(1, 2)), (Count(1, 1), Count(0, 3)), (Count(2, 2), Count(2, 3))]
    seen = sum(now.passed for _, now in strata)
    dealt = []
    for before, now in strata:
        passes = before.passed + now.passed
        attempts = [1] * passes + [0] * (before.decided + now.decided - passes)
        dealt.append(
            [
                sum(attempts[i] for i in chosen)
                for chosen in itertools.combinations(range(len(attempts)), now.decided)
            ]
        )
    sums = [sum(one) for one in itertools.product(*dealt)]

    assert compare(strata).worse == pytest.approx(sum(one <= seen for one in sums) / len(sums))
    assert compare(strata).better == pytest.approx(sum(one >= seen for one in sums) / len(sums))


def test_nothing_to_tell_apart_is_chance():
    test = compare([(Count(3, 3), Count(3, 3)), (Count(0, 1), Count(0, 5))])

    assert (test.worse, test.better, test.differs) == (1, 1, 1)


def test_it_cries_wolf_no_more_often_than_its_level():
    dice = random.Random(7)
    rates = [dice.choice([0.2, 0.5, 0.8, 0.95, 1.0]) for _ in range(20)]

    def tried(rate):
        return Count(sum(dice.random() < rate for _ in range(3)), 3)

    alarms = sum(compare([(tried(rate), tried(rate)) for rate in rates]).worse <= 0.05 for _ in range(300))

    # At most 5 % in truth; 27 of 300 or more would be seen once in five hundred times.
    assert alarms < 27


def test_holm_gives_the_adjustment_of_r():
    # p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm")
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([]) == []
