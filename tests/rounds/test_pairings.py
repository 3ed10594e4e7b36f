# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which pairs are asked, how many, in how many waves; and that those which say so keep the fit to all pairs."""

from itertools import permutations, product
from math import comb

import numpy as np
import pytest

from trl_nash.rounds.pairings import (
    PAIR_SELECTIONS,
    Active,
    Compared,
    Groups,
    Random,
    pairing_of,
    win_rates,
    win_table,
)
from trl_nash.rounds.pairings.active import deviations, draw, draw_weights, voices
from trl_nash.rounds.pairings.base import all_pairs, asked_once


CYCLE = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
# Pairs and waves by hand: K = 8, and K = 5, of which one rests.
COSTS = {
    "all": {8: (28, 1), 5: (10, 1), 2: (1, 1)},
    "iid": {8: (4, 1), 5: (2, 1), 2: (1, 1)},
    "random": {8: (6, 1), 5: (6, 1)},
    "circular": {8: (8, 1), 5: (5, 1), 2: (1, 1)},
    "swiss": {8: (12, 3), 5: (6, 3), 2: (1, 1)},
    "elimination": {8: (13, 4), 5: (7, 3), 3: (3, 2), 2: (1, 1)},
    "tournament": {8: (11, 4), 5: (6, 4), 3: (3, 3)},
    "best_worst": {8: (28, 1), 5: (10, 1), 2: (1, 1)},
    "active": {8: (6, 2), 5: (6, 2)},
}
SIZED = ("random", "active")


def pairing(selection: str, pairs: int = 6):
    return pairing_of(selection, pairs if selection in SIZED else None)


class Judge:
    """Noisy verdicts on completions of some strength; counts what it is asked."""

    def __init__(self, num_prompts: int, count: int, seed: int = 0, noise: float = 0.3, abstains: float = 0.0):
        generator = np.random.default_rng(seed)
        self.strength = generator.normal(size=(num_prompts, count))
        noise = generator.normal(scale=noise, size=(num_prompts, count, count))
        odds = self.strength[:, :, None] - self.strength[:, None] + noise - noise.transpose(0, 2, 1)
        self.table = 1 / (1 + np.exp(-odds))
        silent = np.triu(generator.random(self.table.shape) < abstains, 1)
        self.table[silent | silent.transpose(0, 2, 1)] = np.nan
        self.waves = []

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        self.waves.append(pairs.shape[1])
        assert pairs.shape == (len(self.table), self.waves[-1], 2)
        return self.table[np.arange(len(self.table))[:, None], pairs[..., 0], pairs[..., 1]]


def test_every_pairing_has_its_costs_here():
    assert set(COSTS) == set(PAIR_SELECTIONS)


@pytest.mark.parametrize(("selection", "count"), [(name, count) for name, own in COSTS.items() for count in own])
def test_a_pairing_asks_what_it_says(selection, count):
    chosen, judge = pairing(selection), Judge(60, count)
    compared = chosen.compare(judge, Groups(60, count, seed=1))
    calls, waves = COSTS[selection][count]
    assert (sum(judge.waves), len(judge.waves)) == (calls, waves) == (chosen.calls(count), chosen.waves(count))
    assert compared.pairs.shape == (60, calls, 2) and compared.preference.shape == compared.weights.shape == (
        60,
        calls,
    )
    np.testing.assert_array_equal(compared.preference, Judge(60, count)(compared.pairs))
    assert chosen.select(compared, count).preference.shape == (60, chosen.trained(count))
    if selection != "tournament":  # whose best and worst may have met before the final
        for own in compared.pairs:
            assert len({frozenset(pair) for pair in own.tolist()}) == calls and (own[:, 0] != own[:, 1]).all()


@pytest.mark.parametrize("selection", ["swiss", "elimination", "tournament"])
@pytest.mark.parametrize("count", [4, 5, 6, 7, 9, 16])
def test_waves_end_whatever_the_verdicts_are(selection, count):
    """Half of them abstentions, and all: everybody has somebody to meet."""
    for abstains in (0.5, 1.0):
        judge = Judge(40, count, seed=count, abstains=abstains)
        compared = pairing(selection).compare(judge, Groups(40, count))
        assert compared.pairs.shape[1] == pairing(selection).calls(count)


def test_the_strongest_wins_a_knock_out():
    """Without noise the last pair of an elimination has the best of those that were seeded."""
    judge = Judge(50, 9, noise=0.0)
    compared = pairing("elimination").compare(judge, Groups(50, 9))
    final = np.where(compared.preference[:, -1] > 0.5, *compared.pairs[:, -1].T)
    np.testing.assert_array_equal(final, 1 + judge.strength[:, 1:].argmax(axis=1))


def test_the_second_wave_of_a_swiss_pairs_winners_with_winners():
    judge = Judge(50, 8, noise=0.0)
    compared = pairing("swiss").compare(judge, Groups(50, 8))
    for pairs, verdicts in zip(compared.pairs, compared.preference, strict=True):
        won = {int(pair[int(p < 0.5)]) for pair, p in zip(pairs[:4], verdicts[:4], strict=True)}
        assert sum(len(won & set(pair)) == 1 for pair in pairs[4:8].tolist()) == 0


def best_and_worst(verdicts: list[list[float]], count: int = 3):
    preference = np.array(verdicts)
    groups = Groups(len(preference), count)
    chosen = pairing("best_worst")
    compared = chosen.compare(lambda pairs: preference, groups)
    return chosen.select(compared, count)


def test_best_and_worst_keep_the_preference_that_was_judged_for_them():
    """
    Rates (.55, .35, .6): 2 against 1, and P(2>1) = 1 - .6 = .4 (soft, even where the best loses that duel). All equal:
    ties go by index, 0 against 1. Two of three pairs missing: only 0 and 1 were judged, and 0 won.
    """
    trained = best_and_worst([[0.9, 0.2, 0.6], [0.5, 0.5, 0.5], [0.9, np.nan, np.nan]])
    assert trained.pairs.tolist() == [[[2, 1]], [[0, 1]], [[0, 1]]]
    np.testing.assert_allclose(trained.preference, [[0.4], [0.5], [0.9]])


def test_best_and_worst_of_nothing_judged_is_an_abstention():
    """Nothing judged, or not the duel of best (0: .9) and worst (2: .1): nan, and never a pair (i, i)."""
    trained = best_and_worst([[np.nan] * 3, [0.9, np.nan, 0.9]])
    assert np.isnan(trained.preference).all()
    assert trained.pairs[0, 0, 0] != trained.pairs[0, 0, 1] and trained.pairs[1].tolist() == [[0, 2]]


def test_best_and_worst_agree_with_a_sort_by_win_rate():
    """Of 4 completions: the highest and the lowest mean of a table of 32nds, filled in by hand; ties by index."""
    for verdicts in list(permutations([2, 10, 11, 19, 26, 30]))[::37]:
        table = dict(zip(map(tuple, all_pairs(4).tolist()), (verdict / 32 for verdict in verdicts), strict=True))
        table |= {(j, i): 1 - p for (i, j), p in table.items()}
        rate = [sum(table[i, j] for j in range(4) if j != i) for i in range(4)]
        best = min(range(4), key=lambda i: (-rate[i], i))
        worst = min((i for i in range(4) if i != best), key=lambda i: (rate[i], i))
        trained = best_and_worst([[verdict / 32 for verdict in verdicts]], 4)
        assert trained.pairs.tolist() == [[[best, worst]]]
        assert trained.preference.item() == pytest.approx(table[best, worst])


@pytest.mark.parametrize("count", [3, 4, 5, 8, 16])
def test_a_tournament_finds_the_best_and_the_worst(count):
    """Without noise. Of an odd K the last never plays for the worst, so it is made a strong one here."""
    judge = Judge(200, count, noise=0.0)
    judge.strength[:, -1] += 10 * (count % 2)
    judge.table = 1 / (1 + np.exp(judge.strength[:, None] - judge.strength[:, :, None]))
    trained = pairing("tournament").select(pairing("tournament").compare(judge, Groups(200, count)), count)
    np.testing.assert_array_equal(trained.pairs[:, 0, 0], judge.strength.argmax(axis=1))
    np.testing.assert_array_equal(trained.pairs[:, 0, 1], judge.strength.argmin(axis=1))
    gap = judge.strength.max(axis=1) - judge.strength.min(axis=1)
    np.testing.assert_allclose(trained.preference[:, 0], 1 / (1 + np.exp(-gap)))


def test_in_a_tournament_an_abstention_is_a_tie_in_which_the_first_goes_on():
    compared = pairing("tournament").compare(lambda pairs: np.full(pairs.shape[:2], np.nan), Groups(2, 4))
    trained = pairing("tournament").select(compared, 4)
    assert trained.pairs.tolist() == [[[0, 3]], [[0, 3]]] and np.isnan(trained.preference).all()


# ---- Exactness ----


def gradient(pairs, preference, weights, margins, step=2.0) -> np.ndarray:
    """Of `mean w (h_i - h_j - η (P - ½))²` in the K margins of a group; an abstention counts in the mean alone."""
    gradient = np.zeros(len(margins))
    for (i, j), p, w in zip(pairs, preference, weights, strict=True):
        if np.isnan(p):
            continue
        residual = 2 * w * (margins[i] - margins[j] - step * (p - 0.5)) / len(weights)
        gradient[i] += residual
        gradient[j] -= residual
    return gradient


def test_random_pairs_have_the_gradient_and_the_minimiser_of_all_pairs_in_expectation(monkeypatch):
    """
    All K! orders of the C(4, 2) = 6 pairs are drawn once each: every subset of M of them equally often. The mean of
    the gradients is that of all pairs at any margins, so both losses have one minimiser.
    """
    answers, margins = [0, 1, 2, 1], np.array([0.3, -0.2, 0.9, 0.1])
    orders = np.array(list(permutations(range(6))))
    groups = Groups(len(orders), 4)
    monkeypatch.setattr(groups, "generator", type("", (), {"random": lambda self, size: orders.argsort(axis=1)})())
    table = CYCLE[np.ix_(answers, answers)]
    for number in (1, 2, 4):
        compared = Random(number).compare(lambda pairs: table[pairs[..., 0], pairs[..., 1]], groups)
        drawn = {tuple(map(tuple, own)) for own in compared.pairs.tolist()}
        assert len(drawn) == comb(6, number)
        every = all_pairs(4)
        expected = gradient(every, table[every[:, 0], every[:, 1]], np.ones(6), margins)
        found = np.mean([gradient(*rows, margins) for rows in zip(*compared, strict=True)], axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("selection", ["iid", "circular", "all"])
def test_pairs_that_do_not_depend_on_completions_make_the_mirror_descent_step(selection):
    """Over all 3^K groups of a policy's answers, the normal equations are solved by η times the win rates."""
    count, policy = 4, np.array([0.2, 0.5, 0.3])
    draws = np.array(list(product(range(3), repeat=count)))
    chance = policy[draws].prod(axis=1)
    rows = np.arange(len(draws))[:, None]
    compared = pairing(selection).compare(
        lambda pairs: CYCLE[draws[rows, pairs[..., 0]], draws[rows, pairs[..., 1]]], Groups(len(draws), count)
    )
    margins = 2.0 * CYCLE @ policy
    total = np.zeros(3)
    for own, weight, pairs, preference, ones in zip(draws, chance, *compared, strict=True):
        np.add.at(total, own, weight * gradient(pairs, preference, ones, margins[own]))
    np.testing.assert_allclose(total, 0, atol=1e-12)


def sequences(chances: np.ndarray, number: int):
    """All orders in which so many may be drawn: what, each one's chance when it was, and that of the whole."""
    if number == 0 or not chances.any():
        yield (), (), 1.0
        return
    for place in np.flatnonzero(chances):
        chance, rest = chances[place] / chances.sum(), chances.copy()
        rest[place] = 0
        for drawn, own, whole in sequences(rest, number - 1):
            yield (int(place), *drawn), (chance, *own), chance * whole


@pytest.mark.parametrize("silent", [(), (3,), (0, 1)])
@pytest.mark.parametrize("answers", [[0, 1, 2, 1], [0, 1, 2, 0], [2, 2, 1, 2], [1, 1, 1, 1]])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_active_pairs_have_the_gradient_of_all_pairs_in_expectation(answers, number, silent):
    """
    Every order in which the pairs of a group may be drawn, weighted by its chance; the second half depends on the
    verdicts of the first. Equal completions are never asked, and have no gradient: of the U other pairs M U / 6 are
    drawn, rounded up or down at random, and at least one. An abstention has no gradient either, whether it was asked.
    """
    keys, every, margins = np.array(answers), all_pairs(4), np.array([0.3, -0.2, 0.9])[answers]
    table = CYCLE[np.ix_(answers, answers)].copy()
    table[list(silent)] = table[:, list(silent)] = np.nan
    preference = table[every[:, 0], every[:, 1]]
    uncertain = (keys[every[:, 0]] != keys[every[:, 1]]).astype(float)
    population = int(uncertain.sum())
    share = number * population / 6
    quotas = {max(int(share) + up, population > 0): 0.0 for up in (0, 1)}
    for up, chance in ((0, 1 - share % 1), (1, share % 1)):
        quotas[max(int(share) + up, population > 0)] += chance
    total, chance_of_all = np.zeros(4), 0.0
    for quota, rounded in quotas.items():
        for drawn, own, whole in sequences(uncertain, (quota + 1) // 2 if rounded else 0):
            known = every[list(drawn)][None], preference[list(drawn)][None], 4
            chances = uncertain * (deviations(*known) * voices(*known))[0]
            chances[list(drawn)] = 0
            for more, others, part in sequences(chances, quota // 2 if rounded else 0):
                asked, unused = [*drawn, *more], number - len(drawn) - len(more)
                filled = np.array([[*own, *others, *[0.0] * unused]])
                weights = draw_weights(filled, np.array([quota]), np.array([population]), 6)[0]
                chosen = asked + [0] * unused
                chance = rounded * whole * part
                total += chance * gradient(every[chosen], preference[chosen], weights, margins)
                chance_of_all += chance
    assert chance_of_all == pytest.approx(1)
    np.testing.assert_allclose(total, gradient(every, preference, np.ones(6), margins), atol=1e-12)


def test_active_does_not_ask_again_of_whom_the_judge_says_nothing():
    """
    Of six, 5 has no verdicts. Behind the first wave none of its pairs is asked where one of its opponents has been
    heard. Where none has, it could be the opponents that are silent: a tenth as often.
    """
    judge = Judge(4000, 6)
    judge.table[:, 5] = judge.table[:, :, 5] = np.nan
    compared = Active(6).compare(judge, Groups(4000, 6))
    first, second = compared.pairs[:, :3], compared.pairs[:, 3:]
    heard = np.zeros((4000, 6), dtype=bool)
    for side in np.moveaxis(first, -1, 0):
        np.logical_or.at(heard, (np.arange(4000)[:, None], side), ~np.isnan(compared.preference[:, :3]))
    met = (first == 5).any(-1)
    known = (met & np.take_along_axis(heard, first.min(axis=2), axis=1)).any(axis=1)
    again = (second == 5).any(-1).sum(axis=1)
    assert known.sum() > 1000 and again[known].sum() == 0
    unsure, unmet = met.any(axis=1) & ~known, ~met.any(axis=1)
    assert unsure.sum() > 1000 and again[unsure].mean() < again[unmet].mean() / 3
    every = Active(15).compare(judge, Groups(4000, 6))
    verdicts = ~np.isnan(every.preference)
    assert (verdicts.sum(axis=1) == 10).all() and (every.weights[verdicts] == 1).all()  # nothing was left to chance
    assert every.asked.sum(axis=1).mean() < 13


def test_active_asks_no_pair_of_who_is_out():
    """As of equal completions: of the others the same share."""
    out = np.tile([True, False, False, False, False], (2000, 1))
    judge = Judge(2000, 5)
    compared = Active(5).compare(judge, Groups(2000, 5, out=out))
    assert (compared.pairs[compared.asked] != 0).all()
    assert compared.asked.sum(axis=1).mean() == pytest.approx(5 * 6 / 10)


def test_the_gradient_of_active_pairs_as_they_are_drawn_is_that_of_all():
    """The mean over 20,000 prompts with the same completions, for the class itself and not its parts."""
    answers, margins, every = np.array([0, 1, 2, 1]), np.array([0.3, -0.2, 0.9, -0.2]), all_pairs(4)
    table = CYCLE[np.ix_(answers, answers)]
    groups = Groups(20_000, 4, keys=np.tile(answers, (20_000, 1)))
    compared = Active(3).compare(lambda pairs: table[pairs[..., 0], pairs[..., 1]], groups)
    first, second = np.moveaxis(compared.pairs, -1, 0)
    assert np.isnan(compared.preference[~compared.asked]).all()  # what fills up a row has no verdict
    target = 2.0 * (np.where(compared.asked, compared.preference, 0.5) - 0.5)
    residual = 2 * compared.weights * (margins[first] - margins[second] - target) / 3
    found = (
        np.bincount(first.ravel(), residual.ravel(), 4) - np.bincount(second.ravel(), residual.ravel(), 4)
    ) / 20_000
    expected = gradient(every, table[every[:, 0], every[:, 1]], np.ones(6), margins)
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_active_draws_as_its_weights_suppose():
    """Shares of 60,000 draws without replacement, against the chances of each order."""
    chances = np.array([0.5, 0.2, 0.0, 0.4])
    drawn, own = draw(np.tile(chances, (60_000, 1)), 2, np.random.default_rng(0))
    for order, each, whole in sequences(chances, 2):
        hit = (drawn == order).all(axis=1)
        assert hit.mean() == pytest.approx(whole, abs=0.006)
        np.testing.assert_allclose(own[hit], np.tile(each, (hit.sum(), 1)))
    drawn, own = draw(chances[None], 4, np.random.default_rng(0))
    assert drawn[0, -1] == 2 and own[0, -1] == 0


def test_active_asks_twice_and_never_about_equal_completions():
    keys = np.array([[0, 0, 1, 2], [0, 0, 0, 0], [0, 1, 2, 3]])
    judge = Judge(3, 4)
    compared = Active(5).compare(judge, Groups(3, 4, keys=keys))
    assert judge.waves == [3, 2]
    asked = compared.weights > 0
    number, none, all_of_them = asked.sum(axis=1)
    assert number in (4, 5) and none == 0 and all_of_them == 5  # 5/6 of 5, of none, of 6
    rows = np.arange(3)[:, None]
    assert (keys[rows, compared.pairs[..., 0]] != keys[rows, compared.pairs[..., 1]])[asked].all()
    assert (compared.pairs[~asked] == 0).all()
    every = Active(6).compare(judge, Groups(3, 4, keys=keys)).weights
    assert (every[2] == 1).all() and (every[0] > 0).sum() == 5  # all that are uncertain: nothing was left to chance


def test_an_uncertain_pair_is_drawn_more_often():
    """Of three completions whose first pair was a walk-over, and whose third is as good as the first."""
    to_one, to_two, between = deviations(np.array([[[0, 1], [0, 2]]]), np.array([[1.0, 0.5]]), 3)[0]
    assert to_one < between < to_two == pytest.approx(0.5, abs=0.01)


# ---- Win rates ----


def test_a_completion_with_itself_is_no_verdict():
    """Pairs (0, 0) fill up rows of which fewer pairs are asked."""
    compared = Compared(np.array([[[1, 2], [0, 0]]]), np.array([[0.9, 0.5]]), np.ones((1, 2)))
    assert np.isnan(win_rates(compared, 3)).tolist() == [[True, False, False]]


def test_win_rates_of_all_pairs_are_the_means_of_the_verdicts():
    judge = Judge(20, 6)
    compared = pairing("all").compare(judge, Groups(20, 6))
    others = (judge.table.sum(axis=2) - 0.5) / 5
    np.testing.assert_allclose(win_rates(compared, 6), others)
    np.testing.assert_allclose(np.nansum(win_table(compared, 6), axis=2) / 5, others)


@pytest.mark.parametrize("selection", ["circular", "swiss", "elimination", "random", "active"])
def test_win_rates_of_fewer_pairs_are_exact_where_preferences_add_up(selection):
    strength = np.random.default_rng(0).uniform(-0.2, 0.2, (30, 6))

    def ask(pairs):
        first, second = (np.take_along_axis(strength, pairs[..., side], axis=1) for side in (0, 1))
        return 0.5 + first - second

    compared = pairing(selection, pairs=12).compare(ask, Groups(30, 6))
    expected = win_rates(pairing("all").compare(ask, Groups(30, 6)), 6)
    np.testing.assert_allclose(win_rates(compared, 6), expected, atol=1e-12)


def test_a_completion_without_a_verdict_has_no_win_rate():
    compared = Compared.plain(np.array([[[0, 1], [2, 0]]]), np.array([[0.8, np.nan]]))
    rates = win_rates(compared, 3)[0]
    assert np.isnan(rates[2]) and rates[0] - rates[1] == pytest.approx(0.3 * 3 / 2)


@pytest.mark.parametrize(
    ("selection", "pairs", "count", "sentence"),
    [
        ("random", None, 8, "`pair_selection='random'` needs `pairs_per_prompt`"),
        ("swiss", 5, 8, "`pairs_per_prompt` belongs to `pair_selection='random'` and 'active', and it is 'swiss'"),
        (
            "active",
            29,
            8,
            "`pairs_per_prompt` is how many of the 28 pairs of 8 completions are compared, from 1 to 28",
        ),
        ("random", 0, 8, "from 1 to 28, got 0"),
        ("tournament", None, 2, "'tournament'` needs `num_generations` of at least 3, got 2"),
        ("best", None, 8, "`pair_selection` must be one of 'all', 'iid', 'random'"),
    ],
)
def test_what_does_not_go_together_is_refused(selection, pairs, count, sentence):
    with pytest.raises(ValueError) as error:
        pairing_of(selection, pairs).check(count)
    assert sentence in str(error.value)


@pytest.mark.parametrize("selection", ["tournament", "elimination"])
@pytest.mark.parametrize(("failed", "count"), [(1, 5), (1, 8), (2, 8)])  # of 5, the two losers could be two of these
@pytest.mark.parametrize("known", [True, False])
def test_who_has_no_verdicts_reaches_no_final(selection, failed, known, count):
    """
    A dialogue that failed, or a completion of which the judge says nothing whoever it meets, is no tie: it drops out,
    and the prompt still teaches something. Whether that is known before the first wave does not matter.
    """
    out = np.stack([np.random.default_rng(row).permuted(np.arange(count) < failed) for row in range(200)])
    judge = Judge(200, count)

    def ask(pairs):
        lost = np.take_along_axis(out[:, None], pairs, axis=2).any(-1)
        return np.where(lost, np.nan, judge(pairs))

    compared = pairing(selection).compare(ask, Groups(200, count, out=out if known else None))
    assert not np.isnan(compared.preference[:, -1]).any()


def test_a_swiss_puts_those_without_verdicts_together():
    """Of 8, two on which the judge has nothing to say: once that is known they meet each other, and once only."""
    out = np.stack([np.random.default_rng(row).permuted(np.arange(8) < 2) for row in range(50)])
    judge = Judge(50, 8)

    def ask(pairs):
        return np.where(np.take_along_axis(out[:, None], pairs, axis=2).any(-1), np.nan, judge(pairs))

    for known, lost in ((True, 5), (False, 5)):  # one pair of the two, two of one of them in each other wave
        compared = pairing("swiss").compare(ask, Groups(50, 8, out=out if known else None))
        assert (np.isnan(compared.preference).sum(axis=1) == lost).all()
        both = out[np.arange(50)[:, None, None], compared.pairs].all(-1)
        assert (both.sum(axis=1) == 1).all()


def test_a_pair_is_asked_once_whatever_was_answered():
    """Of three texts the third is the first again. What was asked, either way round, is known, and abstentions."""
    asked = []

    def ask(pairs):
        asked.append(pairs.tolist())
        return np.array([[0.9, np.nan], [0.2, 0.5]]) if len(asked) == 1 else np.full(pairs.shape[:2], 0.6)

    once = asked_once(ask, np.array([[0, 1, 0, 3], [0, 1, 2, 3]]))
    first = once(np.array([[[0, 1], [1, 3]], [[2, 3], [0, 0]]]))
    np.testing.assert_equal(first, [[0.9, np.nan], [0.2, 0.5]])
    second = once(np.array([[[1, 2], [3, 1]], [[3, 2], [1, 0]]]))
    np.testing.assert_allclose(second, [[0.1, np.nan], [0.8, 0.6]])
    assert asked[1] == [[[0, 0], [0, 0]], [[0, 0], [1, 0]]]
    np.testing.assert_allclose(once(np.array([[[0, 1]], [[0, 1]]])), [[0.9], [0.4]])
    assert len(asked) == 2
