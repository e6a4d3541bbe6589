"""Small language models in Hugging Face's layout, written by transformers itself, for the tests."""

import shutil
from pathlib import Path

import torch

# model_type -> what its config.json says beside SIZES; each differs from the class's defaults
FAMILIES = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "rms_norm_eps": 1e-2},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "attention_bias": True,
        "hidden_act": "gelu",
    },
    "mistral": {"sliding_window": None, "head_dim": 32},
    "qwen2": {"rms_norm_eps": 1e-3},
    "qwen3": {"head_dim": 32},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"sliding_window": 2047},
    "gpt_neox": {},
    "stablelm": {},
}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attention_dropout": 0.5,  # which must not be woken
}


def write(folder: Path, family: str, tokenizer: Path, dtype: torch.dtype = torch.float32, **told) -> Path:
    """config.json, weights with their head, and the demo's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    kind = "llama" if family == "llama3" else family
    config = AutoConfig.for_model(kind, **(SIZES | FAMILIES[family] | told))
    net = AutoModelForCausalLM.from_config(config).to(dtype)
    for tensor in net.parameters():  # biases and norms as in no start
        torch.nn.init.normal_(tensor, mean=float(tensor.ndim == 1), std=0.1)
    net.save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder
