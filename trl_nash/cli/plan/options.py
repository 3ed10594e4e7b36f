# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The options of `trl-nash plan`. Defaults of training options are the training commands' own."""

import argparse

from ...planning.known import STRATEGIES
from ...planning.model import COUNTS
from ...planning.words import number_of
from ...rounds.pairings import PAIR_SELECTIONS
from ..options.typed import ALIASES


ALGORITHMS = (
    *("onpo", "comal", "nash-md", "inpo", "egpo", "mnpo", "mpo", "nash-mp", "nash-prox", "online-ipo", "sppo"),
    "iterative-ipo",
)
_ON_POLICY = ("nash-md", "nash-prox")
# Options of some algorithms only.
OWN = {
    "fits": ("onpo",),
    "anchor_history": ("onpo",),
    "history_weights": ("mnpo",),
    "reference_rounds": ("comal", "mpo", "nash-prox"),
    "opponent": ("nash-md",),
    "mixture_coef": ("nash-md", "online-ipo"),
    "pair_selection": tuple(name for name in ALGORITHMS if name not in (*_ON_POLICY, "sppo")),
    "pairs_per_prompt": tuple(name for name in ALGORITHMS if name not in (*_ON_POLICY, "sppo")),
}
# The profiles of --accelerate_config.
PROFILES_OF_DDP = ("multi_gpu", "single_gpu", "multi_node")
STRATEGY_OF = dict.fromkeys(PROFILES_OF_DDP, "ddp") | {name: name for name in STRATEGIES if name != "ddp"}


def gibibytes(text: str) -> float:
    """`80`, `80GB` and `80GiB` are the same: what vendors call GB of memory are GiB."""
    return float(text.strip().lower().removesuffix("gib").removesuffix("gb"))


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(text)
    return text.lower() in ("true", "1", "yes")


ASSUMED = "H100"  # the device, where nobody names one


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all options, in groups."""
    parser.add_argument("--config", metavar="FILE", help="YAML file of a training command; what is typed goes first")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes, FLOP and seconds")
    _add_model(parser.add_argument_group("the model: by name, or by hand"))
    _add_training(parser.add_argument_group("training, as in the training commands"))
    _add_judge(parser.add_argument_group("the judge"))
    _add_hardware(parser.add_argument_group("hardware"))
    speeds = parser.add_argument_group("assumed speeds: shares of the device's peak")
    _number(speeds, "training_mfu", 0.35)
    _number(speeds, "scoring_mfu", 0.45, "forward passes only")
    _number(speeds, "bandwidth_use", 0.6, "of memory, in decoding")
    _number(speeds, "layer_overhead_ms", 0.8, "transformers' time to start a layer for a token, 0 with vLLM")
    _number(speeds, "vllm_link", 10.0, "GB/s to a vLLM server")


def _add_model(group) -> None:
    group.add_argument(
        "--model_name_or_path",
        metavar="MODEL",
        help="directory, config.json, or a name on the hub: in its cache, or well known (Qwen2.5-7B)",
    )
    group.add_argument("--parameters", type=number_of, metavar="N", help="7B: a Llama of about that size")
    for name in COUNTS:
        group.add_argument(f"--{name}", type=int, metavar="N")
    _flag(group, "tie_word_embeddings", None, "the output head is the embedding")


def _add_training(group) -> None:
    def whole(name: str, default: int | None, text: str) -> None:
        said = "" if default is None else " (default: %(default)s)"
        group.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text + said)

    group.add_argument("--fits", choices=("one", "two"), help="ONPO's fits in a round")
    whole("anchor_history", None, "past policies in ONPO's anchor (default: 5)")
    group.add_argument("--history_weights", type=float, nargs="+", metavar="X", help="MNPO's (default: 0.5 0.5)")
    whole("reference_rounds", None, "rounds until the reference moves (default: 6; nash-prox 100)")
    group.add_argument("--opponent", choices=("mixture", "ema"), help="Nash-MD's")
    group.add_argument("--mixture_coef", type=float, nargs="+", metavar="X", help="weight of the start in an opponent")
    group.add_argument("--pair_selection", choices=PAIR_SELECTIONS, help="default: all")
    whole("pairs_per_prompt", None, "pairs that are judged, of --pair_selection random and active")
    whole("num_generations", None, "K, completions per prompt (default: the command's)")
    whole("per_device_train_batch_size", 8, "prompts in a micro-step")
    whole("gradient_accumulation_steps", 1, "micro-steps of an optimizer step")
    whole("generation_batch_size", None, "prompts in a round over all devices (default: the command's)")
    whole("steps_per_generation", None, "or micro-steps in a round")
    whole("per_device_generation_batch_size", None, "prompts in a call of the generator (default: what fits)")
    whole("num_iterations", None, "passes over a round (default: 1, or what a round of few prompts needs)")
    whole("rounds", None, "rounds of the run")
    whole("max_steps", None, "or its optimizer steps")
    whole("dataset_size", None, "or the prompts of the data set, with --num_train_epochs")
    _number(group, "num_train_epochs", 3.0)
    group.add_argument(
        "--test_split_size", type=float, metavar="X", help="share or number of prompts to evaluate on (default: 5 %%)"
    )
    group.add_argument("--dataset_test_split", metavar="NAME", help="a split to evaluate on")
    group.add_argument(
        "--eval_strategy",
        choices=("no", "steps", "epoch"),
        default="no",
        help="when besides the end (default: %(default)s)",
    )
    group.add_argument("--eval_steps", type=float, metavar="N", help="optimizer steps, or a share of the run's")
    group.add_argument(
        "--logging_steps", type=float, default=10, help=argparse.SUPPRESS
    )  # where there are no eval_steps
    whole("per_device_eval_batch_size", 8, "prompts that are evaluated at a time")
    whole("opponent_pool_rounds", None, "rounds after which a policy joins the pool that evaluations play against")
    whole("max_length", 512, "longest prompt with its completion; memory is planned for it")
    whole("max_new_tokens", 64, "longest completion")
    group.add_argument("--user", metavar="SPEC", help="as in training: dialogues with this user")
    whole("max_turns", None, "the policy's turns in a dialogue (default: 4)")
    whole("prompt_length", None, "mean, for tokens and time (default: the longest)")
    whole("completion_length", None, "mean, for tokens and time (default: the longest)")
    group.add_argument(
        "--dtype",
        *(f"--{alias}" for alias, name in ALIASES.items() if name == "dtype"),
        choices=("float32", "bfloat16", "float16", "auto"),
        default="float32",
        help="of the weights (default: %(default)s)",
    )
    _flag(group, "bf16", None, "16-bit arithmetic (default on GPUs)")
    _flag(group, "fp16", False, "the same in fp16")
    _flag(group, "gradient_checkpointing", True, "default: %(default)s")
    group.add_argument("--optim", default="adamw_torch_fused", metavar="NAME", help="any AdamW (default: %(default)s)")
    _flag(group, "use_peft", False, "train a LoRA adapter")
    whole("lora_r", 16, "its rank")
    group.add_argument("--lora_target_modules", nargs="+", metavar="NAME", help="default: PEFT's, q_proj and v_proj")
    _flag(group, "load_in_4bit", False, "QLoRA: the other weights in NF4")
    _flag(group, "load_in_8bit", False, "or in int8")
    _flag(group, "use_bnb_nested_quant", False, "their scales quantised too")
    _flag(group, "use_vllm", False, "sample with vLLM")
    group.add_argument("--vllm_mode", choices=("colocate", "server"), default="colocate", help="default: %(default)s")
    _number(group, "vllm_gpu_memory_utilization", 0.55)
    whole("vllm_tensor_parallel_size", 1, "devices that share a colocated engine")
    _flag(group, "vllm_enable_sleep_mode", False, "it frees its memory while the policy is scored and fitted")


def _add_judge(group) -> None:
    group.add_argument("--judge", nargs="+", metavar="SPEC", help="as in training: reward:org/model, openai:model ...")
    group.add_argument("--judge_kwargs", metavar="JSON", help="its arguments, of which `order` counts")
    group.add_argument("--reward_model_path", metavar="MODEL", help="or a reward model")
    group.add_argument(
        "--judge_parameters", type=number_of, default=0, metavar="N", help="size of a local judge (in 16 bits), as 8B"
    )
    _number(group, "judge_rate", 10.0, "calls a second of a remote one")


def _add_hardware(group) -> None:
    group.add_argument(
        "--devices",
        "--num_processes",
        dest="num_processes",
        type=int,
        default=1,
        metavar="N",
        help="how many there are (default: %(default)s)",
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        help="B200, H200, H100, H100-PCIe, A100-80GB, A100-40GB, L40S, L4, A10, MI300X, RTX-4090, RTX-3090, T4, cpu "
        f"(default: {ASSUMED}). Peak rates are those of public data sheets",
    )
    group.add_argument("--memory", type=gibibytes, metavar="GB", help="of a device, 80GB (of the machine with cpu)")
    group.add_argument("--tflops", type=float, metavar="X", help="its dense 16-bit TFLOP/s")
    group.add_argument("--bandwidth", type=float, metavar="X", help="of its memory, in GB/s")
    group.add_argument(
        "--strategy", nargs="+", choices=STRATEGIES, help="how to distribute (default: ddp); several are compared"
    )
    group.add_argument("--accelerate_config", metavar="NAME", help="the same, as the training commands call it")


def _number(group, name: str, default: float, text: str = "") -> None:
    said = f"{text} (default: %(default)s)" if text else "default: %(default)s"
    group.add_argument(f"--{name}", type=float, default=default, metavar="X", help=said)


def _flag(group, name: str, default: bool | None, text: str) -> None:
    group.add_argument(f"--{name}", type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=text)
