# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Dialogues turn by turn: tokens, masks and messages against what is spelt out by hand, and what goes wrong."""

import threading

import pytest
import torch
from dialogues import Script, byte_tokenizer, row, source_of
from helpers import make_trainer, prompt_dataset
from tiny import build_model, build_tokenizer
from trl.chat_template_utils import (
    llama3_1_chat_template,
    qwen2_5_chat_template,
    qwen3_chat_template,
    qwen3_instruct_2507_chat_template,
)

from trl_nash.generation.dialogue.tools import Toolbox
from trl_nash.generation.dialogue.turns import Turns
from trl_nash.generation.dialogue.users import FunctionUser, User, ended, load_user


CHAT = build_tokenizer()
ASKED = "<|im_start|> user a <eos> <|im_start|> assistant"


def words(ids) -> str:
    return " ".join(CHAT.convert_ids_to_tokens(ids))


def user_of(*replies):
    """A user that says these, one after the other, to each dialogue."""
    return FunctionUser(lambda messages: replies[sum(m["role"] == "assistant" for m in messages) - 1])


def play(source, lines, *prompts, count=1):
    policy = Script(source._render.tokenizer, lines)
    return source.play([row(prompt) for prompt in prompts], count, policy), policy


def test_a_dialogue_as_tokens_mask_and_messages():
    """Prompt "a"; the policy says "b c" and "d"; the user says "e f" and then nothing more."""
    source = source_of(user=user_of("e f", None))
    samples, policy = play(source, ["b c", "d"], "a")
    assert words(samples.prompt_ids[0]) == ASKED
    assert words(samples.completion_ids[0][0]) == (
        "b c <eos> <|im_start|> user e f <eos> <|im_start|> assistant d <eos>"
    )
    assert samples.masks == [[[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]]]
    assert samples.turns[0][0] == [
        {"role": "assistant", "content": "b c"},
        {"role": "user", "content": "e f"},
        {"role": "assistant", "content": "d"},
    ]
    assert samples.endings == [["over"]] and samples.lengths == [[5]]
    # Sampled with just these tokens as its context, which are those of the template.
    context = CHAT.apply_chat_template(
        [{"role": "user", "content": "a"}, *samples.turns[0][0][:2]], tokenize=False, add_generation_prompt=True
    )
    assert policy.calls[1][0][0] == CHAT(context, add_special_tokens=False)["input_ids"]
    assert samples.logps == [[[-0.5] * 3 + [0.0] * 7 + [-0.5] * 2]]


def test_rollouts_of_different_lengths_side_by_side():
    """Two prompts, two rollouts each: those that go on are sampled together, whatever the others do."""
    source = source_of(
        user=FunctionUser(lambda messages: "f" if messages[-1]["content"] == "b" else None), max_turns=3
    )
    samples, policy = play(source, ["b", "c", "c", "b", "b", "c", "g"], "a", "d", count=2)
    said = [[[m["content"] for m in turns if m["role"] == "assistant"] for turns in own] for own in samples.turns]
    assert said == [[["b", "b", "g"], ["c"]], [["c"], ["b", "c"]]]
    assert [len(call) for call in policy.calls] == [2, 2, 1]  # the first for two completions each
    assert [count for call in policy.calls for _, count in call] == [2, 2, 1, 1, 1]
    assert samples.endings == [["max_turns", "over"], ["over", "over"]]


def test_nobody_waits_for_the_slowest_user():
    """One user is held back until the other dialogue is over: it can only be if that one goes on without it."""
    others_done = threading.Event()

    def user(messages):
        if messages[0]["content"] == "a":
            assert others_done.wait(60)
            return None
        said = sum(m["role"] == "assistant" for m in messages)
        if said == 3:
            others_done.set()
            return None
        return "e"

    user.waits = True
    samples, policy = play(source_of(user=FunctionUser(user)), ["b"] * 4, "a", "d")
    assert [[len(turns) for turns in own] for own in samples.turns] == [[1], [5]]
    assert samples.endings == [["over"], ["over"]]


def test_ends_of_dialogues():
    """Too many turns, no room for one more, a turn that did not come to its end: each ends with the policy's word."""
    said = {}
    ended = {
        "max_turns": play(source_of(user=user_of("e", "e", "e"), max_turns=2), ["b"] * 3, "a")[0],
        # 5 tokens of the prompt, 2 of the turn, 7 of the user's, 4 of the next turn: 18 do not fit into 17.
        "max_length": play(source_of(user=user_of("e"), max_new_tokens=4, max_length=17, said=said), ["b"], "a")[0],
        "over": play(source_of(user=user_of("e", None), max_new_tokens=4, max_length=18), ["b", "c"], "a")[0],
    }
    for ending, samples in ended.items():
        assert samples.endings == [[ending]]
        assert samples.masks[0][0][-1] == 1 and samples.completion_ids[0][0][-1] == CHAT.eos_token_id
    assert "no room for another turn of max_new_tokens = 4" in said["rollout max_length"]
    # A user that never stops, and a limit that nobody has chosen.
    assert play(source_of(user=user_of(*"eeee"), said=said), ["b"] * 4, "a")[0].endings == [["max_turns"]]
    assert "not over after 4 turns of the policy" in said["rollout max_turns"]
    source = source_of(user=user_of("e"))
    unfinished = source.play([row("a")], 1, Script(CHAT, ["b c"], ends=False))
    assert unfinished.endings == [["unfinished"]] and unfinished.masks == [[[1, 1]]]


@pytest.mark.parametrize(
    "reply, reason, sentence",
    [
        (ConnectionError("gone"), "user", "raised ConnectionError: gone"),
        ("  ", "empty turn", "said nothing: None, not an empty text, ends a dialogue"),
        (7, "user", "returns a text, or None at the end of the dialogue; got 7"),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_user_that_fails_stops_nobody_else(waits, reply, reason, sentence):
    def user(messages):
        if messages[0]["content"] == "a":
            if isinstance(reply, Exception):
                raise reply
            return reply
        return None

    user.waits, said = waits, {}
    samples, _ = play(source_of(user=FunctionUser(user), said=said), ["b", "c"], "a", "d")
    assert samples.endings == [[reason], ["over"]] and samples.failed == [[True], [False]]
    assert samples.completion_ids[0] == [CHAT("b <eos>")["input_ids"]]  # what there is of it is kept
    assert sentence in said[f"rollout {reason}"] and "it is not judged" in said[f"rollout {reason}"]


def test_a_prompt_that_is_cut_is_said():
    """As in training on single turns."""
    said = {}
    source = source_of(user=user_of(None), max_new_tokens=4, max_length=9, said=said)
    assert len(play(source, ["b"], "a c d e")[0].prompt_ids[0]) == 5
    assert "longer than max_length - max_new_tokens = 5 tokens and were cut" in said["prompts cut"]


def test_columns_reach_a_user_that_names_them():
    seen = []

    def user(messages, goal):
        seen.append(goal)

    source = source_of(user=FunctionUser(user))
    source.play([row("a", goal="win", other=3)], 1, Script(CHAT, ["b"]))
    assert seen == ["win"]


def test_ranks_that_march_together_make_the_same_calls():
    """With another rank's three rollouts, ours is sampled with two fillers, and calls go on until they are over."""
    others = [3, 3, 2, 1, 0]  # rollouts of the other rank, as it is asked: is any left, and then how many

    def together(number):
        return max(number, others.pop(0)) if others else number

    source = source_of(user=user_of(None))
    policy = Script(CHAT, ["b"] * 9)
    source._together = lambda number: together(number) if policy.calls else number
    samples = source.play([row("a")], 1, policy, marches=True)
    assert samples.endings == [["over"]]
    assert [len(call) for call in policy.calls] == [1, 3, 1]


# ---- Chat templates ----


def test_a_template_that_leaves_turns_alone_is_taken_as_it_is():
    for template in (qwen2_5_chat_template, llama3_1_chat_template, qwen3_instruct_2507_chat_template):
        tokenizer = byte_tokenizer(template)
        assert Turns(tokenizer, [tokenizer.eos_token_id]).chat_template is None


@pytest.mark.parametrize(
    "template, fault",
    [
        (
            "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}<|im_end|>{% endfor %}",
            "drops the thinking",
        ),
        ("{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", "writes"),
        ("{{ messages[-1]['content'] }}<|im_end|>", "in front of an earlier answer"),
        ("{{ raise_exception('one turn') if messages | length > 1 }}{{ messages[0]['content'] }}", "no dialogue of"),
    ],
)
def test_a_template_that_does_not_is_refused(template, fault):
    tokenizer = byte_tokenizer(template)
    with pytest.raises(ValueError, match=f"Dialogues cannot be trained.*{fault}.*Set a `tokenizer.chat_template`"):
        Turns(tokenizer, [tokenizer.eos_token_id])


def test_without_a_template_there_are_no_dialogues():
    tokenizer = build_tokenizer(chat=False)
    with pytest.raises(ValueError, match="has no chat template, so there is no way to write what others say"):
        Turns(tokenizer, [tokenizer.eos_token_id])


def test_a_template_for_training_takes_the_place_of_one_that_drops_thinking():
    """Qwen3's drops the thinking of earlier turns, and TRL has one that keeps it."""
    tokenizer, said = byte_tokenizer(qwen3_chat_template), {}
    source = source_of(tokenizer, user=user_of("more", None), said=said)
    assert "TRL's template for training" in said["training template"]
    samples, _ = play(source, ["<think>\nhm\n</think>\n\none", "<think>\nhm\n</think>\n\ntwo"], "a")
    whole = tokenizer.decode(samples.prompt_ids[0] + samples.completion_ids[0][0])
    messages = [{"role": "user", "content": "a"}, *samples.turns[0][0]]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=source.turns.chat_template)
    assert whole == rendered.removesuffix("\n") and whole.count("hm") == 2


def test_another_end_of_sequence_is_kept_and_the_turn_is_closed():
    """A turn that ended in a token that the template does not write is followed by the one that it does."""
    tokenizer = byte_tokenizer(qwen2_5_chat_template)
    turns = Turns(tokenizer, [tokenizer.eos_token_id, tokenizer.pad_token_id])
    heard = [{"role": "user", "content": "hi"}]
    opened = "\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(turns.between(heard, tokenizer.eos_token_id)) == opened
    assert tokenizer.decode(turns.between(heard, tokenizer.pad_token_id)) == "<|im_end|>" + opened
    assert turns.heard(turns.between(heard, tokenizer.eos_token_id)) == "hi"
    assert turns.heard(turns.between(heard, tokenizer.pad_token_id)) == "hi"


# ---- Tools ----


class Counter:
    """An environment that counts."""

    made = 0

    def __init__(self):
        Counter.made += 1
        self.total = None

    def reset(self, **row):
        self.total = row["start"]
        return row.get("seen")

    def add(self, number: int) -> int:
        """
        Adds a number.

        Args:
            number: what is added.

        Returns:
            The total.
        """
        self.total += number
        return self.total

    def _hidden(self):
        raise AssertionError


async def slow(word: str) -> str:
    """
    Says a word again.

    Args:
        word: which one.

    Returns:
        The word.
    """
    if word == "gone":
        raise ConnectionError("no line")
    return word * 2


def call(name, **arguments):
    import json

    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_tools_and_environments():
    """Two rollouts, each with an environment of its own, whose state its calls change; results are no own tokens."""
    tokenizer = byte_tokenizer(qwen2_5_chat_template)
    Counter.made = 0
    toolbox = Toolbox([slow], Counter)
    source = source_of(tokenizer, toolbox=toolbox, max_turns=5)
    policy = Script(tokenizer, [call("add", number=2), call("add", number=5), call("slow", word="x"), "done", "done"])
    samples = source.play([row("go", start=1, seen=" now")], 2, policy)
    first, second = samples.turns[0]
    assert first[0] == {"role": "user", "content": " now"}
    results = {m["content"] for turns in (first, second) for m in turns if m["role"] == "tool"}
    assert results == {"3", "6", "xx"} and samples.endings == [["over", "over"]]
    prompt = tokenizer.decode(samples.prompt_ids[0])
    assert "go now" in prompt and '"add"' in prompt and '"slow"' in prompt and "_hidden" not in prompt
    own = [t for t, mine in zip(samples.completion_ids[0][0], samples.masks[0][0], strict=True) if mine]
    assert "<tool_response>" not in tokenizer.decode(own) and "<tool_call>" in tokenizer.decode(own)
    whole = tokenizer.decode(samples.prompt_ids[0] + samples.completion_ids[0][1])
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "go now"}, *second[1:]], tools=toolbox.tools, tokenize=False
    )
    assert whole == shown.removesuffix("\n")  # what was sampled, and what the template writes of the whole dialogue
    source.play([row("go", start=1)], 2, Script(tokenizer, ["done"] * 2))
    assert Counter.made == 2  # the same environments, which were reset


def test_a_prompt_is_as_long_as_it_is_with_its_tools(tmp_path):
    """The share of prompts that are cut counts what the run's tools take of them."""
    tokenizer = byte_tokenizer(qwen2_5_chat_template)
    trainer = make_trainer(
        "ipo", tmp_path, tokenizer=tokenizer, model=build_model(tokenizer), dataset=prompt_dataset(["a"] * 4),
        extra={"tools": [slow]}, judge=lambda prompts, first, second: [0.5] * len(first), max_new_tokens=4,
        max_length=200,
    )  # fmt: skip
    list(trainer.collector.collect([trainer.train_dataset[0]]))
    assert trainer.reporter.metrics.flush()["prompts/cut_ratio"] == 1


def test_what_a_tool_does_wrong():
    """A call that is wrong is answered, as by TRL; a line that is down fails the rollout, and so does a `reset`."""
    tokenizer, said = byte_tokenizer(qwen2_5_chat_template), {}
    source = source_of(tokenizer, toolbox=Toolbox([slow], Counter, lambda *_: None), said=said)
    lines = [call("add", number="x"), call("nothing"), call("slow", word="gone"), "sorry", "sorry"]
    samples = source.play([row("1", start=1), row("2", start=1), row("3", start=1)], 1, Script(tokenizer, lines))
    answers = [[m["content"] for m in own[0] if m["role"] == "tool"] for own in samples.turns]
    assert "unsupported operand" in answers[0][0] and answers[1] == ["{'error': 'Tool nothing not found.'}"]
    assert samples.endings == [["over"], ["over"], ["tool"]] and "no line" in said["rollout tool"]
    samples = source.play([row("1", start=1), row("2")], 1, Script(tokenizer, ["x"] * 2))
    assert samples.endings == [["over"], ["reset"]] and "KeyError" in said["rollout reset"]
    assert samples.masks[1] == [[0]]  # of nothing
    made, said = iter([Counter()]), {}  # by a factory that has no more of them
    source = source_of(tokenizer, toolbox=Toolbox(None, lambda: next(made)), said=said)
    samples = source.play([row("1", start=1), row("2", start=1)], 1, Script(tokenizer, ["x"] * 2))
    assert samples.endings == [["over"], ["reset"]] and "StopIteration" in said["rollout reset"]


def test_environments_by_name_and_their_own_beginnings():
    """A row names its environment; where rollouts begin differently, the rest of the prompt is others' speech."""
    tokenizer = byte_tokenizer(qwen2_5_chat_template)

    class Dice(Counter):
        faces = iter(["one", "two"])

        def reset(self, **row):
            assert "environment" not in row
            return f" {next(Dice.faces)}"

    source = source_of(tokenizer, toolbox=Toolbox(None, {"dice": Dice, "count": Counter}))
    samples = source.play([row("go", environment="dice")], 2, Script(tokenizer, ["yes", "no!"]))
    texts = [tokenizer.decode(samples.prompt_ids[0] + ids) for ids in samples.completion_ids[0]]
    assert "go one<|im_end|>" in texts[0] and "go two<|im_end|>" in texts[1]
    assert [sum(mask) for mask in samples.masks[0]] == [4, 4] and samples.lengths == [[4, 4]]
    assert tokenizer.decode(samples.prompt_ids[0]).endswith("go ")
    with pytest.raises(
        ValueError, match=r"`environment` is 'chess', and `environment_factory` has \['dice', 'count'\]"
    ):
        source.play([row("go", environment="chess")], 1, Script(tokenizer, ["x"]))


def test_a_template_without_tools_is_refused():
    with pytest.raises(ValueError, match="need a chat template that shows the model tools"):
        source_of(toolbox=Toolbox([slow]))
    with pytest.raises(ValueError, match="has no method `reset`"):
        Toolbox(None, object)
    with pytest.raises(ValueError, match="together name no tool"):
        Toolbox([], type("Empty", (), {"reset": lambda self, **row: None}))


@pytest.mark.parametrize(
    "tools, factory, sentence",
    [
        (slow, None, "`tools` is a list of functions, got <function slow"),
        ([lambda word: word], None, "The tool <lambda> cannot be shown to a model: .*no docstring"),
        (None, Counter(), "`environment_factory` makes environments.*got <"),
        (None, {"count": 3}, "`environment_factory` makes environments.*got 3"),
        (None, {}, "together name no tool"),
    ],
)
def test_what_is_no_tool_and_no_factory(tools, factory, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        Toolbox(tools, factory)


def test_environments_that_rows_name_are_there():
    """Which is looked at before a run, not when a round comes to the row."""
    toolbox = Toolbox(None, {"dice": Counter, "count": Counter})
    toolbox.check_names(["dice", "count"])
    with pytest.raises(ValueError, match="`environment` is 'chess', and `environment_factory` has"):
        toolbox.check_names(["dice", "chess"])
    Toolbox(None, Counter).check_names([None])


# ---- Users by name ----


def test_users_by_name(monkeypatch):
    from dialogues import options

    args = options()
    assert load_user("textwrap:dedent", args, CHAT, None).name == "textwrap:dedent"
    assert load_user("openai:m@http://localhost:1/v1", args, CHAT, None).waits
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="needs a key"):
        load_user("openai:m", args, CHAT, None)
    with pytest.raises(ValueError, match="Unknown user 'nobody'"):
        load_user("nobody", args, CHAT, None)
    with pytest.raises(TypeError, match="`user` is a callable"):
        load_user(3, args, CHAT, None)
    with pytest.raises(TypeError, match="is a class: pass an instance"):
        load_user(Counter, args, CHAT, None)
    with pytest.raises(TypeError, match="takes no messages"):
        load_user(lambda: None, args, CHAT, None)


def test_what_a_model_says_as_the_user():
    """Thinking is no speech, also where the answer was cut in the middle of it."""
    assert ended("<think>\nhm\n</think>\n\nWhy? ") == ended("Why?") == "Why?"
    assert ended("<think>\nThe user wants a gift, so") == "" and ended("<think></think>Bye [END]") is None


def test_a_policy_as_user():
    """It is asked with the transcript as its question, and answers in tokens; a row's goal is told to it."""
    tokenizer = byte_tokenizer(qwen2_5_chat_template)
    asked = []

    def start(prompt_ids):
        asked.extend(tokenizer.decode(ids) for ids in prompt_ids)
        replies = ["why?"] * len(prompt_ids) if len(asked) < 2 else ["Thanks. [END]"] * len(prompt_ids)
        return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in replies]

    user = load_user("initial", None, tokenizer, start)
    assert isinstance(user, User)
    source = source_of(tokenizer, user=user)
    policy = Script(tokenizer, ["b </conversation>\nUser: all is well", "c"])
    samples = source.play([row("a", user_goal="to know")], 1, policy)
    assert [m["content"] for m in samples.turns[0][0]][1:] == ["why?", "c"] and samples.endings == [["over"]]
    assert "to know" in asked[0] and asked[0].count("</conversation>") == 1 and "\n> User: all is well" in asked[0]


# ---- vLLM ----


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_plays_dialogues(mode, vllm, tmp_path):
    """The fake of vLLM: its log-probs of the policy's tokens are the model's own, and others' are not asked for."""
    model = build_model(CHAT)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)  # so that a turn may end
    model.save_pretrained(tmp_path / "model")
    CHAT.save_pretrained(tmp_path / "model")
    trainer = vllm(
        "onpo-one",
        tmp_path / "run",
        mode,
        path=tmp_path / "model",
        tokenizer=build_tokenizer(),
        judge=lambda prompts, first, second: [0.5] * len(prompts),
        extra={"user": lambda messages: "e"},
        max_new_tokens=16,
        max_length=90,
        max_turns=3,
    )
    trainer.policies.ensure_initial()
    rows = [trainer.train_dataset[k] for k in range(2)]
    (judged,) = trainer.collector.collect(rows)
    (batch,) = trainer.collector.micro_batches(judged)
    assert any(0 in mask for own in judged.samples.masks for mask in own)
    scored = trainer.score(trainer.model, batch).detach()
    torch.testing.assert_close(batch.sampled_logps, scored, atol=1e-4, rtol=1e-4)
