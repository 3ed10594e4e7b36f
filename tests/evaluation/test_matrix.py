# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Win-rate matrices: compared with simulated games whose win rates are known, closed forms and alpaca-eval's model."""

import numpy as np
import pytest
from scipy.stats import binom

from trl_nash.evaluation import WinRateMatrix
from trl_nash.evaluation.scores import at_equal_lengths, bradley_terry, equilibrium, exploitability


CYCLE = np.array([[0.5, 0.8, 0.3], [0.2, 0.5, 0.9], [0.7, 0.1, 0.5]])


def of_rates(rates, prompts=4, **kwargs) -> WinRateMatrix:
    return WinRateMatrix(
        [f"p{i}" for i in range(len(rates))], np.repeat(np.asarray(rates)[None], prompts, 0), **kwargs
    )


def games(generator: np.random.Generator, count: int, answers: int = 4) -> np.ndarray:
    """Preferences between answers, another game for each prompt."""
    upper = generator.beta(0.6, 0.6, (count, answers, answers))
    p = np.triu(upper, 1)
    return p + np.tril(1 - p.transpose(0, 2, 1), -1) + 0.5 * np.eye(answers)


def judged(generator: np.random.Generator, pool: np.ndarray, policies: np.ndarray, prompts: int) -> np.ndarray:
    """Soft verdicts on one sampled answer a policy, for prompts drawn from `pool`."""
    drawn = generator.integers(len(pool), size=prompts)
    answers = np.array([generator.choice(policies.shape[1], size=prompts, p=policy) for policy in policies]).T
    return pool[drawn[:, None, None], answers[:, :, None], answers[:, None, :]]


@pytest.mark.parametrize("prompts", [24, 100])
def test_intervals_cover_the_truth(prompts):
    """Of 200 runs with six pairs of policies each: 93 % at least, and not all, since wide enough is easy."""
    generator = np.random.default_rng(prompts)
    pool = games(generator, 400)
    policies = generator.dirichlet(np.ones(4), 4)
    truth = policies @ pool.mean(0) @ policies.T
    above = np.triu_indices(4, 1)
    covered = []
    for run in range(200):
        matrix = WinRateMatrix("abcd", judged(generator, pool, policies, prompts), resamples=400, seed=run)
        found = matrix.estimate()
        covered.append(((found.low <= truth) & (truth <= found.high))[above])
    assert 0.93 <= np.mean(covered) <= 0.985


def test_means_are_those_of_what_was_judged():
    p = np.array([[[0.5, 0.2], [0.8, 0.5]], [[0.5, np.nan], [np.nan, 0.5]], [[0.5, 0.6], [0.4, 0.5]]])
    matrix = WinRateMatrix(["a", "b"], p)
    assert matrix.counts.tolist() == [[3, 2], [2, 3]]
    np.testing.assert_allclose(matrix.rates, [[0.5, 0.4], [0.6, 0.5]])
    found = matrix.estimate(lambda rates: rates[0, 1])
    assert found.low <= found.value <= found.high


def test_the_same_seed_is_the_same_interval():
    generator = np.random.default_rng(0)
    p = games(generator, 30)
    first, second, third = (WinRateMatrix("abcd", p, seed=seed).estimate() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.low, second.low)
    assert (first.low != third.low).any()


def test_the_equilibrium_of_a_cycle():
    """For a cycle with advantages .3, .4, .2 each policy has the weight of the edge across (`A p = 0`)."""
    np.testing.assert_allclose(of_rates(CYCLE).equilibrium(), np.array([0.4, 0.2, 0.3]) / 0.9, atol=1e-9)


def test_copies_share_their_weight():
    copied = CYCLE[np.ix_([0, 1, 2, 2], [0, 1, 2, 2])]
    np.testing.assert_allclose(of_rates(copied).equilibrium(), np.array([0.4, 0.2, 0.15, 0.15]) / 0.9, atol=1e-6)


def test_a_dominating_policy_has_all_the_weight_and_loses_to_nobody():
    rates = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 0.9], [0.3, 0.1, 0.5]])
    np.testing.assert_allclose(equilibrium(rates), [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(exploitability(rates), [0, 0.1, 0.4])


def test_scores_are_those_that_made_the_win_rates():
    scores = np.array([1.0, -0.25, 0.5, -1.25])
    found = of_rates(1 / (1 + np.exp(scores - scores[:, None]))).bradley_terry()
    np.testing.assert_allclose(found.scores, scores, atol=1e-8)
    assert np.abs(found.residual).max() < 1e-9


def test_a_cycle_is_what_scores_cannot_fit():
    found = of_rates(np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]))
    np.testing.assert_allclose(found.bradley_terry().scores, 0, atol=1e-9)
    np.testing.assert_allclose(np.abs(found.bradley_terry().residual).max(), 0.3)
    [cycle] = found.cycles()
    assert cycle.policies in {("p0", "p1", "p2"), ("p1", "p2", "p0"), ("p2", "p0", "p1")}
    assert cycle.strength == pytest.approx(0.3)
    assert of_rates(1 - np.array(found.rates)).cycles()[0].policies == ("p2", "p1", "p0")


def test_policies_that_always_win_have_finite_scores():
    scores = bradley_terry(np.array([[0.5, 1.0], [0.0, 0.5]]))
    assert np.isfinite(scores).all() and scores[0] - scores[1] == pytest.approx(np.log(1e6), rel=1e-3)


def length_case(seed: int, count: int, theta: float, phi: float):
    generator = np.random.default_rng(seed)
    first = generator.integers(20, 400, count)
    second = (first * generator.uniform(0.5, 2.5, count)).astype(int)
    x = np.tanh((first - second) / np.std(first - second, ddof=1))
    p = 1 / (1 + np.exp(-(theta + phi * x + generator.normal(0, 0.7, count))))
    return np.stack([first, second], 1), p.round(3)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((0, 120, 0.4, 1.2), 0.5562170557776405),
        ((1, 60, -0.3, 2.0), 0.41748877333664064),
        ((2, 300, 0.0, 0.5), 0.48443052088900174),
    ],
)
def test_length_controlled_win_rates_are_alpaca_evals(case, expected):
    """
    What alpaca-eval 0.6.6 finds with `length_controlled_minimal`, its model without the difficulty of instructions,
    which penalises weights a little (C of 21.5, by cross-validation): .4 points of a win rate here at most.
    """
    lengths, p = length_case(*case)
    preferences = np.full((len(p), 2, 2), 0.5)
    preferences[:, 0, 1], preferences[:, 1, 0] = p, 1 - p
    found = WinRateMatrix(["a", "b"], preferences, lengths).length_controlled()
    assert found[0, 1] == pytest.approx(expected, abs=0.004) and found[0, 1] + found[1, 0] == 1
    assert abs(found[0, 1] - p.mean()) > 0.02  # the correction is not nothing


@pytest.mark.parametrize("prompts", [5, 20, 100])
def test_verdicts_that_lengths_explain_say_nothing_of_equal_lengths(prompts):
    """The longer answer always wins: which policy is better is not known, and by no means certain."""
    longer = np.random.default_rng(prompts).normal(0, 50, prompts).round()
    found = at_equal_lengths((longer > 0).astype(float), longer)
    assert 0.2 < found < 0.8 and at_equal_lengths((longer < 0).astype(float), -longer) == pytest.approx(1 - found)
    assert at_equal_lengths(np.ones(prompts), longer) > 0.999


def test_equal_lengths_are_not_corrected():
    matrix = of_rates(CYCLE, lengths=np.full((4, 3), 7.0))
    np.testing.assert_allclose(matrix.length_controlled(), CYCLE)


def test_from_judgements():
    texts = {"first": "aa", "second": "b"}
    records = [
        {"row": 5, "first_index": 0, "second_index": 1, "preference": 0.9} | texts,
        {"row": 7, "first_index": 0, "second_index": 1, "preference": None} | texts,
        {"row": 9, "first_index": 0, "second_index": 1, "preference": 0.7} | texts,
    ]
    matrix = WinRateMatrix.from_judgements(["a", "b"], records)
    assert matrix.rates[0, 1] == pytest.approx(0.8) and matrix.counts[0, 1] == 2
    assert matrix.lengths.tolist() == [[2, 1]] * 3


def test_a_hole_is_named_and_shown():
    p = np.repeat(CYCLE[None], 3, 0)
    p[:, 0, 2] = p[:, 2, 0] = np.nan
    matrix = WinRateMatrix("abc", p)
    assert matrix.holes == [("a", "c")] and np.isnan(matrix.rates[0, 2])
    for ask in (matrix.equilibrium, matrix.exploitability, matrix.bradley_terry):
        with pytest.raises(ValueError, match="'a' and 'c' were never compared"):
            ask()


@pytest.mark.parametrize(
    ("names", "preferences", "message"),
    [
        (["a"], np.full((3, 1, 1), 0.5), "at least two policies, got 1"),
        (["a", "a"], np.full((3, 2, 2), 0.5), "more than one 'a'"),
        (["a", "b"], np.full((3, 3, 3), 0.5), r"shape \(prompts, 2, 2\)"),
        (["a", "b"], np.full((1, 2, 2), 0.5), "at least two are needed, got 1"),
        (["a", "b"], np.full((3, 2, 2), 1.5), "probabilities from 0 to 1"),
        (["a", "b"], np.full((3, 2, 2), 0.7), "must be 1"),
    ],
)
def test_what_is_no_matrix_is_a_sentence(names, preferences, message):
    with pytest.raises(ValueError, match=message):
        WinRateMatrix(names, preferences)


def test_hard_verdicts_near_one():
    """19 of 20: the interval is near that of the binomial distribution, and stays in [0, 1]."""
    wins = np.ones(20)
    wins[3] = 0
    p = np.full((20, 2, 2), 0.5)
    p[:, 0, 1], p[:, 1, 0] = wins, 1 - wins
    found = WinRateMatrix(["a", "b"], p, resamples=4000).estimate(lambda rates: rates[0, 1])
    exact = binom.ppf([0.02, 0.98], 20, 0.95) / 20
    assert found.low == pytest.approx(exact[0], abs=0.06) and found.high == 1


def hard(generator: np.random.Generator, truth: np.ndarray, prompts: int) -> np.ndarray:
    """Verdicts of 0 and 1 with these means."""
    above = np.triu((generator.random((prompts, *truth.shape)) < truth).astype(float), 1)
    return above + np.tril(1 - above.transpose(0, 2, 1), -1) + 0.5 * np.eye(len(truth))


@pytest.mark.parametrize("truth", [0.8, 0.97])
@pytest.mark.parametrize("prompts", [5, 20])
def test_prompts_that_all_say_the_same_are_not_certain(truth, prompts):
    """Half of such runs see one policy win everything, and no resample sees anything else."""
    generator, rates = np.random.default_rng(0), np.array([[0.5, truth], [1 - truth, 0.5]])
    found = [
        WinRateMatrix("ab", hard(generator, rates, prompts), resamples=400, seed=run).estimate(lambda r: r[0, 1])
        for run in range(200)
    ]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93
    always = of_rates([[0.5, 1.0], [0.0, 0.5]], prompts, resamples=4000).estimate(lambda rates: rates[0, 1])
    assert always.high == 1 and always.low < binom_limit(prompts) + 0.03


def binom_limit(prompts: int) -> float:
    """Clopper and Pearson's lower limit of a policy that has won on all prompts."""
    return 0.025 ** (1 / prompts)


@pytest.mark.parametrize(("ties", "prompts"), [(0.9, 20), (0.95, 20), (0.95, 48)])
def test_ties_say_no_more_of_other_prompts_than_other_verdicts(ties, prompts):
    """Where a judge nearly always says one half, as one does that looks at the place of an answer alone."""
    generator = np.random.default_rng(0)
    covered = []
    for run in range(200):
        p = np.full((prompts, 2, 2), 0.5)
        p[generator.random(prompts) > ties, 0, 1] = 1.0
        p[:, 1, 0] = 1 - p[:, 0, 1]
        found = WinRateMatrix("ab", p, resamples=200, seed=run).estimate()
        covered.append(found.low[0, 1] <= 1 - ties / 2 <= found.high[0, 1])
    assert np.mean(covered) >= 0.93


def test_one_verdict_says_nothing_of_other_prompts():
    """And pairs that few prompts have leave the intervals of the others as they are."""
    p = np.full((40, 4, 4), np.nan)
    p[:, 0, 1] = np.linspace(0.2, 0.8, 40)
    for pair, row in (((0, 2), 3), ((1, 2), 9), ((0, 3), 20), ((1, 3), 21), ((2, 3), 30)):
        p[row][pair] = 0.7
    p = np.where(np.isnan(p), 1 - p.transpose(0, 2, 1), p)
    found = WinRateMatrix("abcd", p).estimate()
    alone = WinRateMatrix("ab", p[:, :2, :2]).estimate()
    assert found.low[0, 1] == pytest.approx(alone.low[0, 1]) and found.low[0, 1] < 0.46
    assert found.low[0, 2] < 0.1 and found.high[0, 2] > 0.9 and found.value[0, 2] == 0.7


def test_what_scores_cannot_explain_is_no_chance():
    """Of scores that made the win rates nothing is left, whichever pair fits worst; of a circle nearly all is."""
    generator, scores = np.random.default_rng(0), np.linspace(-0.6, 0.6, 6)
    truth = 1 / (1 + np.exp(scores - scores[:, None]))
    runs = [WinRateMatrix("abcdef", hard(generator, truth, 40), resamples=200, seed=run) for run in range(40)]
    assert np.mean([run.unexplained().max() > 0 for run in runs]) <= 0.1
    assert np.mean([run.bradley_terry().residual.max() for run in runs]) > 0.05  # which looks like something
    circle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    found = WinRateMatrix("abc", hard(generator, circle, 100), resamples=200).unexplained()
    assert 0.25 < found.max() < 0.4


@pytest.mark.parametrize("policies", [3, 12])
def test_intervals_of_the_worst_win_rate_cover_the_truth(policies):
    """Where all are alike each loses to somebody by chance, and its exploitability is 0; and where they differ."""
    generator = np.random.default_rng(policies)
    scores = generator.normal(0, 0.5, policies)
    names = [str(place) for place in range(policies)]
    circle = np.where(np.eye(policies) > 0, 0.5, 0.4 + 0.2 * np.triu(np.ones((policies, policies))))
    circle[0, -1], circle[-1, 0] = circle[-1, 0], circle[0, -1]
    for truth in (np.full((policies, policies), 0.5), 1 / (1 + np.exp(scores - scores[:, None])), circle):
        covered, gaps, expected = [], [], exploitability(truth)
        for run in range(40):
            matrix = WinRateMatrix(names, hard(generator, truth, 48), resamples=200, seed=run)
            found, gap = matrix.estimate_exploitability(), matrix.estimate_duality_gap()
            covered.append((found.low <= expected + 1e-9) & (expected <= found.high + 1e-9))
            gaps.append(gap.low <= 2 * expected.min() + 1e-9 <= gap.high + 2e-9)
        assert np.mean(covered) >= 0.93 and np.mean(gaps) >= 0.93
    found = of_rates([[0.5, 0.9], [0.1, 0.5]], prompts=400).estimate_exploitability()
    np.testing.assert_allclose(found, [[0, 0.4]] * 3, atol=0.02)  # the same on all prompts
