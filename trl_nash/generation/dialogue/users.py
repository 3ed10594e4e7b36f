# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Who answers the policy in a dialogue: a function, a model on this machine, the policy's start, or a server."""

import importlib
import inspect
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.messages import Message
from ...judges.calls import accepted
from ...judges.servers.pace import NoMoreAnswers, Pace, RequestFailed
from ...judges.servers.server import ChatServer, Declined, find_server
from ...judges.transcript import Transcript
from ..prompts import strip_thinking
from .rollout import Rollout, RolloutFailed


SECONDS = 120.0  # that a server may take for an answer
RETRIES = 5  # of a request that failed for a passing reason
REPLY_TOKENS = 512  # of a user's turn
GOAL = "user_goal"  # column that says what a row's user wants
END = "[END]"

_INSTRUCTIONS = """\
You play the user in a conversation with an assistant. {goal}Write what the user says next: in the user's voice, \
nothing else. Once the user has what they came for, or has nothing more to say, write {end} and nothing else.

<conversation>
{transcript}
</conversation>

What does the user say next?"""


class User(ABC):
    """
    Base class of simulated users. A subclass says [`~User.replies`].

    Attributes:
        name (`str`): what messages call it.
        waits (`bool`): whether it waits for something else than this process, so that several are asked side by side.
        is_policy (`bool`): whether its words are sampled from a frozen policy, which all ranks do together.
    """

    name: str
    waits = False
    is_policy = False

    @abstractmethod
    def replies(self, rollouts: list[Rollout]) -> list[str | None | RolloutFailed]:
        """What the user of each rollout says next; `None` if that is nothing more."""

    def answers(self, rollouts: list[Rollout]) -> list[list[Message] | None | RolloutFailed]:
        """The same as messages."""
        return [self._checked(reply) for reply in self.replies(rollouts)]

    def _checked(self, reply: Any) -> list[Message] | None | RolloutFailed:
        if reply is None or isinstance(reply, RolloutFailed):
            return reply
        if not isinstance(reply, str):
            return RolloutFailed(
                "user", f"the user {self.name} returns a text, or None at the end of the dialogue; got {reply!r:.80}"
            )
        if not reply.strip():
            return RolloutFailed(
                "empty turn", f"the user {self.name} said nothing: None, not an empty text, ends a dialogue"
            )
        return [{"role": "user", "content": reply}]


class FunctionUser(User):
    """
    A function `(messages, **columns) -> str | None` as a user. It gets those columns of the row that its signature
    names; one that has an attribute `waits` is called from several threads at once.
    """

    def __init__(self, function: Callable, name: str | None = None):
        if inspect.isclass(function):
            raise TypeError(f"`user={function.__name__}` is a class: pass an instance, `{function.__name__}(...)`.")
        try:
            inspect.signature(function).bind_partial(None)
        except ValueError:  # of what is written in C, and says nothing
            pass
        except TypeError:
            raise TypeError(
                f"`user` is called as `user(messages) -> str | None`, and {function!r} takes no messages."
            ) from None
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)
        self.waits = bool(getattr(function, "waits", False))

    def replies(self, rollouts):
        return [self._reply(rollout) for rollout in rollouts]

    def _reply(self, rollout: Rollout) -> str | None | RolloutFailed:
        columns = {name: [value] for name, value in rollout.columns.items() if name != "prompt"}
        taken = {name: value for name, (value,) in accepted(self.function, columns, positional=1).items()}
        try:
            return self.function([dict(message) for message in rollout.messages], **taken)
        except Exception as error:
            return RolloutFailed("user", f"the user {self.name} raised {type(error).__name__}: {error}")


class ServerUser(User):
    """
    A model behind an OpenAI-compatible server as a user, told what is in the column `user_goal`, if there is one.

    Args:
        model (`str`): `MODEL` or `MODEL@http://host:port/v1`.
    """

    waits = True

    def __init__(self, model: str):
        self.name = f"openai:{model}"
        self._server = ChatServer(*find_server(model, whose="user"), whose="user")
        self._attempt = partial(Pace(RETRIES).attempt, threading.Event())  # nobody tells it to give up

    def replies(self, rollouts):
        return [self._reply(rollout) for rollout in rollouts]

    def _reply(self, rollout: Rollout) -> str | None | RolloutFailed:
        body = {"messages": question(rollout), "max_tokens": REPLY_TOKENS, "temperature": 1.0}
        try:
            reply = self._server.complete(self._attempt, body, SECONDS)
        except (RequestFailed, Declined, NoMoreAnswers) as error:
            return RolloutFailed("user", f"the user {self.name} gave no answer: {error}")
        return ended(reply.choices[0]["message"].get("content") or "")


class ModelUser(User):
    """
    A model on this machine as a user, told what is in the column `user_goal`, if there is one.

    Args:
        name (`str`): what messages call it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the model's.
        draw (`Callable`): one completion of each of some prompts, in tokens.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        draw: Callable[[list[list[int]]], list[list[int]]],
    ):
        if not tokenizer.chat_template:
            raise ValueError(f"The user {name} has a tokenizer without a chat template: take a chat model.")
        self.name = name
        self._tokenizer = tokenizer
        self._draw = draw

    def replies(self, rollouts):
        ids = [
            self._tokenizer.apply_chat_template(
                question(rollout), add_generation_prompt=True, tokenize=True, return_dict=False
            )
            for rollout in rollouts
        ]
        return [ended(self._tokenizer.decode(reply, skip_special_tokens=True)) for reply in self._draw(ids)]


def question(rollout: Rollout) -> list[Message]:
    """What a model that plays the user is asked."""
    goal = rollout.columns.get(GOAL)
    wanted = f"What the user wants, and does not say all at once: {goal}\n" if goal else ""
    # The policy's words cannot end the conversation that is quoted.
    transcript = Transcript(rollout.messages).replace("<conversation", "&lt;conversation")
    transcript = transcript.replace("</conversation", "&lt;/conversation")
    content = _INSTRUCTIONS.format(goal=wanted, transcript=transcript, end=END)
    return [{"role": "user", "content": content}]


def ended(text: str) -> str | None:
    """What a model says as the user; `None` where it says that the dialogue is over."""
    text = strip_thinking(text)
    return None if text.startswith(END) or text.endswith(END) else text


def load_user(
    user: Any,
    args,
    tokenizer: PreTrainedTokenizerBase | None = None,
    start: Callable[[list[list[int]]], list[list[int]]] | None = None,
    device: Any = None,
) -> User:
    """
    The user that `user=` names.

    Args:
        user: a [`User`], a callable `(messages) -> str | None`, a [`~transformers.PreTrainedModel`], or a `str`:
            `"openai:MODEL@URL"`, `"initial"` for the policy as it was when training began, `"local:PATH"` for a model,
            or `"package.module:name"` for a callable.
        args ([`NashConfig`]): how a model samples.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): the policy's, for `"initial"`.
        start (`Callable`, *optional*): samples from the policy's start, for `"initial"`.
        device (`torch.device`, *optional*): for a model.

    Raises:
        `ValueError`: if there is no such user.
        `TypeError`: if it is something else.
    """
    if isinstance(user, User):
        return user
    if isinstance(user, PreTrainedModel):
        return _model_user(user.name_or_path, user, None, args, device)
    if not isinstance(user, str):
        if callable(user):
            return FunctionUser(user)
        raise TypeError(
            f"`user` is a callable `(messages) -> str | None`, a model, or a name such as 'openai:MODEL@URL'; got "
            f"{user!r:.80}."
        )
    kind, _, target = user.partition(":")
    if kind == "openai":
        return ServerUser(target)
    if user == "initial":
        assert tokenizer is not None and start is not None
        start_of_run = ModelUser(user, tokenizer, start)
        start_of_run.is_policy = True
        return start_of_run
    if kind == "local" and target:
        from transformers import AutoModelForCausalLM

        from ...judges.local.loading import load_model, load_tokenizer

        model = load_model(AutoModelForCausalLM, target, kind="a causal language model", device=device)
        return _model_user(user, model, load_tokenizer(target), args, device)
    found = _found(user)
    return found if isinstance(found, User) else FunctionUser(found, user)


def _found(path: str) -> Callable:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as in `python -m`
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Unknown user {path!r}: it is 'openai:MODEL@URL', 'initial', 'local:PATH', or the callable "
            f"`package.module:name`, which could not be loaded ({error})."
        ) from error
    if not (callable(found) or isinstance(found, User)):
        raise ValueError(f"The user {path!r} is no callable `(messages) -> str | None` but {found!r:.80}.")
    return found


def _model_user(name: str, model, tokenizer, args, device) -> ModelUser:
    from transformers import AutoTokenizer, GenerationConfig

    from ..plain import generate_plainly

    if tokenizer is None:
        if not name:
            raise ValueError("The model that is `user` was not loaded from a path, so that its tokenizer is unknown.")
        tokenizer = AutoTokenizer.from_pretrained(name)
    if device is not None:
        model = model.to(device)
    model.eval()
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=args.max_new_tokens,
        do_sample=True,
        top_k=0,
        pad_token_id=padding,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
    )

    def draw(prompt_ids: list[list[int]]) -> list[list[int]]:
        if not prompt_ids:
            return []
        return [own[0] for own in generate_plainly(model, config, model.device, prompt_ids, 1)]

    return ModelUser(name or "model", tokenizer, draw)
