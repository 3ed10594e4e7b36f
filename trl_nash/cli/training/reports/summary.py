# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a training command says before it starts and when it is done."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....planning.words import counted, remarks_on, run_words


if TYPE_CHECKING:
    from ....trainers.run.reports.advice import Facts
    from ....trainers.run.reports.completions import Verdict

_LONGEST_PROMPT = 400  # characters shown of the rendered prompt
_RESULTS = {
    "completions/mean_length": "completion length",
    "judge/abstained": "pairs without a verdict",
    "fit/r2_end": "R² of the fits",
    "fit/r2_held_out": "R² of held-out prompts",
}


def plan_text(
    algorithm: str,
    arguments,
    render,
    prompts,
    held_out: str | None = None,
    adapter: dict | None = None,
    costs: dict[str, str] | None = None,
    resumed=None,
) -> str:
    """
    The plan of a run on one screen.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.
        arguments ([`~trl_nash.cli.training.train.Arguments`]):
            What the options say.
        render ([`~trl_nash.generation.prompts.PromptRenderer`]):
            Renders the first prompt.
        prompts ([`~trl_nash.cli.training.data.Prompts`]):
            The data.
        held_out (`str`, *optional*):
            Which of the prompts are held out, or why none are.
        adapter (`dict`, *optional*):
            The configuration of the adapter that the model is.
        costs (`dict[str, str]`, *optional*):
            What else there is to say, by headings.
        resumed ([`~trl_nash.trainers.run.checkpoints.files.Found`], *optional*):
            The checkpoint that the run goes on from.

    Returns:
        `str`
    """
    from ....data.messages import prompt_of
    from ....generation.dialogue import TURNS
    from ....planning.run.config import length_of
    from ..dry_run import rate_of
    from ..sizes import count

    training, model = arguments.training, arguments.model
    text, cut = render(prompt_of(prompts.first))
    quantised = "4-bit, " if model.load_in_4bit else "8-bit, " if model.load_in_8bit else ""
    weights = f"LoRA of rank {model.lora_r}" if model.use_peft else "all weights"
    if adapter is not None:
        own = f"adapter of rank {adapter['r']}" if "r" in adapter else "adapter"
        base = adapter["base_model_name_or_path"]
        merged = f"{own} merged into {base}, then {weights}"
        weights = merged if training.merge_adapter else f"{own} on {base}, trained further"
    processes = counted(training.world_size, "process", "processes")
    precision = "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32"
    evaluation = "" if prompts.evaluation is None else f"; {_rows(prompts.evaluation)} to evaluate on"
    length = length_of(training, training, count(prompts.train))
    sizes = run_words(training, *(length or (0, 0)))
    sizes["steps"] = "as many as the stream has prompts" if length is None else f"{sizes['steps']} in {precision}"
    rounds = 0 if length is None else length[0]
    remarks = remarks_on(training, arguments.chosen, training.max_steps, count(prompts.train), rounds)
    lines = {
        "model": f"{model.model_name_or_path} ({quantised}{weights}), {processes}",
        "prompts": f"{_rows(prompts.train)} of {prompts.name}, column {prompts.column}{evaluation}",
        "held out": held_out,
        "first": f"{_shortened(text)}{f' (cut from the left to {render.limit} tokens)' if cut else ''}",
        **{name: line + remarks.get(name, "") for name, line in sizes.items()},
        "rate": rate_of(training),
        "judge": " and ".join(arguments.judge.names) or f"reward model {training.reward_model_path}",
        "user": arguments.script.user
        and f"{arguments.script.user}, dialogues of up to "
        f"{counted(training.max_turns or TURNS, 'turn')} of the policy",
        **(costs or {}),
        "resumes": resumed and f"{resumed.checkpoint}. {resumed.others}".rstrip(),
        "output": str(training.output_dir),
    }
    title = f"Plan of this {algorithm} run" + (" (dry run: nothing is trained)" if arguments.script.dry_run else "")
    return "\n".join([title, *(f"  {name:<8} {line}" for name, line in lines.items() if line is not None)])


def result_text(
    state, output_dir: str, seconds: float | None, last: "Facts", answers: "Sequence[Verdict]" = ()
) -> str:
    """
    What came out of a run.

    Args:
        state ([`~transformers.TrainerState`]):
            After training.
        output_dir (`str`):
            Where the model is.
        seconds (`float`, *optional*):
            How long training took, if there was anything to train.
        last ([`~trl_nash.trainers.run.reports.advice.Facts`]):
            Of the last round. `log_history` has the metrics of the last `logging_steps`, which may be another.
        answers (`Sequence[Verdict]`, *optional*):
            Of the policy and of the start, in the last evaluation.

    Returns:
        `str`
    """
    from ....trainers.run.reports.advice import fell_short
    from ....trainers.run.reports.result import kl_words, result

    steps = counted(state.global_step, "step")
    done = f"Finished before, after {steps}" if seconds is None else f"Trained {steps} in {seconds:.0f} s"
    lines = [f"{done}. The model is in {output_dir}."]
    shown = []
    if "policy/kl_reference" in last:
        shown.append(f"KL to the start {kl_words(last['policy/kl_reference'], last['policy/kl_reference_se'])}")
    shown += [f"{label} {last[name]:.3g}" for name, label in _RESULTS.items() if name in last]
    if shown:
        lines.append(f"  In the last round: {', '.join(shown)}.")
    if fell_short(last):
        lines.append(
            f"  The fits reached {last['reached']:.0%} of their targets: the policy has hardly moved. Raise "
            f"--learning_rate ({last['learning_rate']:g}) or --num_iterations ({last['passes']})."
        )
    if (said := result(state.log_history)) is not None:
        lines.append(f"  {said}")
    for answer in answers:
        texts = {"prompt": answer.prompt, "start": answer.second, "aligned": answer.first}
        lines += ["", *(f"  {name:<8} {_shortened(text)}" for name, text in texts.items())]
    return "\n".join(lines)


def _rows(dataset) -> str:
    return f"{len(dataset):,} rows" if hasattr(dataset, "__len__") else "streamed rows"


def _shortened(text: str) -> str:
    from ....trainers.run.reports.completions import printable

    text = printable(text)
    if len(text) > _LONGEST_PROMPT:
        half = _LONGEST_PROMPT // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return json.dumps(text, ensure_ascii=False)
