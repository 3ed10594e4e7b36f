# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Whole dialogues: completions in which others than the policy speak, too.

A completion is then a trajectory: token ids with a mask that is 1 at the policy's own. What others say is context,
which the policy's later tokens depend on and no loss looks at. Where it comes from is the matter of a source: a user,
tools and environments ([`TurnByTurn`]), or a function that plays whole dialogues ([`RolloutFunction`]).
"""

TURNS = 4  # of the policy in a dialogue, where nothing is said
