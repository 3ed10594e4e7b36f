# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The script behind every training command: `accelerate launch -m trl_nash.cli.training.train ALGORITHM [options]`.

`trl-nash ALGORITHM` checks the options and starts it; started by hand it reads the same ones.
"""

import dataclasses
import os
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import trl_nash

from ...learning_rates import OF_ADAPTERS
from ...usage import UsageError
from ..command import COMMAND, shown_command
from ..errors import hide_noise, is_first_process, is_user_error, report
from ..options.reading import read_options
from ..options.typed import ALGORITHMS
from .held_out import hold_out
from .launching.stop_signals import StopSignals
from .launching.threads import choose_threads
from .output_folder import give_up
from .reports.ending import how_to_resume, leave_process_group, report_stop
from .reports.pool import print_pool
from .reports.summary import plan_text, result_text


if TYPE_CHECKING:
    from ..options.arguments import Arguments

_LIGHT = {"function", "group", "random", "openai", "openai-group", "hf"}  # judges that load no model here


def main(argv: list[str] | None = None) -> int:
    """
    Trains as the options say, and answers the user's errors with a sentence.

    Args:
        argv (`list[str]`, *optional*):
            The algorithm and its options. If `None`, the arguments of the process.

    Returns:
        `int`: The exit code, see [`trl_nash.cli.main.main`].
    """
    algorithm, *argv = sys.argv[1:] if argv is None else argv
    signals, trainer = StopSignals(), None
    signals.install()
    hide_noise()
    try:
        arguments = read_arguments(algorithm, argv)
        trainer = build_trainer(algorithm, arguments)
        if trainer is not None:
            trainer.command = os.environ.get(COMMAND) or shown_command(algorithm, argv)
            train(trainer, arguments, signals)
    except KeyboardInterrupt:
        if is_first_process():
            print(f"\ntrl-nash {algorithm}: interrupted. {how_to_resume(trainer)}", file=sys.stderr, flush=True)
        return 128 + (signals.number or signal.SIGINT)
    except Exception as error:
        if trainer is not None and trainer.stopped:
            return report_stop(algorithm, trainer, str(error), signals)
        if not is_user_error(error, starting=trainer is None):
            raise
        return report(error, f"trl-nash {algorithm}")
    code = 0
    if trainer is not None and trainer.stopped:
        how = f"{signals.name}: stopped at step {trainer.state.global_step}."
        code = report_stop(algorithm, trainer, how, signals)
    leave_process_group()
    return code


def read_arguments(algorithm: str, argv: list[str]) -> "Arguments":
    """
    Builds the dataclasses from the options, the file of `--config` and what this machine's hardware decides.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.
        argv (`list[str]`):
            The options.

    Returns:
        [`Arguments`]

    Raises:
        UsageError: If an option is unknown or its value cannot be read.
        ValueError: If the algorithm's config refuses a value.
    """
    from ..options.arguments import arguments_of
    from .launching.hardware import hardware_options

    read = read_options(algorithm, argv)
    options, sentence = hardware_options(read.arguments)
    if "learning_rate" not in read.given and read.arguments.use_peft:
        sentence += (
            f"\nLearning rate: {OF_ADAPTERS:g}, chosen for an adapter (--learning_rate to decide yourself; "
            f"where all weights are trained it is {read.arguments.learning_rate:g})."
        )
        options += ["--learning_rate", str(OF_ADAPTERS)]
    if is_first_process():
        print(sentence, flush=True)
    return arguments_of(algorithm, read.parser.parse_args([*read.script_args, *options]), read.given)


def build_trainer(algorithm: str, arguments: "Arguments"):
    """
    Reads the data, prints the plan of the run and builds the trainer; after `--dry_run` there is none.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.
        arguments ([`Arguments`]):
            What [`read_arguments`] returned.

    Returns:
        [`NashTrainer`] or `None`
    """
    from ...compat import get_peft_config, get_quantization_config
    from ...data.check import remember
    from ...generation.dialogue.turns import Turns
    from ...generation.prompts import PromptRenderer
    from ...trainers.checks.ahead import check_columns, check_pairing, check_run
    from ...trainers.checks.arguments import check_arguments
    from ...trainers.loading import adapter_config, check_adapter, load_tokenizer
    from ...trainers.run.checkpoints.files import find_checkpoint
    from ...trainers.run.dialogues import Dialogues
    from .data import load_prompts
    from .dry_run import check_model_without_weights, costs
    from .sizes import choose_sizes

    script, training, model = arguments.script, arguments.training, arguments.model
    resumed = find_checkpoint(training.resume_from_checkpoint, training.output_dir)
    path = model.model_name_or_path
    adapter = adapter_config(path, model.model_revision)
    check_adapter(path, adapter, training.merge_adapter)
    peft_config = get_peft_config(model)
    further = None if training.merge_adapter else adapter
    if further is not None:
        _check_continued(path, further, model)
        peft_config = None  # it is the adapter that is there
    judge = _load_judge(arguments.judge, training.device, without_models=True)
    tokenizer = load_tokenizer(path, model.model_revision, training.trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    holds_none = arguments.mixture.test_split_size == 0
    mixture = replace(arguments.mixture, test_split_size=None) if holds_none else arguments.mixture
    evaluate = script.dataset_test_split is not None or mixture.test_split_size is not None
    render = PromptRenderer.of(training, tokenizer)
    with training.main_process_first(desc="reading prompts"):
        prompts = load_prompts(script, mixture, render, evaluate=evaluate, seed=training.seed)
        prompts, held_out = hold_out(prompts, training, none=holds_none)
    base = path if adapter is None else adapter["base_model_name_or_path"]
    run = choose_sizes(algorithm, arguments, prompts, base, further, resumed)
    for dataset in (prompts.train, prompts.evaluation):
        remember(dataset, render)  # its rows were rendered while they had the numbers that the user knows
    check_arguments(
        training, data_collator=None, compute_metrics=None, preprocess_logits_for_metrics=None, lr_scheduler=None
    )
    check_run(training, arguments.judge.judge, training.reward_model_path, prompts.train, prompts.evaluation)
    if judge is not None:
        check_columns(judge, prompts.train, prompts.evaluation)
        check_pairing(judge, training)
    dialogues = Dialogues(user=script.user)
    dialogues.check(training)
    if script.user is not None:
        Turns(tokenizer, [tokenizer.eos_token_id], training.chat_template_kwargs)  # or its template is refused
    found = None
    if script.dry_run:
        check_model_without_weights(base, arguments, peft_config)
        found = costs(run, base, arguments, render, prompts)
    if is_first_process():
        print(plan_text(algorithm, arguments, render, prompts, held_out, adapter, found, resumed), flush=True)
    if script.dry_run:
        return None
    judge = judge or _load_judge(arguments.judge, training.device)

    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "quantization_config": get_quantization_config(model),
        **(training.model_init_kwargs or {}),
    }
    trainer = getattr(trl_nash, ALGORITHMS[algorithm].trainer)(
        model=path,
        reward_funcs=training.reward_model_path,
        args=training,
        train_dataset=prompts.train,
        eval_dataset=prompts.evaluation,
        processing_class=tokenizer,
        peft_config=peft_config,
        judge=judge,
        user=script.user,
    )
    if training.device.type == "cpu":
        sentence = choose_threads(trainer.model)  # each process its own
        if is_first_process():
            print(sentence, flush=True)
    if script.ignore_bias_buffers:
        trainer.model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in trainer.model.named_buffers() if not buffer.is_floating_point()
        ]
    return trainer


def train(trainer, arguments: "Arguments", signals: StopSignals) -> None:
    """
    Trains, evaluates if there are prompts for it, saves the model with its card, and says how it went. A run that was
    asked to stop only trains.

    Args:
        trainer ([`NashTrainer`]):
            What [`build_trainer`] returned.
        arguments ([`Arguments`]):
            What [`read_arguments`] returned.
        signals ([`StopSignals`]):
            Who asks.
    """
    from .reports.round_lines import show_rounds

    start = time.monotonic()
    if arguments.script.overwrite and trainer.args.should_save:
        give_up(trainer.args.output_dir)
    signals.trainer = trainer
    show_rounds(trainer)
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    signals.trainer = None
    if trainer.stopped:
        return
    seconds = time.monotonic() - start
    if trainer.eval_dataset is not None and not _evaluated_last(trainer.state):
        trainer.evaluate()

    name = arguments.script.dataset_name
    on_hub = name if name and not arguments.mixture.datasets and not os.path.exists(name) else None
    trainer.save_model(trainer.args.output_dir)
    trainer.create_model_card(dataset_name=on_hub)
    if is_first_process():
        seconds, answers = None if trainer.was_finished else seconds, trainer.reporter.answers
        last = trainer.round_end.facts
        print(result_text(trainer.state, trainer.args.output_dir, seconds, last, answers), flush=True)
        if trainer.opponent_pool is not None:
            print_pool(trainer.opponent_pool, trainer.args.output_dir)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=on_hub)
        trainer.accelerator.print(f"Pushed to https://huggingface.co/{trainer.hub_model_id}.")
    trainer.accelerator.end_training()


def _check_continued(path: str, adapter: dict, model) -> None:
    """Refuses options of a new adapter where one is trained further."""
    for field in dataclasses.fields(model):
        name, value = field.name, getattr(model, field.name)
        if not name.startswith(("lora_", "use_rslora", "use_dora")) or value == field.default:
            continue
        if value not in (adapter.get(name), adapter.get(name.removeprefix("lora_"))):
            raise UsageError(
                f"--{name} {value} is of a new adapter, and the one in {path} is trained further: leave it out, or "
                "add --merge_adapter."
            )


def _load_judge(judge_args, device, *, without_models: bool = False):
    """The judge of `--judge`, if there is one; `without_models` only if no weights are loaded for it."""
    kwargs = dict(judge_args.judge_kwargs or {})
    keys = {name.partition(":")[0] for name in judge_args.names}
    if not keys or (without_models and keys & trl_nash.JUDGES.keys() - _LIGHT):
        return None
    return trl_nash.load_judge(judge_args.judge, kwargs.pop("device", device), **kwargs)


def _evaluated_last(state) -> bool:
    return any("eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history)


if __name__ == "__main__":
    sys.exit(main())
