# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Judges map `(prompts, first, second)` to `P(first ≻ second)`; see [`PairwiseJudge`] for the contract.

`as_judge` takes objects, `load_judge` also the strings that are used on the command line and in YAML files. Adding a
family of judges means a file with a class, and a line in `JUDGES`.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .base import Abstained, JudgeError, PairwiseJudge
from .chance import RandomJudge
from .dotted import import_path, is_bound
from .ensemble import EnsembleJudge
from .function import CallableJudge
from .groups.judge import CallableGroupJudge, GroupJudge
from .legacy import BasePairwiseJudge, LegacyJudge
from .length import LengthDebiasedJudge, length_coefficient
from .store import JudgementStore
from .win_rates.reward_func import as_reward_func


if TYPE_CHECKING:
    from .groups.openai_api import OpenAIGroupJudge
    from .local.genrm import GenRMJudge
    from .local.gpm import GPMJudge
    from .local.pairrm import PairRMJudge
    from .local.pairwise_lm import PairwiseLMJudge
    from .rewards.dpo import DPOJudge
    from .rewards.judge import RewardJudge
    from .rewards.server import RewardServerJudge
    from .servers.openai_api import HFJudge, OpenAIJudge

# Imported on first use: with torch and transformers.
_MODULE_OF = {
    "DPOJudge": "rewards.dpo",
    "GPMJudge": "local.gpm",
    "GenRMJudge": "local.genrm",
    "HFJudge": "servers.openai_api",
    "OpenAIGroupJudge": "groups.openai_api",
    "OpenAIJudge": "servers.openai_api",
    "PairRMJudge": "local.pairrm",
    "PairwiseLMJudge": "local.pairwise_lm",
    "RewardJudge": "rewards.judge",
    "RewardServerJudge": "rewards.server",
}
__all__ = [
    "JUDGES",
    "Abstained",
    "BasePairwiseJudge",
    "CallableGroupJudge",
    "CallableJudge",
    "DPOJudge",
    "EnsembleJudge",
    "GPMJudge",
    "GroupJudge",
    "GenRMJudge",
    "HFJudge",
    "JudgeError",
    "JudgementStore",
    "LegacyJudge",
    "LengthDebiasedJudge",
    "OpenAIGroupJudge",
    "OpenAIJudge",
    "PairRMJudge",
    "PairwiseJudge",
    "PairwiseLMJudge",
    "RandomJudge",
    "RewardJudge",
    "RewardServerJudge",
    "as_judge",
    "as_reward_func",
    "length_coefficient",
    "load_judge",
]

# What `key` and `key:target` stand for: a class or function, called with the target, if any, and keyword arguments.
JUDGES = {
    "dpo": "trl_nash.judges.rewards.dpo:DPOJudge",
    "ensemble": "trl_nash.judges.ensemble:EnsembleJudge",
    "function": "trl_nash.judges:load_path",
    "genrm": "trl_nash.judges.local.genrm:genrm_judge",
    "gpm": "trl_nash.judges.local.gpm:GPMJudge",
    "group": "trl_nash.judges:load_group",
    "hf": "trl_nash.judges.servers.openai_api:HFJudge",
    "length-debiased": "trl_nash.judges.length:LengthDebiasedJudge",
    "openai": "trl_nash.judges.servers.openai_api:OpenAIJudge",
    "openai-group": "trl_nash.judges.groups.openai_api:OpenAIGroupJudge",
    "pairrm": "trl_nash.judges.local.pairrm:PairRMJudge",
    "pairwise-lm": "trl_nash.judges.local.pairwise_lm:PairwiseLMJudge",
    "random": "trl_nash.judges.chance:RandomJudge",
    "reward": "trl_nash.judges.rewards.judge:RewardJudge",
    "reward-server": "trl_nash.judges.rewards.server:RewardServerJudge",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def as_judge(judge: Any) -> PairwiseJudge:
    """
    Make a [`PairwiseJudge`] of whatever can be one.

    Args:
        judge ([`PairwiseJudge`], [`BasePairwiseJudge`] or `Callable`):
            A judge; a judge written for TRL 1.13 or before (any object with `judge(prompts, completions,
            shuffle_order)`); a callable `(prompts, first, second) -> list[float]`; or a list of these or of names: a
            mixture in equal parts ([`EnsembleJudge`]).

    Raises:
        `TypeError`: If it is nothing that can judge.
    """
    if isinstance(judge, PairwiseJudge):
        return judge
    if isinstance(judge, list | tuple):
        return EnsembleJudge(judge)
    if not inspect.isclass(judge) and _is_legacy(judge):
        return LegacyJudge(judge)
    return CallableJudge(judge)


def load_judge(spec: Any, device: Any = None, **kwargs) -> PairwiseJudge:
    """
    Load a judge by name.

    Args:
        spec (`str`, `dict` or anything that [`as_judge`] takes):
            `key` or `key:target` with a key of `JUDGES` (`random`, `reward:org/model`), or the dotted path
            `package.module:name` of an object of your own, for which the working directory is searched too. `name` may
            be a class or a factory, which is called with `kwargs`, a judge function, to which `kwargs` are bound, or a
            judge object. A function is a judge function if it has three or more positional arguments without a default
            that are not in `kwargs`, and a factory otherwise. A dictionary holds a name and arguments,
            `{"judge": "reward:org/model", "temperature": 2.0}`; a list is a mixture in equal parts of what is in it,
            or as the arguments `weights` and `rule` of [`EnsembleJudge`] say.
        device (`str` or `torch.device`, *optional*):
            Where judges that are models are put, if their arguments do not say.
        kwargs:
            Arguments of the judge.

    Raises:
        `ValueError`: If there is no such judge, or it does not take these arguments.

    Example:

    ```python
    >>> judge = load_judge("reward:Skywork/Skywork-Reward-V2-Qwen3-0.6B", temperature=2.0)
    >>> judge = load_judge("my_package.judges:longer_wins")
    >>> judge = load_judge(["pairrm", {"judge": "openai:gpt-4.1-mini", "order": "random"}], weights=[1, 3])
    ```
    """
    if isinstance(spec, list | tuple):
        return _build(EnsembleJudge, "ensemble", spec, device=device, **kwargs)
    if isinstance(spec, dict):
        if "judge" not in spec:
            raise ValueError(f"A judge given as a dictionary has its name under the key `judge`; got {sorted(spec)}.")
        kwargs = {**spec, **kwargs}
        return load_judge(kwargs.pop("judge"), kwargs.pop("device", device), **kwargs)
    if not isinstance(spec, str):
        if kwargs:
            raise ValueError(f"Judge arguments {sorted(kwargs)} only go with a judge given by name; got {spec!r}.")
        return as_judge(spec)
    key, _, target = spec.partition(":")
    if key in JUDGES:
        factory = _import(JUDGES[key])
        return _build(factory, spec, *[target] if target else [], **_with_device(factory, device, kwargs))
    return load_path(spec, device, **kwargs)


def load_path(path: str, device: Any = None, **kwargs) -> PairwiseJudge:
    """Load the judge at `package.module:name`, as described in [`load_judge`]."""
    judge = _own_judge(path)
    if not (inspect.isclass(judge) or inspect.isroutine(judge)):
        if kwargs:
            raise ValueError(f"The judge {path!r} is an object and takes no arguments; got {sorted(kwargs)}.")
        return as_judge(judge)
    kwargs = _with_device(judge, device, kwargs)
    if inspect.isclass(judge) or not _is_judge_function(judge, kwargs):
        return _build(judge, path, **kwargs)
    _check_arguments(inspect.signature(judge).bind_partial, judge, path, kwargs)
    return as_judge(functools.update_wrapper(functools.partial(judge, **kwargs), judge) if kwargs else judge)


def load_group(path: str, **kwargs) -> CallableGroupJudge:
    """The [`CallableGroupJudge`] of the function at `package.module:name`, with its arguments."""
    return CallableGroupJudge(_own_group(path), **kwargs)


def check_name(name: str) -> None:
    """
    Refuses a judge's name that is no key, and finds no object of the user's own. No judge is loaded, and no module
    imported whose source binds the name.

    Args:
        name (`str`): `key`, `key:target` or `package.module:name`, as in [`load_judge`].

    Raises:
        `ValueError`: In the sentence of [`load_judge`], if there is no such judge.
    """
    key, _, target = name.partition(":")
    path = name if key not in JUDGES else target if key in ("function", "group") else ""
    if path and not is_bound(path):
        # Says what is wrong, or has found what only running the module shows.
        (_own_group if key == "group" else _own_judge)(path)


def _own_judge(path: str) -> Any:
    near = difflib.get_close_matches(path.partition(":")[0], JUDGES, n=1)
    hint = f", did you mean {near[0]!r}?" if near else "."
    return import_path(path, f"Unknown judge {path!r}{hint} It is none of the keys {', '.join(JUDGES)}, and")


def _own_group(path: str) -> Any:
    return import_path(path, f"The group judge {path!r}")


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _with_device(factory: Callable, device: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with `device` where the factory takes one and they do not say."""
    if device is None or "device" not in inspect.signature(factory).parameters:
        return kwargs
    return {"device": device, **kwargs}


def _build(factory: Callable, spec: str, *args, **kwargs) -> PairwiseJudge:
    _check_arguments(inspect.signature(factory).bind, factory, spec, kwargs, args)
    return as_judge(factory(*args, **kwargs))


def _check_arguments(bind: Callable, factory: Callable, spec: str, kwargs: dict[str, Any], args: tuple = ()) -> None:
    try:
        bind(*args, **kwargs)
    except TypeError as error:
        names = ", ".join(inspect.signature(factory).parameters)
        hint = " One that compares answers itself has (prompts, first, second)." * inspect.isfunction(factory)
        raise ValueError(f"The judge {spec!r} takes the arguments {names}: {error}.{hint}") from None


def _is_judge_function(function: Callable, kwargs: dict[str, Any]) -> bool:
    required = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        and name not in kwargs
    ]
    return len(required) >= 3


def _is_legacy(judge: Any) -> bool:
    method = getattr(judge, "judge", None)
    return isinstance(judge, BasePairwiseJudge) or (
        callable(method) and "shuffle_order" in inspect.signature(method).parameters
    )
