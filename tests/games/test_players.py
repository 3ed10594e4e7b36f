# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The trainers on language games: what is read and logged, and where they arrive."""

import numpy as np
import pytest
from helpers import make_trainer
from peft import LoraConfig

from trl_nash.algorithms.stability import largest_stable_step
from trl_nash.algorithms.table import METHODS, bound, samplings
from trl_nash.games import GameCallback, LanguageGame, MatrixGame, load_game
from trl_nash.games.equilibria import regularized_equilibrium
from trl_nash.games.language import PROMPT, GameJudge
from trl_nash.games.players import PLAYERS, ROUND, WinRateReward, own_equilibrium, play
from trl_nash.games.stability import own_rates


CYCLE = load_game("comal-cycle")
START = [0.2, 0.5, 0.3]


def tail(values: list[float]) -> float:
    return float(np.mean(values[-max(len(values) // 5, 1) :]))


# ---- What is read ----


def test_callback_reads_before_training_and_after_every_round(tmp_path):
    game = LanguageGame(CYCLE)
    trainer = make_trainer(
        "comal",
        tmp_path,
        model=game.build_model(START),
        tokenizer=game.tokenizer,
        dataset=game.dataset(8),
        judge=game.judge,
        max_new_tokens=1,
        num_iterations=3,
        max_steps=12,
        logging_steps=3,
    )
    watch = GameCallback(game, trainer)
    trainer.add_callback(watch)
    trainer.train()
    assert watch.every == 3 and len(watch.policies) == len(watch.gaps) == 5
    assert watch.gaps == [game.duality_gap(policies) for policies in watch.policies]
    np.testing.assert_allclose(watch.policies[0][PROMPT][:3], START, atol=5e-3)
    np.testing.assert_array_equal(watch.policies[-1][PROMPT], game.policies(trainer.model)[PROMPT])
    logged = [entry for entry in trainer.state.log_history if "game/duality_gap" in entry]
    assert [entry["game/duality_gap"] for entry in logged] == watch.gaps
    assert [entry["game/kl_nash"] for entry in logged] == [game.kl_from(game.nash, p) for p in watch.policies]
    assert [entry["game/improper"] for entry in logged] == [p[PROMPT][-1] for p in watch.policies]
    # The trainer's own logs, due at the same steps, are still written.
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [3, 6, 9, 12]


@pytest.mark.parametrize("algorithm", PLAYERS)
def test_every_player_plays(algorithm):
    seen = []
    watch = play(LanguageGame(CYCLE), algorithm, start=START, rounds=1, on_reading=lambda w: seen.append(len(w.gaps)))
    assert seen == [1, 2]
    assert watch.trainer.state.global_step == PLAYERS[algorithm].steps
    moved = np.abs(watch.policies[1][PROMPT] - watch.policies[0][PROMPT]).max()
    assert 1e-3 < moved < 0.5


def test_grpo_sees_as_many_answers_and_its_win_rates_are_those_in_a_group(monkeypatch):
    game, asked = LanguageGame(CYCLE), []
    ask = GameJudge.compare

    def compare(self, prompts, completions, pairs, **others):
        asked.append((len(prompts), {len(answers) for answers in completions}, len(pairs)))
        return ask(self, prompts, completions, pairs, **others)

    monkeypatch.setattr(GameJudge, "compare", compare)
    play(game, "grpo", start=START, rounds=2)
    assert asked == [(ROUND // 4, {4}, 6)] * 8  # a step on each quarter of a round


@pytest.mark.parametrize("algorithm", sorted(set(PLAYERS) & set(METHODS) - {"nash-md", "iterative-ipo"}))
def test_settings_are_stable_on_the_games_of_the_grid(algorithm):
    player = PLAYERS[algorithm]
    names = {"beta", "reference_rounds", "history_weights", "anchor_history"} & set(player.options)
    step_size, settings = player.options["step_size"], {name: player.options[name] for name in names}
    assert player.samplings == samplings(bound(algorithm, step_size=step_size, **settings))
    for start in (START, [0.2, 0.6, 0.2]):
        rates = own_rates(algorithm, CYCLE, step_size, settings.get("beta", 0.0), start)
        assert step_size < 0.8 * largest_stable_step(algorithm, kappa=rates, **settings)


def test_win_rate_reward_is_the_mean_preference_within_the_batch():
    game = LanguageGame({"one": CYCLE, "two": load_game("bradley-terry")})
    prompts, answers = ["one", "two", "one", "one"], ["a", "b", "b", "nothing"]
    P = CYCLE.preferences
    expected = [(0.5 + P[0, 1] + 1) / 3, 0.5, (P[1, 0] + 0.5 + 1) / 3, 0.5 / 3]
    assert WinRateReward(game)(prompts, answers) == pytest.approx(expected)


def test_own_equilibria():
    game, starts = LanguageGame({"one": CYCLE, "two": CYCLE}), {"one": START, "two": [0.5, 0.3, 0.2]}
    betas = {name: PLAYERS[name].options["beta"] for name in ("inpo", "egpo", "nash-mp", "mnpo")}
    betas["online-ipo"] = 1 / PLAYERS["online-ipo"].options["step_size"]
    for algorithm, beta in betas.items():
        for prompt, policy in own_equilibrium(game, algorithm, starts).items():
            expected = regularized_equilibrium(CYCLE, starts[prompt], beta).policy
            np.testing.assert_allclose(policy, expected, atol=1e-9)
    # Nash-MD's fixed point answers its own mixture: π ∝ μ exp(P(· ≻ mix)/τ).
    game = LanguageGame(CYCLE, tokens_per_answer=2)
    options = PLAYERS["nash-md"].options
    policy = own_equilibrium(game, "nash-md", START)[PROMPT]
    mixture = game.token_mixture(policy, np.array(START), options["mixture_coef"])
    np.testing.assert_allclose(policy, CYCLE.regularized_best_response(mixture, START, options["beta"]), atol=1e-9)
    for algorithm in ("comal", "mpo", "onpo", "nash-prox", "iterative-ipo", "sppo", "online-dpo", "grpo"):
        assert own_equilibrium(game, algorithm, START) is None


# ---- Where they arrive: short runs; benchmarks/language_games.py is the full grid ----


@pytest.mark.slow
def test_comal_and_onpo_approach_the_equilibrium_and_iterative_ipo_leaves_it():
    game = LanguageGame(CYCLE)
    gaps = {name: play(game, name, start=START, rounds=40).gaps for name in ("comal", "onpo", "iterative-ipo")}
    assert gaps["comal"][0] == pytest.approx(0.28, abs=0.01)
    assert tail(gaps["comal"]) < 0.06
    assert tail(gaps["onpo"]) < 0.1
    assert tail(gaps["iterative-ipo"]) > 0.2


@pytest.mark.slow
def test_inpo_stays_at_its_regularised_equilibrium():
    game = LanguageGame(CYCLE)
    watch = play(game, "inpo", start=START, rounds=40)
    target = own_equilibrium(game, "inpo", START)
    expected = game.duality_gap({PROMPT: np.append(target[PROMPT], 0)})
    assert tail([game.kl_from(target, policies) for policies in watch.policies]) < 0.02
    assert tail(watch.gaps) == pytest.approx(expected, abs=0.02)
    assert expected > 0.05


@pytest.mark.parametrize(
    ("algorithm", "rounds"),
    [
        ("mnpo", 15),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("egpo", 8), ("nash-mp", 8), ("online-ipo", 40))),
    ],
)
def test_these_arrive_at_their_own_equilibrium(algorithm, rounds):
    game = LanguageGame(CYCLE)
    watch, target = play(game, algorithm, start=START, rounds=rounds), own_equilibrium(game, algorithm, START)
    distances = [game.kl_from(target, policies) for policies in watch.policies]
    assert distances[0] > 0.05
    assert tail(distances) < (0.03 if algorithm == "online-ipo" else 0.015)  # which turns for long


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "rounds", "bound"), [("mpo", 40, 0.13), ("nash-prox", 40, 0.1)])
def test_these_approach_the_equilibrium_as_their_reference_moves(algorithm, rounds, bound):
    watch = play(LanguageGame(CYCLE), algorithm, start=START, rounds=rounds)
    assert tail(watch.gaps) < bound < watch.gaps[0] / 2


@pytest.mark.parametrize("algorithm", ["sppo", "grpo"])
def test_these_leave_the_equilibrium(algorithm):
    assert tail(play(LanguageGame(CYCLE), algorithm, start=START, rounds=15).gaps) > 0.35


@pytest.mark.slow
def test_nash_md_reaches_its_fixed_point_with_lora_and_answers_of_two_tokens():
    game = LanguageGame(CYCLE, tokens_per_answer=2)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    watch = play(game, "nash-md", start=START, rounds=40, peft_config=lora, learning_rate=1e-2)
    target = own_equilibrium(game, "nash-md", START)
    assert tail([game.kl_from(target, policies) for policies in watch.policies]) < 0.05
    assert game.kl_from(target, watch.policies[0]) > 0.05


@pytest.mark.slow
def test_nash_md_plays_two_games_at_once():
    turned = MatrixGame(CYCLE.preferences[np.ix_([1, 2, 0], [1, 2, 0])])
    game = LanguageGame({"choose one": CYCLE, "choose two": turned})
    starts = {"choose one": START, "choose two": [0.2, 0.6, 0.2]}
    watch = play(game, "nash-md", start=starts, rounds=25)
    target = own_equilibrium(game, "nash-md", starts)
    assert tail([game.kl_from(target, policies) for policies in watch.policies]) < 0.05
    assert game.kl_from(target, watch.policies[0]) > 0.05
    assert np.abs(target["choose one"] - target["choose two"]).max() > 0.1
