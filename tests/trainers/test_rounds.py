# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Rounds: what is done once, which prompt and which completion goes where, and in which order."""

from collections import Counter

import pytest
import torch
from datasets import IterableDataset
from helpers import (
    ALGORITHMS,
    PAIR_ALGORITHMS,
    PROMPTS,
    CountingJudge,
    build_copier,
    equal,
    favours_a,
    history,
    make_trainer,
    prompt_dataset,
    weights,
)
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM

from trl_nash import NashTrainer, RewardJudge
from trl_nash.algorithms import INITIAL
from trl_nash.generation import sampler
from trl_nash.generation.prompts import PromptRenderer, strip_thinking
from trl_nash.policies import FrozenPolicies


def prompts_of(trainer, batch) -> list[str]:
    """The text of each row's prompt in a micro-batch."""
    inside = batch.attention_mask.bool() & (batch.labels == -100)
    return [trainer.processing_class.decode(ids[mask]) for ids, mask in zip(batch.input_ids, inside, strict=True)]


def completions_of(trainer, batch) -> list[str]:
    """The text of each row's completion in a micro-batch."""
    return [
        trainer.processing_class.decode(ids[labels != -100], skip_special_tokens=True)
        for ids, labels in zip(batch.input_ids, batch.labels, strict=True)
    ]


def recording(base):
    """
    A trainer class that keeps the prompts of its rounds, in order, those of every call of `sample_pairs` (of a round
    the longest first), and every micro-batch that is fitted.
    """

    class Recorder(base):
        def __init__(self, *args, **kwargs):
            self.prompts, self.sampled, self.fitted = [], [], []
            super().__init__(*args, **kwargs)
            collect = self.collector.collect

            def keep_prompts(rows, *args):
                self.prompts += [row["prompt"] for row in rows]
                return collect(rows, *args)

            self.collector.collect = keep_prompts

        def sample_pairs(self, prompts):
            samples = super().sample_pairs(prompts)
            self.sampled.append((list(prompts), samples))
            return samples

        def objective(self, logps, batch):
            self.fitted.append(batch)
            return super().objective(logps, batch)

    return Recorder


def record(algorithm, tmp_path, **options):
    trainer = make_trainer(algorithm, tmp_path, trainer_class=recording(ALGORITHMS[algorithm][0]), **options)
    trainer.train()
    return trainer


class Forwards:
    """Counts the calls of a model: those that score completions, with or without a gradient, and all others."""

    def __init__(self, model):
        self.counts = Counter()
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        kind = ("fit" if torch.is_grad_enabled() else "score") if kwargs.get("fused_lm_head") else "generate"
        self.counts[kind] += 1


# ---- What is done once a round ----


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_sampling_judging_and_scoring_happen_once_a_round(algorithm, lora, tmp_path, monkeypatch):
    """
    3 rounds of 2 micro-batches, 2 passes, a step each: the engine and the judge are called 3 times, a training step
    runs the policy once, and every frozen policy that a centre names scores a micro-batch once.

    Of the live policy the second micro-batch is scored, for the first one is fitted before it has changed; the start,
    where only the metric asks for it, scores the first one, and nothing where it is the live policy. So by round
    IPO has 1, then 1 + 1; ONPO (one fit) adds 2 for each policy before the live one, of which the start is one and is
    no metric's alone; ONPO (two fits) has 1 and 1, then 2 for π' and 1 for the metric, and 1 in its second fit;
    COMAL has 1, then 1 and 2 for the reference, then 1 and 1, as the reference has moved to the live policy.
    """
    scored = {"ipo": 1 + 2 + 2, "onpo-one": 1 + 3 + 5, "onpo-two": 2 + 4 + 4, "comal": 1 + 3 + 2}[algorithm]
    own = {"comal": {"reference_rounds": 2}}.get(algorithm, {})
    fits = 2 if algorithm == "onpo-two" else 1
    judge = CountingJudge()
    trainer = make_trainer(
        algorithm,
        tmp_path,
        lora=lora,
        judge=judge,
        steps_per_generation=2,
        num_iterations=2,
        per_device_generation_batch_size=4,
        max_steps=3 * 2 * 2 * fits,
        **own,
    )
    forwards = Forwards(trainer.model)
    generations = Counter()
    engine = sampler.generate_plainly

    def generate(policy, config, device, prompt_ids, count, **options):
        generations.update(calls=1, rows=len(prompt_ids) * count)
        return engine(policy, config, device, prompt_ids, count, **options)

    monkeypatch.setattr(sampler, "generate_plainly", generate)
    trainer.train()
    assert trainer.state.global_step == 3 * 2 * 2 * fits
    assert generations == {"calls": 3, "rows": 3 * 4 * 2}
    assert [len(call["prompts"]) for call in judge.calls] == [4, 4, 4]
    assert forwards.counts["fit"] == 3 * 2 * 2 * fits
    assert forwards.counts["score"] == scored


@pytest.mark.parametrize("algorithm", ["nash-md", "nash-ema"])
def test_nash_md_samples_judges_and_scores_once_a_round(algorithm, tmp_path, monkeypatch):
    """
    A round of 2 accumulated micro-batches: one judgement, one generation of the policy and one of the opponent, each
    micro-batch fitted once, and scored under the reference alone, which in the first round is the policy itself.
    """
    judge = CountingJudge()
    trainer = make_trainer(
        algorithm,
        tmp_path,
        judge=judge,
        gradient_accumulation_steps=2,
        per_device_generation_batch_size=4,
        max_steps=3,
    )
    forwards = Forwards(trainer.model)
    sizes = []
    engine = sampler.generate_plainly

    def generate(policy, config, device, prompt_ids, count, **mixing):
        sizes.append(len(prompt_ids) * count)
        return engine(policy, config, device, prompt_ids, count, **mixing)

    monkeypatch.setattr(sampler, "generate_plainly", generate)
    trainer.train()
    assert sizes == [4 * 2] * 3 * 2
    asked = [len(call["prompts"]) for call in judge.calls]
    assert len(asked) == 3 and max(asked) == 4 * 2 * 2  # 2 x 2 cross pairs of 4 prompts, but for equal completions
    assert forwards.counts["fit"] == 3 * 2
    assert forwards.counts["score"] == (3 - 1) * 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_training_step_runs_only_the_policy(algorithm, tmp_path):
    """
    An explicit reference scores each of a round's micro-batches once, without a gradient (and takes part in Nash-MD's
    sampling); whatever the number of passes, no training step calls it.
    """
    steps = 1 if algorithm.startswith("nash") else 3
    reference = build_model(build_tokenizer(), seed=5)
    trainer = make_trainer(
        algorithm,
        tmp_path,
        extra={"ref_model": reference},
        num_iterations=steps,
        max_steps=2 * steps * (2 if algorithm == "onpo-two" else 1),
    )
    forwards = Forwards(reference)
    inside = []
    fit = trainer.compute_loss

    def compute_loss(*args, **kwargs):
        before = sum(forwards.counts.values())
        loss = fit(*args, **kwargs)
        inside.append(sum(forwards.counts.values()) - before)
        return loss

    trainer.compute_loss = compute_loss
    trainer.train()
    assert inside == [0] * trainer.state.global_step
    assert forwards.counts["score"] == 2 and forwards.counts["fit"] == 0
    assert (forwards.counts["generate"] > 0) == (algorithm == "nash-md")


def test_one_swap_a_frozen_policy_and_round(tmp_path, monkeypatch):
    """
    Scoring a round of 4 micro-batches swaps the reference in and out once: 2 exchanges in each round but the first, in
    which it is the live policy.
    """
    exchanges = []
    exchange = FrozenPolicies._exchange

    def keep_name(self, frozen):
        exchanges.append(next(policy for policy in self if self._weights[policy] is frozen))
        exchange(self, frozen)

    monkeypatch.setattr(FrozenPolicies, "_exchange", keep_name)
    make_trainer("comal", tmp_path, steps_per_generation=4, max_steps=12).train()
    assert exchanges == [INITIAL] * 4


# ---- Micro-steps, passes, steps and epochs ----


@pytest.mark.parametrize(
    "accumulation, steps_per_generation, iterations",
    [(1, None, 1), (2, None, 1), (1, 2, 1), (1, 4, 1), (2, 4, 1), (1, 2, 3), (2, 2, 2), (2, 1, 2), (4, 2, 2)],
)
def test_the_schedule_of_a_round(accumulation, steps_per_generation, iterations, tmp_path):
    """
    Two epochs over 8 prompts, 2 a micro-step. A round of S micro-steps is 2S prompts, so an epoch has 8 / 2S rounds;
    it makes I passes in the same order over the same micro-batches, in S * I / accumulation optimizer steps.
    """
    trainer = record(
        "ipo",
        tmp_path,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=steps_per_generation,
        num_iterations=iterations,
        num_train_epochs=2,
    )
    micro_steps = steps_per_generation or accumulation
    rounds = 2 * 8 // (2 * micro_steps)
    assert trainer.state.global_step == rounds * micro_steps * iterations // accumulation
    assert trainer.state.epoch == 2
    assert len(trainer.fitted) == rounds * micro_steps * iterations

    # Sampled in chunks of per_device_train_batch_size: every prompt once an epoch, in an order of its own.
    sampled = trainer.prompts
    assert sorted(sampled[:8]) == sorted(sampled[8:]) == sorted(PROMPTS)
    assert sampled[:8] != sampled[8:]
    for r in range(rounds):
        own = trainer.fitted[r * micro_steps * iterations : (r + 1) * micro_steps * iterations]
        for step, batch in enumerate(own):
            first_pass = own[step % micro_steps]
            assert torch.equal(batch.input_ids, first_pass.input_ids)
            assert torch.equal(batch.centre_logps, first_pass.centre_logps)
        fitted = [prompt for batch in own[:micro_steps] for prompt in prompts_of(trainer, batch)[::2]]
        assert fitted == sampled[r * 2 * micro_steps : (r + 1) * 2 * micro_steps]


def test_two_fits_pass_over_the_same_pairs(tmp_path):
    """ONPO's second fit sees the micro-batches of the first again, around another anchor."""
    trainer = record("onpo-two", tmp_path, steps_per_generation=2, num_iterations=2, max_steps=16)
    for r in range(2):
        first, second = trainer.fitted[8 * r : 8 * r + 4], trainer.fitted[8 * r + 4 : 8 * r + 8]
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.preference, b.preference)
            assert not torch.equal(a.centre_logps, b.centre_logps)


def test_max_steps_ends_in_the_middle_of_a_round(tmp_path):
    """5 steps of rounds of 4: the second round is sampled whole, and one of its steps is taken."""
    trainer = record("ipo", tmp_path, steps_per_generation=4, max_steps=5)
    assert trainer.state.global_step == len(trainer.fitted) == 5
    assert sum(len(prompts) for prompts, _ in trainer.sampled) == 16
    assert history(trainer, "round") == [1, 1, 1, 1, 2]


def test_generation_batch_size_counts_prompts_a_round(tmp_path):
    """`generation_batch_size=6` with 2 prompts a micro-step is a round of 3 micro-steps."""
    trainer = record("ipo", tmp_path, generation_batch_size=6, max_steps=3)
    assert trainer.args.steps_per_generation == 3
    assert sum(len(prompts) for prompts, _ in trainer.sampled) == 6


@pytest.mark.parametrize("size, chunks", [(None, [2, 2, 2]), (1, [1] * 6), (4, [4, 2]), (6, [6]), (50, [6])])
def test_generation_and_judging_in_chunks(size, chunks, tmp_path):
    """`per_device_generation_batch_size` prompts go to the engine and the judge at a time, the rest at the end."""
    judge = CountingJudge()
    trainer = record(
        "ipo", tmp_path, judge=judge, steps_per_generation=3, per_device_generation_batch_size=size, max_steps=3
    )
    assert [len(prompts) for prompts, _ in trainer.sampled] == chunks
    assert [len(call["prompts"]) for call in judge.calls] == chunks
    assert len(trainer.fitted) == 3 and all(len(batch) == 2 for batch in trainer.fitted)


def test_prompts_that_do_not_fill_a_round_are_left_for_another_epoch(tmp_path):
    """7 prompts are one round of 4 an epoch; the 3 left over differ from epoch to epoch."""
    trainer = record("ipo", tmp_path, dataset=prompt_dataset(PROMPTS[:7]), steps_per_generation=2, num_train_epochs=3)
    sampled = trainer.prompts
    assert trainer.state.global_step == 3 * 2 and len(sampled) == 3 * 4
    epochs = [set(sampled[4 * e : 4 * e + 4]) for e in range(3)]
    assert all(len(epoch) == 4 for epoch in epochs) and len(set.union(*epochs)) > 4


# ---- Iterable datasets ----


def stream(prompts=PROMPTS, **columns) -> IterableDataset:
    rows = [
        {"prompt": prompt, **{name: values[i] for name, values in columns.items()}} for i, prompt in enumerate(prompts)
    ]
    return IterableDataset.from_generator(lambda: iter(rows))


@pytest.mark.parametrize("algorithm", ["ipo", "onpo-two", "nash-md"])
def test_iterable_dataset_is_read_in_order(algorithm, tmp_path):
    """A stream's prompts come in its order, a round at a time, and it is read again in the next epoch."""
    on_policy = algorithm == "nash-md"
    micro_steps, iterations, fits = (2, 1, 1) if on_policy else (2, 2, 2 if algorithm == "onpo-two" else 1)
    accumulation = 2 if on_policy else 1
    rounds = 3
    trainer = record(
        algorithm,
        tmp_path,
        dataset=stream(),
        gradient_accumulation_steps=accumulation,
        steps_per_generation=micro_steps,
        num_iterations=iterations,
        max_steps=rounds * micro_steps * iterations * fits // accumulation,
    )
    sampled = trainer.prompts
    assert sampled == PROMPTS + PROMPTS[:4]
    for r in range(rounds):
        own = trainer.fitted[r * micro_steps * iterations * fits :][: micro_steps * iterations * fits]
        for step, batch in enumerate(own):
            expected = PROMPTS[(4 * r) % 8 :][2 * (step % micro_steps) :][:2]
            assert prompts_of(trainer, batch)[::2] == expected


def test_iterable_dataset_hands_columns_to_the_judge(tmp_path):
    """Columns of a stream reach the judge with their prompts, as those of a table do."""
    judge = CountingJudge()
    answers = [f"answer {i}" for i in range(8)]
    make_trainer("ipo", tmp_path, dataset=stream(answer=answers), judge=judge, max_steps=4).train()
    seen = {p: a for call in judge.calls for p, a in zip(call["prompts"], call["answer"], strict=True)}
    assert seen == dict(zip(PROMPTS, answers, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_two_shards_is_trained_on_once_a_pass(workers, tmp_path):
    """32 prompts in 2 shards, rounds of 2 micro-steps and 3 passes: each pass over a round has its 4 prompts once."""

    def read(shards):
        for shard in shards:
            yield from ({"prompt": prompt} for prompt in shard)

    prompts = [f"{first} {second}" for first in "abcd" for second in "abcdefgh"]
    trainer = record(
        "ipo",
        tmp_path,
        dataset=IterableDataset.from_generator(read, gen_kwargs={"shards": [prompts[:9], prompts[9:]]}),
        dataloader_num_workers=workers,
        steps_per_generation=2,
        num_iterations=3,
        max_steps=8 * 2 * 3,
    )
    assert sorted(trainer.prompts) == sorted(prompts)
    fitted = [prompt for batch in trainer.fitted for prompt in prompts_of(trainer, batch)[::2]]
    for r in range(8):
        own = trainer.prompts[4 * r :][:4]
        assert fitted[12 * r :][:12] == 3 * own


class Listed(torch.utils.data.IterableDataset):
    """A stream of one's own, with a length."""

    def __init__(self, prompts=PROMPTS):
        self.prompts = prompts

    def __len__(self):
        return len(self.prompts)

    def __iter__(self):
        return ({"prompt": prompt} for prompt in self.prompts)


@pytest.mark.parametrize("dataset", [[{"prompt": prompt} for prompt in PROMPTS[:7]], Listed(PROMPTS[:7])])
def test_lists_and_streams_with_a_length(dataset, tmp_path):
    """7 prompts are 3 rounds of 2 an epoch, of 4 steps; neither needs `max_steps`, and both have 7 examples."""
    options = {"num_iterations": 4, "num_train_epochs": 2}
    trainer = record("ipo", tmp_path, dataset=dataset, **options)
    assert trainer.state.global_step == trainer.state.max_steps == 2 * 3 * 4
    assert len(trainer.prompts) == 2 * 6 and all(len(set(trainer.prompts[6 * e :][:6])) == 6 for e in (0, 1))
    loader = trainer.get_train_dataloader()
    assert len(loader) == 3 * 4 and trainer.num_examples(loader) == 7


def test_a_train_dataloader_of_ones_own(tmp_path):
    """It yields lists of rows, those of a round at its first micro-step; too few are no round."""

    class Own(NashTrainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=self.size, collate_fn=list)

    options = {"steps_per_generation": 2, "num_train_epochs": 1}
    trainer = make_trainer("ipo", tmp_path, trainer_class=recording(Own), **options)
    trainer.size = 4
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.prompts == PROMPTS[:4]
    trainer.size = 2
    with pytest.raises(ValueError, match="yields 2 rows .* a list of 4 is needed"):
        trainer.train()


# ---- Strings and conversations ----


def conversation(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def test_string_prompts_are_taken_as_they_are(tmp_path):
    """A string goes to the model token for token, and to the judge as it is in the dataset."""
    judge = CountingJudge()
    trainer = record("ipo", tmp_path, judge=judge, max_steps=4)
    assert {prompt for batch in trainer.fitted for prompt in prompts_of(trainer, batch)} == set(PROMPTS)
    assert {prompt for call in judge.calls for prompt in call["prompts"]} == set(PROMPTS)


@pytest.mark.parametrize("iterable", [False, True], ids=["table", "stream"])
def test_conversations_go_through_the_chat_template(iterable, tmp_path):
    """The model reads the rendered template with its generation prompt; the judge gets the messages."""
    judge = CountingJudge()
    messages = [conversation(prompt) for prompt in PROMPTS]
    trainer = record(
        "ipo",
        tmp_path,
        tokenizer=build_tokenizer(),
        dataset=stream(messages) if iterable else prompt_dataset(messages),
        judge=judge,
        max_steps=4,
        max_length=24,
    )
    rendered = {f"<|im_start|> user {prompt} <eos> <|im_start|> assistant" for prompt in PROMPTS}
    assert {prompt for batch in trainer.fitted for prompt in prompts_of(trainer, batch)} == rendered
    judged = [prompt for call in judge.calls for prompt in call["prompts"]]
    assert all(prompt in messages for prompt in judged)
    assert {prompt[0]["content"] for prompt in judged} == set(PROMPTS)


def test_chat_template_kwargs_reach_the_template(tmp_path):
    """A template with a switch renders as the switch says."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if mood is defined %}{{ mood }} {% endif %}"
    trainer = record(
        "ipo",
        tmp_path,
        tokenizer=tokenizer,
        dataset=prompt_dataset([conversation(prompt) for prompt in PROMPTS]),
        chat_template_kwargs={"mood": "yes"},
        max_steps=1,
        max_length=24,
    )
    assert all(p.endswith("assistant yes") for p in prompts_of(trainer, trainer.fitted[0]))


def test_conversations_without_a_template_are_refused(tmp_path):
    """The error says that a template is missing and what to do."""
    with pytest.raises(ValueError, match="row 0 of `train_dataset` .* no chat template.*plain text"):
        make_trainer("ipo", tmp_path, dataset=prompt_dataset(map(conversation, PROMPTS)))


def test_conversation_with_a_system_message_and_turns():
    """All messages are rendered, in order."""
    messages = [
        {"role": "system", "content": "h"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text, cut = PromptRenderer(build_tokenizer(), limit=32)(messages)
    assert (
        text.split()
        == (
            "<|im_start|>system h <eos> <|im_start|>user a <eos> <|im_start|>assistant b <eos> "
            "<|im_start|>user c <eos> <|im_start|>assistant"
        ).split()
    )
    assert not cut


# ---- Long prompts and BOS ----


def bos_tokenizer(chat: bool = False):
    """A tokenizer in the habit of beginning with <bos>."""
    tokenizer = build_tokenizer(chat=chat, bos_token="<bos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a b")["input_ids"] == tokenizer.convert_tokens_to_ids(["<bos>", "a", "b"])
    return tokenizer


def test_long_prompts_are_cut_from_the_left_before_generation(tmp_path, caplog):
    """
    max_length 9 - max_new_tokens 5 leaves 4 tokens: the last 4 of a longer prompt are read. Of 4 prompts sampled 2 are
    longer, so `prompts/cut_ratio` is .5, and it is said once; the judge still sees the whole prompt.
    """
    prompts = ["a b c d e f", "a b c d", "h g f e d", "a"]
    judge = CountingJudge()
    trainer = record(
        "ipo",
        tmp_path,
        dataset=prompt_dataset(prompts),
        judge=judge,
        max_length=9,
        per_device_train_batch_size=4,
        num_train_epochs=2,
    )
    kept = {"c d e f", "a b c d", "g f e d", "a"}
    assert {prompt for batch in trainer.fitted for prompt in prompts_of(trainer, batch)} == kept
    assert history(trainer, "prompts/cut_ratio") == [0.5, 0.5]
    assert sum("cut from the left" in entry.message for entry in caplog.records) == 1
    assert {prompt for call in judge.calls for prompt in call["prompts"]} == set(prompts)


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
def test_cut_prompts_keep_their_bos(limit):
    """With a <bos> in front, `limit` tokens are <bos> and the last `limit - 1` words; without, the last `limit`."""
    words = "a b c d e f"
    tokenizer = bos_tokenizer()
    text, cut = PromptRenderer(tokenizer, limit)(words)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = ["<bos>"] + (words.split()[-(limit - 1) :] if limit > 1 else [])
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert cut == (limit < 7)

    text, cut = PromptRenderer(build_tokenizer(chat=False), limit)(words)
    assert text.split() == words.split()[-limit:]
    assert cut == (limit < 6)


def test_strings_begin_with_bos_if_the_tokenizer_has_the_habit(tmp_path):
    """One <bos> in front of a string, none in front of a template's text or of a string that has one."""
    tokenizer = bos_tokenizer()
    trainer = record("ipo", tmp_path, tokenizer=tokenizer, max_steps=2)
    assert all(p.split().count("<bos>") == 1 for batch in trainer.fitted for p in prompts_of(trainer, batch))
    assert all(p.startswith("<bos>") for batch in trainer.fitted for p in prompts_of(trainer, batch))
    render = PromptRenderer(tokenizer, limit=16)
    assert render("<bos> a")[0].count("<bos>") == 1
    assert "<bos>" not in PromptRenderer(bos_tokenizer(chat=True), limit=16)(conversation("a"))[0]
    assert "<bos>" not in PromptRenderer(build_tokenizer(chat=False, bos_token="<bos>"), limit=16)("a")[0]


# ---- Thinking ----


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<think>a b</think> c", "c"),
        ("<think>a\nb</think>\n\nc <think>d</think> e", "e"),
        ("c <think>a b", ""),
        ("c d", "c d"),
        ("<think></think>", ""),
    ],
)
def test_strip_thinking(text, expected):
    """Closed and cut-off thinking is removed, everything else stays."""
    assert strip_thinking(text) == expected


@pytest.mark.parametrize("strip", [False, True])
def test_judges_see_no_thinking_if_told_so(strip, tmp_path, monkeypatch):
    """`strip_thinking` changes what the judge sees, and not the tokens that are trained on."""
    tokenizer = build_tokenizer(words=["a", "b", "c", "d", "<think>", "</think>"])
    answers = [f"<think> b </think> {last}" for last in "cd"]
    patch_engine(monkeypatch, tokenizer, lambda prompt, s: tokenizer(answers[s] + " <eos>")["input_ids"])
    judge = CountingJudge()
    trainer = record(
        "ipo",
        tmp_path,
        tokenizer=tokenizer,
        dataset=prompt_dataset(["a", "b"]),
        judge=judge,
        strip_thinking=strip,
        max_steps=1,
    )
    assert judge.calls[0]["first"] == (["c", "c"] if strip else [answers[0]] * 2)
    assert judge.calls[0]["second"] == (["d", "d"] if strip else [answers[1]] * 2)
    assert completions_of(trainer, trainer.fitted[0]) == answers * 2


# ---- Which completion belongs to which prompt ----


def patch_engine(monkeypatch, tokenizer, tokens):
    """transformers' `generate` answers its row number s of prompt text p with `tokens(p, s)`, padded on the right."""

    def generate(self, input_ids, attention_mask, generation_config, logits_processor, **cache):
        samples, count = [], Counter()
        for ids, mask in zip(input_ids, attention_mask.bool(), strict=True):
            assert mask.sort().values.equal(mask)  # padded on the left
            prompt = tokenizer.decode(ids[mask])
            samples.append(torch.tensor(tokens(prompt, count[prompt])))
            count[prompt] += 1
        completions = torch.nn.utils.rnn.pad_sequence(
            samples, batch_first=True, padding_value=generation_config.pad_token_id
        )
        return torch.cat([input_ids, completions], dim=1)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)


@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_completion_goes_to_its_prompt(count, chunk, tmp_path, monkeypatch):
    """
    Sample s of prompt p is "p w_s" with w = one, two, three, ...: each prompt gets its own first K samples, the judge
    sees all their pairs beside that prompt, and row b * K + k of a micro-batch is sample k of prompt b.
    """
    numbers = ["one", "two", "three", "yes", "no", "user"]
    tokenizer = build_tokenizer()
    patch_engine(
        monkeypatch,
        tokenizer,
        lambda prompt, s: tokenizer.convert_tokens_to_ids([prompt.split()[-1], numbers[s], "<eos>"]),
    )
    judge = CountingJudge()
    trainer = record(
        "ipo",
        tmp_path,
        judge=judge,
        num_generations=count,
        per_device_train_batch_size=3,
        steps_per_generation=2,
        per_device_generation_batch_size=chunk,
        max_steps=2,
    )
    rounds = trainer.prompts
    last = {prompt: prompt.split()[-1] for prompt in PROMPTS}
    for b, batch in enumerate(trainer.fitted):
        expected = [
            (prompt, f"{last[prompt]} {numbers[k]}") for prompt in rounds[3 * b : 3 * b + 3] for k in range(count)
        ]
        assert list(zip(prompts_of(trainer, batch), completions_of(trainer, batch), strict=True)) == expected
    asked = [row for call in judge.calls for row in zip(call["prompts"], call["first"], call["second"], strict=True)]
    assert asked == [
        (prompt, f"{last[prompt]} {numbers[i]}", f"{last[prompt]} {numbers[j]}")
        for prompts, _ in trainer.sampled
        for prompt in prompts
        for i in range(count)
        for j in range(i + 1, count)
    ]
    # A round of 6 prompts is sampled in the order of their lengths, so that a chunk needs little padding.
    lengths = [len(prompt) for prompts, _ in trainer.sampled for prompt in prompts]
    assert chunk == 6 or lengths == sorted(lengths[:6], reverse=True) + sorted(lengths[6:], reverse=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_real_generation_answers_the_right_prompt(count, algorithm, tmp_path):
    """
    A model that repeats the last word of its prompt for ever: each completion, the opponents' included, consists of
    the last word of the prompt that it is judged and trained with.
    """
    tokenizer = build_tokenizer(chat=False)
    judge = CountingJudge(lambda prompts, first, second: [0.5] * len(first))
    trainer = record(
        algorithm,
        tmp_path,
        model=build_copier(tokenizer),
        tokenizer=tokenizer,
        judge=judge,
        num_generations=count,
        per_device_train_batch_size=4,
        per_device_generation_batch_size=3,
        learning_rate=0.0,
        max_steps=2,
    )
    for prompts, samples in trainer.sampled:
        for prompt, completions in zip(prompts, samples.completion_ids, strict=True):
            assert {trainer.judging.decode(ids) for ids in completions} == {" ".join([prompt.split()[-1]] * 5)}
            assert len(completions) == (2 * count if algorithm.startswith("nash") else count)
    for batch in trainer.fitted:
        for prompt, completion in zip(prompts_of(trainer, batch), completions_of(trainer, batch), strict=True):
            assert set(completion.split()) == {prompt.split()[-1]}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_completions_are_sampled_in_one_call(count, tmp_path, caplog, monkeypatch):
    """K rows a prompt go to the engine at once, odd K or even: none is left over, and nothing is said of one."""
    trainer = make_trainer("ipo", tmp_path, num_generations=count, max_steps=2)
    sizes = []
    engine = sampler.generate_plainly
    monkeypatch.setattr(
        sampler,
        "generate_plainly",
        lambda *given, **options: sizes.append(len(given[3]) * given[4]) or engine(*given, **options),
    )
    with caplog.at_level("INFO", logger="trl_nash"):
        trainer.train()
    assert sizes == [2 * count] * 2
    assert not [entry.message for entry in caplog.records if "sampled in twos" in entry.message]


def test_the_samples_of_a_prompt_differ(tmp_path):
    """K = 5 samples come from K independent rows, not from repeated ones."""
    trainer = record("ipo", tmp_path, num_generations=5, max_steps=4)
    for _, samples in trainer.sampled:
        for completions in samples.completion_ids:
            assert len({tuple(ids) for ids in completions}) > 1


# ---- Columns ----


@pytest.mark.parametrize("count", [2, 3, 5])
def test_columns_reach_the_judge_with_their_row(count, tmp_path):
    """The judge gets a column's value beside each pair of the prompt that it belongs to, and only what it names."""
    columns = {"answer": [f"to {prompt}" for prompt in PROMPTS], "unused": [None] * 8}
    seen = []

    def judge(prompts, first, second, answer):
        seen.extend(zip(prompts, answer, strict=True))
        return favours_a(prompts, first, second)

    judge.symmetric = True
    make_trainer(
        "ipo",
        tmp_path,
        dataset=prompt_dataset(**columns),
        judge=judge,
        num_generations=count,
        steps_per_generation=4,
        per_device_generation_batch_size=3,
        max_steps=4,
    ).train()
    assert {prompt for prompt, _ in seen} == set(PROMPTS)
    assert all(answer == f"to {prompt}" for prompt, answer in seen)


@pytest.mark.parametrize("conversational", [False, True])
def test_columns_reach_reward_functions_with_their_row(conversational, tmp_path):
    """A reward function gets prompts, completions, token ids and columns of the same rows, each completion once."""
    rows = []

    def reward(prompts, completions, completion_ids, answer, **kwargs):
        rows.extend(zip(prompts, completions, completion_ids, answer, strict=True))
        return [float(len(ids)) for ids in completion_ids]

    prompts = [conversation(prompt) for prompt in PROMPTS] if conversational else PROMPTS
    trainer = record(
        "ipo",
        tmp_path,
        tokenizer=build_tokenizer(chat=conversational),
        dataset=prompt_dataset(prompts, answer=[f"to {prompt}" for prompt in PROMPTS]),
        judge=None,
        extra={"reward_funcs": reward},
        num_generations=3,
        steps_per_generation=2,
        per_device_generation_batch_size=3,
        max_steps=2,
        max_length=24,
    )
    assert isinstance(trainer.judge, RewardJudge)
    assert len(rows) == 4 * 3
    expected = [
        (prompt, trainer.judging.decode(ids), ids)
        for prompts, samples in trainer.sampled
        for prompt, completions in zip(prompts, samples.completion_ids, strict=True)
        for ids in completions
    ]
    for (prompt, completion, ids, answer), (own_prompt, text, own_ids) in zip(rows, expected, strict=True):
        assert prompt == own_prompt and list(ids) == own_ids
        assert answer == f"to {prompt[-1]['content'] if conversational else prompt}"
        assert completion == ([{"role": "assistant", "content": text}] if conversational else text)


# ---- Determinism and order ----


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_run(algorithm, tmp_path):
    """Two runs agree bitwise in losses and weights; another seed differs."""
    runs = []
    for seed in (7, 7, 8):
        trainer = make_trainer(algorithm, tmp_path / str(len(runs)), seed=seed, max_steps=4)
        trainer.train()
        runs.append((history(trainer, "loss"), weights(trainer.model)))
    assert runs[0][0] == runs[1][0] and equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_sampled_labels_are_deterministic_too(tmp_path):
    """Labels drawn from Bernoulli(P) follow the seed."""
    runs = []
    for seed in (7, 7, 8):
        trainer = record("ipo", tmp_path, seed=seed, preference_label="sampled", max_steps=4)
        runs.append(torch.cat([batch.preference for batch in trainer.fitted]))
        assert set(runs[-1].flatten().tolist()) <= {0.0, 1.0}
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_data_seed_orders_the_prompts_alone(tmp_path):
    """`data_seed` decides the order of the prompts; without it `seed` does."""

    def order(**seeds):
        trainer = record("ipo", tmp_path, num_train_epochs=1, **seeds)
        return trainer.prompts

    assert order(seed=1, data_seed=5) == order(seed=2, data_seed=5) == order(seed=5)
    assert order(seed=1) != order(seed=2)


def test_a_row_is_read_once_a_round(tmp_path):
    """Not once a micro-step: a round of 20,000 prompts has thousands of them."""

    class Reading(torch.utils.data.Dataset):
        read = []

        def __len__(self):
            return 8

        def __getitem__(self, row):
            self.read.append(row)
            return {"prompt": "abcdefgh"[row]}

    trainer = make_trainer(
        "ipo", tmp_path, dataset=Reading(), steps_per_generation=2, num_iterations=3, num_train_epochs=1
    )
    assert Reading.read == list(range(8))  # to render it
    Reading.read.clear()
    trainer.train()
    assert sorted(Reading.read) == list(range(8))


# ---- A fresh optimizer in every round ----


@pytest.mark.parametrize("algorithm", ["ipo", "onpo-two"])
@pytest.mark.parametrize("restart", [False, True])
def test_restart_each_round(restart, algorithm, tmp_path):
    """
    Rounds of 4 steps, 3 rounds, linear schedule. Restarted: Adam's step count runs 1 2 3 4 in each round, its first
    moment after a round's first step is (1 - β₁) g alone, and the learning rate runs 1, 3/4, 1/2, 1/4. Otherwise all
    of them span the 12 steps.
    """
    seen = []

    class Watch(ALGORITHMS[algorithm][0]):
        def _get_grad_norm(self, model, grad_norm=None):
            self.gradient = self.model.lm_head.weight.grad.clone()
            return super()._get_grad_norm(model, grad_norm=grad_norm)

        def log(self, logs, start_time=None):
            if "loss" in logs:
                state = self.optimizer.state[self.model.lm_head.weight]
                fresh = torch.allclose(state["exp_avg"], 0.1 * self.gradient, rtol=1e-5, atol=0)
                seen.append((int(state["step"]), fresh, logs["learning_rate"]))
            super().log(logs, start_time)

    make_trainer(
        algorithm,
        tmp_path,
        trainer_class=Watch,
        steps_per_generation=2,
        num_iterations=1 if algorithm == "onpo-two" else 2,
        restart_each_round=restart,
        max_grad_norm=0.0,
        learning_rate=1e-2,
        max_steps=12,
        num_generations=4,  # so that no batch is without a gradient
    ).train()
    steps, fresh, rates = zip(*seen, strict=True)
    if restart:
        assert steps == (1, 2, 3, 4) * 3
        assert fresh == (True, False, False, False) * 3
        # transformers logs the rate that the step was taken with.
        assert rates == pytest.approx([1e-2 * (4 - s) / 4 for s in range(4)] * 3)
    else:
        assert steps == tuple(range(1, 13))
        assert fresh == (True,) + (False,) * 11
        assert rates == pytest.approx([1e-2 * (12 - s) / 12 for s in range(12)])


def test_schedules_that_cannot_be_restarted_are_refused(tmp_path):
    """A schedule that reacts to a metric is no function of the step; the error names one that is."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        restart_each_round=True,
        lr_scheduler_type="reduce_lr_on_plateau",
        eval_strategy="steps",
        eval_steps=1,
        max_steps=1,
        extra={"eval_dataset": prompt_dataset(PROMPTS[:2])},
    )
    with pytest.raises(ValueError, match="cannot be restarted.*'cosine'"):
        trainer.train()
