# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Trains a LoRA adapter with ONPO, in rounds that are fitted: a hundred optimizer steps a round.

    accelerate launch examples/onpo.py \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/ultrafeedback-prompt \
        --judge examples.judge_function:on_topic_and_short \
        --use_peft \
        --step_size 24 \
        --num_generations 4 \
        --per_device_train_batch_size 4 \
        --generation_batch_size 512 \
        --learning_rate 1e-4 \
        --output_dir Qwen2.5-0.5B-ONPO

`trl-nash onpo` takes the same options, and more.
"""

from dataclasses import dataclass, field

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_nash import ONPOConfig, ONPOTrainer


@dataclass
class JudgeArguments:
    judge: str = field(metadata={"help": "Your own judge, `package.module:name`."})


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, JudgeArguments, ONPOConfig, ModelConfig))
    script_args, judge_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "quantization_config": get_quantization_config(model_args),
    }

    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    evaluate = training_args.eval_strategy != "no"

    trainer = ONPOTrainer(
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
