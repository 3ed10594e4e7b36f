# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Trains a model with Nash-MD against a reward model, as the example script did that TRL had until 1.13.

    accelerate launch examples/nash_md.py \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --reward_model_path trl-lib/Qwen2-0.5B-Reward \
        --dataset_name trl-lib/ultrafeedback-prompt \
        --per_device_train_batch_size 4 \
        --gradient_accumulation_steps 8 \
        --missing_eos_penalty 1.0 \
        --use_peft \
        --output_dir Qwen2.5-0.5B-NashMD

`trl-nash nash-md` takes the same options, and more.
"""

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_nash import NashMDConfig, NashMDTrainer


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, NashMDConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()

    model = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=get_quantization_config(model_args),
    )
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    reward_model = AutoModelForSequenceClassification.from_pretrained(training_args.reward_model_path, num_labels=1)

    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    evaluate = training_args.eval_strategy != "no"

    trainer = NashMDTrainer(
        model=model,
        reward_funcs=reward_model,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if evaluate else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()

    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
