# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges for trainers that take rewards."""

from typing import Any

from ...rounds.pairings import Pairing, pairing_of
from .anchors import load_anchor
from .win_rate import AsyncWinRate, WinRate, pairing_named


def as_reward_func(
    judge: Any,
    *,
    pairing: str | Pairing | None = None,
    pairs_per_prompt: int | None = None,
    anchor: Any = None,
    anchor_kwargs: dict[str, Any] | None = None,
    asynchronous: bool = False,
    **kwargs,
) -> WinRate:
    """
    Make a judge a reward function of TRL's trainers (OnlineDPOTrainer, GRPOTrainer, RLOOTrainer): the reward of a
    completion is its win rate against the other completions of its prompt in the batch, or against an anchor's.

    Groups are told apart by their prompt, and by the columns that the judge or the anchor cannot do without: a judge
    that names a column parts those of one prompt. Other columns may be a completion's own, such as what a
    `rollout_func` returns with it.

    Where a run has several processes, they score the batch of all of them together: a group may lie on any of them,
    and each of its pairs is judged once. So all must call the function equally often, as TRL's trainers do. Functions
    have exchanges of their own, and so can run side by side.

    Args:
        judge ([`PairwiseJudge`], `Callable` or `str`):
            Anything that [`load_judge`] takes.
        pairing (`str` or [`Pairing`], *optional*):
            Which pairs of a group are judged, a `pair_selection`; the reward is then [`win_rates`] of what it asked.
            By default all are, and the reward is the mean of the verdicts that there are.
        pairs_per_prompt (`int`, *optional*): of the pairings `"random"` and `"active"`.
        anchor (`str`, `Callable` or [`~transformers.PreTrainedModel`], *optional*):
            Whom completions are compared with instead of one another. A column of the dataset, or a function
            `(prompts, **columns) -> list` that is given each prompt of the batch once, and those columns that it
            names: either holds a completion for each prompt (text or messages, with the prompt before them or
            without), a list of them, or `None`. Or a policy that does not change, which answers each prompt of a batch
            once, and anew when it comes again: `"model:PATH"`, a path or hub id of a model or adapter, or the file of
            a frozen policy of a run, which each process loads and keeps on its device; a model, which must not be the
            one that is trained; or `"openai:MODEL@URL"`, a server. Judges get no token ids then.
        anchor_kwargs (`dict[str, Any]`, *optional*):
            How a policy is sampled: `temperature` (1.0), `top_p` (1.0), `max_new_tokens` (512), `seed`, `batch_size`
            (16: prompts in a call, or requests at a time), `dtype`, `trust_remote_code`, `chat_template_kwargs`,
            `strip_thinking`.
        asynchronous (`bool`, *optional*, defaults to `False`):
            Whether the function is a coroutine function, which GRPOTrainer and RLOOTrainer run beside others of its
            kind: for several judges that wait for servers. OnlineDPOTrainer awaits nothing, and cannot call it.
        kwargs:
            Arguments of a judge given by name.

    Returns:
        `Callable`: a function `(prompts, completions, **columns) -> list[float | None]` for `reward_funcs`. `None`
        where there is no verdict on any of a completion's pairs. To trainers that pass `log_metric` and `log_extra` it
        gives `judge/preference` (of the first of each pair), `judge/abstained` by reason, `judge/cycle_rate` (where
        all pairs are asked), `judge/position_bias`, `judge/label_mass` and `judge/cached`, and a column with the
        number of verdicts on each completion.

    Raises:
        `ValueError`: If arguments do not go together, or there is no such policy. The function raises it for a
            completion that is alone with its prompt, and for an `anchor` that is no column. `JudgeError` on the other
            processes if the judge fails on one.

    Example:

    ```python
    >>> trainer = GRPOTrainer(model, reward_funcs=as_reward_func("openai:gpt-4.1-mini", pairing="swiss"), ...)
    ```
    """
    from .. import load_judge

    if anchor is not None and (pairing is not None or pairs_per_prompt is not None):
        raise ValueError(
            f"`pairing` says which completions of a group are compared with one another, and with `anchor={anchor!r}` "
            "none are: leave one of the two out."
        )
    if pairs_per_prompt is not None and not isinstance(pairing, str):
        raise ValueError(
            f"`pairs_per_prompt={pairs_per_prompt}` belongs to `pairing='random'` and 'active', and it is {pairing!r}."
        )
    if isinstance(pairing, str):
        with pairing_named():
            pairing = pairing_of(pairing, pairs_per_prompt)
    judge, opponent = load_judge(judge, **kwargs), load_anchor(anchor, anchor_kwargs)
    return (AsyncWinRate if asynchronous else WinRate)(judge, pairing, opponent)
