# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a round's metrics say is wrong, and which option repairs it: a table, said once each."""

from collections.abc import Callable
from math import nan
from typing import NamedTuple

from .result import is_near


PATIENCE = 5, 20  # rounds, and optimizer steps behind the warm-up, after which a policy should have moved
OVERSHOT = -0.05  # R² below which a fit went too far
SHORT = 0.1  # share of the targets, and R², below which fits reach next to nothing
LOGP_GAP = 0.1  # nats a token, in the mean, by which what an engine samples from may differ from the policy
STILL_KL, STILL_R2 = 1e-3, 0.01  # nats a completion, and share of the targets, below which nothing has
# The R² of few held-out prompts is noisy. Where it is .6 in truth, as that of the trained ones, it is below half of it
# in 20 to 24 % of simulated rounds of 2 (K = 4), and the mean of as many rounds as have 32 in at most 4 % of runs.
MEMORISED_R2, GENERALISED, LEAST_HELD_OUT = 0.6, 0.5, 32


LEARNED_R2 = 0.4  # of a fit that reached its targets, on the texts that it was trained on


class Facts(dict):
    """Metrics of a round and some settings. What was not measured is nan, of which no comparison is true."""

    def __missing__(self, name: str) -> float:
        return nan


class Advice(NamedTuple):
    """`holds` says whether the sentence, which may name facts in braces, is to be said."""

    name: str
    holds: Callable[[Facts], bool]
    sentence: str


def _is_still(facts: Facts) -> bool:
    """Nothing that was measured has moved: a KL may be the noise of its estimate."""
    kl, error, r2 = abs(facts["policy/kl_reference"]), facts["policy/kl_reference_se"], facts["fit/r2_end"]
    has_moved = kl >= 10 * STILL_KL or (kl >= STILL_KL and not kl < 2 * error) or abs(r2) >= STILL_R2
    return not has_moved and (kl == kl or r2 == r2)


def _by_heart(facts: Facts) -> bool:
    """Fits reach their targets on the texts of their rounds, pass after pass, and the policy stays where it began."""
    has_had_time = facts["round"] >= PATIENCE[0] and facts["warm_steps"] >= PATIENCE[1] and facts["passes"] > 1
    stays = is_near(facts["policy/kl_reference"], facts["policy/kl_reference_se"])
    return has_had_time and facts["fit/r2_end"] >= LEARNED_R2 and stays


def reached(facts: dict[str, float]) -> float:
    """The share of their targets that margins have in the mean of a round's fits, in direction of the targets."""
    target = facts.get("fit/target", nan)
    return max(facts.get("fit/margin", nan) / target, 0.0) if target else nan


def fell_short(facts: Facts) -> bool:
    """
    Whether the fits of a round reached next to nothing of their targets, and the policy has not moved otherwise.

    Fits that are partial by intent, of many rounds, move it all the same, and others that went too far are not short.
    A fit of one step is measured before that step only, and says nothing.
    """
    kl = facts["policy/kl_reference"]
    has_moved = kl == kl and not is_near(kl, facts["policy/kl_reference_se"])
    is_short = OVERSHOT <= facts["fit/r2_end"] < SHORT and facts["reached"] < SHORT
    return facts["steps_per_fit"] > 1 and is_short and not has_moved


def _is_due(facts: Facts) -> bool:
    """Whether fits have had the time to reach something: two of them behind the warm-up, or all that there are."""
    return facts["is_last"] == 1 or (facts["round"] >= 2 and facts["warm_steps"] >= 2 * facts["steps_per_fit"])


def _memorises(facts: Facts) -> bool:
    trained, held_out = facts["held_out/r2_end"], facts["held_out/r2"]
    return trained >= MEMORISED_R2 and held_out < GENERALISED * trained


# Of two with one name the first that holds is said, and the other is not.
ADVICE = [
    Advice(
        "still",
        lambda f: _is_due(f) and fell_short(f),
        "The fits of round {round} reach {reached:.0%} of their targets, so the policy hardly moves: raise "
        "`learning_rate` ({learning_rate:g}; adapters need 1e-4 to 1e-3, all weights 1e-6 to 1e-5), or "
        "`num_iterations` ({passes}).",
    ),
    Advice(
        "still",
        lambda f: f["round"] >= PATIENCE[0] and f["warm_steps"] >= PATIENCE[1] and _is_still(f),
        "After {round} rounds the policy is still the one that it started from (KL {policy/kl_reference:.1g}, R² "
        "{fit/r2_end:.1g}). Raise `learning_rate`, which is {learning_rate:g} (adapters need 1e-4 to 1e-3, all "
        "weights 1e-6 to 1e-5), or make more steps a round.",
    ),
    Advice(
        "by heart",
        _by_heart,
        "The fit of round {round} has an R² of {fit/r2_end:.2f}, and yet the policy is the one that it started from "
        "(KL {policy/kl_reference:.1g}): what rounds learn of their own texts does not reach other prompts. Raise "
        "`step_size`, of which a small part does, or make rounds of more prompts (`generation_batch_size`).",
    ),
    Advice(
        "overshoot",
        lambda f: f["fit/r2_end"] < OVERSHOT and f["steps_per_fit"] > 1,
        "The fit of round {round} ended farther from its targets than it began (R² {fit/r2_end:.2f}), so its steps "
        "are too large. Lower `learning_rate` ({learning_rate:g}). A lower `step_size` does not help: it shortens the "
        "targets, and not the steps of AdamW.",
    ),
    Advice(
        "memorises",
        lambda f: f["passes"] > 1 and f["held_out/prompts"] >= LEAST_HELD_OUT and _memorises(f),
        "Fits up to round {round} come to an R² of {held_out/r2_end:.2f} on the prompts that they train on, and of "
        "{held_out/r2:.2f} on those that are held out: they memorise. Make rounds of more prompts "
        "(`generation_batch_size`) or fewer passes (`num_iterations`, {passes}), or lower `learning_rate` "
        "({learning_rate:g}).",
    ),
    Advice(
        "clipped",
        lambda f: f["completions/clipped_ratio"] > 0.5,
        "{completions/clipped_ratio:.0%} of the completions of round {round} were cut before they ended, and judged "
        "as they were. Raise `max_new_tokens` ({max_new_tokens}), or ask for shorter answers.",
    ),
    Advice(
        "equal pairs",
        lambda f: f["completions/equal_pairs"] > 0.5,
        "In {completions/equal_pairs:.0%} of the pairs of round {round} both completions are the same text, which "
        "teaches nothing. Raise `temperature` ({temperature:g}), or use prompts that have more than one answer.",
    ),
    Advice(
        "empty",
        lambda f: f["completions/empty_ratio"] > 0.5,
        "{completions/empty_ratio:.0%} of the completions of round {round} have no text for the judge. Look at them "
        "with `log_completions`: the prompts may lack their chat template, or thinking that `strip_thinking` removes "
        "may fill `max_new_tokens` ({max_new_tokens}).",
    ),
    Advice(
        "position bias",
        lambda f: f["judge/position_bias"] > 0.5,
        "The judge changes its mind when two answers change places (position bias {judge/position_bias:.2f} in round "
        "{round}), so most of its verdicts are near one half. Choose another `judge`; `trl-nash judge` measures one.",
    ),
    Advice(
        "label mass",
        lambda f: f["judge/label_mass"] < 0.5,
        "The judge would rather say something else than one of its two labels, which have {judge/label_mass:.0%} of "
        "the probability in round {round}: it may not have understood the question. Choose another `template`, or on "
        "a server another `prompt` or `mode`.",
    ),
    Advice(
        "engine",
        lambda f: f["sampling/logp_gap"] > LOGP_GAP,
        "The log-probs that vLLM gives with its samples are not the policy's: they differ by "
        "{sampling/logp_gap:.2g} nats a token in the mean of round {round}. Give the engine the policy's dtype, no "
        "quantisation and no filter (`top_p`, `top_k`, `min_p`), or sample without `use_vllm`.",
    ),
    Advice(
        "no loss",
        lambda f: f["loss"] == 0,
        "The loss of round {round} is exactly 0, so nothing is learned: the `judge` prefers no completion to another. "
        "See what it is shown with `log_completions`.",
    ),
]


class Adviser:
    """
    Gives advice when a round calls for it.

    Args:
        say (`Callable[[str, str], None]`): says a sentence, the first time that it is given one of this name.
    """

    def __init__(self, say: Callable[[str, str], None]):
        self._say = say

    def __call__(self, facts: Facts) -> None:
        for advice in ADVICE:
            if advice.holds(facts):
                self._say(advice.sentence.format_map(facts), advice.name)
