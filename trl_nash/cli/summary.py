# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a training command says before it starts and when it is done."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..trainers.run.completions import Verdict

_LONGEST_PROMPT = 400  # characters shown of the rendered prompt
_RESULTS = {
    "policy/kl_reference": "KL to the start",
    "completions/mean_length": "completion length",
    "judge/abstained": "judge abstained",
    "fit/r2_end": "R² of the fits",
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
        arguments ([`~trl_nash.cli.train.Arguments`]):
            What the options say.
        render ([`~trl_nash.generation.prompts.PromptRenderer`]):
            Renders the first prompt.
        prompts ([`~trl_nash.cli.data.Prompts`]):
            The data.
        held_out (`str`, *optional*):
            Which of the prompts are held out, or why none are.
        adapter (`dict`, *optional*):
            The configuration of the adapter that the model is.
        costs (`dict[str, str]`, *optional*):
            What else there is to say, by headings.
        resumed ([`~trl_nash.trainers.run.checkpoint_files.Found`], *optional*):
            The checkpoint that the run goes on from.

    Returns:
        `str`
    """
    from ..data.messages import prompt_of
    from .dry_run import rate_of

    training, model = arguments.training, arguments.model
    text, cut = render(prompt_of(prompts.first))
    quantised = "4-bit, " if model.load_in_4bit else "8-bit, " if model.load_in_8bit else ""
    weights = f"LoRA of rank {model.lora_r}" if model.use_peft else "all weights"
    if adapter is not None:
        own = f"adapter of rank {adapter['r']}" if "r" in adapter else "adapter"
        base = adapter["base_model_name_or_path"]
        merged = f"{own} merged into {base}, then {weights}"
        weights = merged if training.merge_adapter else f"{own} on {base}, trained further"
    processes = _counted(training.world_size, "process", "processes")
    evaluation = "" if prompts.evaluation is None else f"; {_rows(prompts.evaluation)} to evaluate on"
    steps = _counted(training.optimizer_steps_per_round, "optimizer step", "optimizer steps")
    passes = f" in {training.num_iterations} passes" if training.num_iterations > 1 else ""
    passes += _unless(arguments, "generation_batch_size", "steps_per_generation")
    lines = {
        "model": f"{model.model_name_or_path} ({quantised}{weights}), {processes}",
        "prompts": f"{_rows(prompts.train)} of {prompts.name}, column {prompts.column}{evaluation}",
        "held out": held_out,
        "first": f"{_shortened(text)}{f' (cut from the left to {render.limit} tokens)' if cut else ''}",
        "round": f"{training.prompts_per_round} prompts x {training.num_generations} completions of up to "
        f"{training.max_new_tokens} tokens, then {steps}{passes}",
        "generate": f"{training.generation_chunk} prompts a call"
        + _unless(arguments, "per_device_generation_batch_size"),
        "steps": _steps(training, prompts),
        "rate": rate_of(training),
        "judge": " and ".join(arguments.judge.names) or f"reward model {training.reward_model_path}",
        **(costs or {}),
        "resumes": resumed and f"{resumed.checkpoint}. {resumed.others}".rstrip(),
        "output": str(training.output_dir),
    }
    title = f"Plan of this {algorithm} run" + (" (dry run: nothing is trained)" if arguments.script.dry_run else "")
    return "\n".join([title, *(f"  {name:<8} {line}" for name, line in lines.items() if line is not None)])


def result_text(
    state, output_dir: str, seconds: float | None, last: dict[str, float], answers: "Sequence[Verdict]" = ()
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
        last (`dict[str, float]`):
            Metrics of the last round. `log_history` has those of the last `logging_steps`, which may be another.
        answers (`Sequence[Verdict]`, *optional*):
            Of the policy and of the start, in the last evaluation.

    Returns:
        `str`
    """
    from ..trainers.run.result import result

    steps = _counted(state.global_step, "step", "steps")
    done = f"Finished before, after {steps}" if seconds is None else f"Trained {steps} in {seconds:.0f} s"
    lines = [f"{done}. The model is in {output_dir}."]
    shown = [f"{label} {last[name]:.3g}" for name, label in _RESULTS.items() if name in last]
    if shown:
        lines.append(f"  In the last round: {', '.join(shown)}.")
    if (said := result(state.log_history)) is not None:
        lines.append(f"  {said}")
    for answer in answers:
        texts = {"prompt": answer.prompt, "start": answer.second, "aligned": answer.first}
        lines += ["", *(f"  {name:<8} {_shortened(text)}" for name, text in texts.items())]
    return "\n".join(lines)


def _steps(training, prompts) -> str:
    from .dry_run import steps_of

    if (found := steps_of(training, prompts)) is None:
        return "as many as the stream has prompts"
    rounds, steps = found
    precision = "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32"
    rounds = _counted(rounds, "round", "rounds")
    return f"{rounds}, {_counted(steps, 'optimizer step', 'optimizer steps')} in {precision}"


def _unless(arguments, option: str, *others: str) -> str:
    """Behind a size that nobody has chosen: how to."""
    return "" if arguments.chosen & {option, *others} else f" (--{option} N to decide yourself)"


def _rows(dataset) -> str:
    return f"{len(dataset):,} rows" if hasattr(dataset, "__len__") else "streamed rows"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _shortened(text: str) -> str:
    from ..trainers.run.completions import printable

    text = printable(text)
    if len(text) > _LONGEST_PROMPT:
        half = _LONGEST_PROMPT // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return json.dumps(text, ensure_ascii=False)
