# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Small models of several architectures, which differ in what their caches hold."""

import torch
import transformers
from transformers import AutoModelForCausalLM


EOS = 1
ATTENTION = {
    "Llama": {},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},  # learned positions
    "Bloom": {"n_layer": 2, "n_head": 4},  # positions in the attention's bias
    "Mistral": {"sliding_window": 4},  # prompts of 5 and 9 tokens are longer than the window
    "Gemma2": {"sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 8},  # every other layer has one
    "Gemma3Text": {"sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 8},
}
HYBRID = {  # recurrent states, and convolutions that look back
    "Jamba": {"use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
    "Lfm2": {"full_attn_idxs": [1]},
}
RECURRENT = {"Mamba": {"state_size": 4}, "RecurrentGemma": {"num_hidden_layers": 3, "lru_width": 32}}


def build(name: str, **options) -> torch.nn.Module:
    config = getattr(transformers, f"{name}Config")(
        **{
            "vocab_size": 40,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "eos_token_id": EOS,
            "bos_token_id": None,
        }
        | options
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # so that every token matters
        embeddings = model.get_input_embeddings().weight
        embeddings[0] = embeddings[3]  # padding is 0 only as long as nobody has trained it
    return model
