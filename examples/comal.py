# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Trains a model with COMAL.

    accelerate launch examples/comal.py \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/ultrafeedback-prompt \
        --reward_model_path Skywork/Skywork-Reward-V2-Qwen3-0.6B \
        --per_device_train_batch_size 4 \
        --generation_batch_size 512 \
        --max_new_tokens 256 \
        --max_length 1024 \
        --output_dir Qwen2.5-0.5B-COMAL

`trl-nash comal` takes the same options, and more.
"""

from dataclasses import dataclass, field

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_nash import COMALConfig, COMALTrainer


@dataclass
class JudgeArguments:
    judge: str | None = field(
        default=None, metadata={"help": "Your own judge, `package.module:name`, in place of `--reward_model_path`."}
    )


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, JudgeArguments, COMALConfig, ModelConfig))
    script_args, judge_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "quantization_config": get_quantization_config(model_args),
    }

    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    evaluate = training_args.eval_strategy != "no"

    trainer = COMALTrainer(
        model=model_args.model_name_or_path,
        judge=judge_args.judge,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if evaluate else None,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()

    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
