# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The least squares of a trainer on pairs of dialogues, solved over policies. What it means: [`fits`]."""

import numpy as np

from .tree import DialogueTree


NEWTON_STEPS = 200


def regression(
    tree: DialogueTree, log_centre: np.ndarray, step_size: float, weights: np.ndarray, wins: np.ndarray
) -> np.ndarray:
    r"""
    The policy that minimises `½ hᵀ L h - η hᵀ w` over policies, h being its log-ratios of dialogues to the centre.

    Newton's method finds the minimum that is downhill from the solution over all functions of dialogues, which is the
    minimum if the user is deterministic.

    Args:
        log_centre (`np.ndarray` of shape `(S,)`): log-probabilities of answers.
        step_size (`float`): η.
        weights (`np.ndarray` of shape `(Z, Z)`):
            L, `Σ (e_z - e_z')(e_z - e_z')ᵀ` over pairs of dialogues, of the rank that the pairs give it.
        wins (`np.ndarray` of shape `(Z,)`): w, `Σ (e_z - e_z') (label - ½)`.

    Returns:
        `np.ndarray` of shape `(S,)`: log-probabilities.
    """
    # Of many minimisers the smallest: a dialogue that is in no pair keeps its centre.
    log_policy = tree.tilted(log_centre, step_size * (np.linalg.pinv(weights, hermitian=True) @ wins))
    if tree.deterministic:
        return log_policy

    def slope_and_loss(log_policy: np.ndarray) -> tuple[np.ndarray, float]:
        log_ratio = tree.passes @ (log_policy - log_centre)
        weighted = weights @ log_ratio
        return weighted - step_size * wins, float(log_ratio @ weighted / 2 - step_size * log_ratio @ wins)

    slope, loss = slope_and_loss(log_policy)
    for _ in range(NEWTON_STEPS):
        scores = tree.scores(np.exp(log_policy))
        gradient = scores.T @ slope
        # The second derivative of h is that of -log Σ exp(logits) in the states of its dialogue.
        hessian = scores.T @ weights @ scores - tree.answer_covariance(np.exp(log_policy), slope)
        rates, directions = np.linalg.eigh(hessian)
        along = directions.T @ gradient
        known = np.abs(rates) > 1e-12 * np.abs(rates).max()
        step = directions[:, known] @ (along[known] / np.abs(rates[known]))  # downhill where the loss is not convex
        length = 1.0
        while length > 1e-9:
            trial = tree.normalized(log_policy - length * step)
            trial_slope, trial_loss = slope_and_loss(trial)
            if trial_loss < loss:
                break
            length /= 2
        else:  # as small as rounding lets it be
            break
        log_policy, slope, loss = trial, trial_slope, trial_loss
    return log_policy
