"""The language model's sizes, and what follows from them: the width of its tokens, and the parameters of adapters."""

import json
from pathlib import Path

from lib.core.errors import Stop
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.sizes import LLMS, LlamaSize


def llama_size(config: Config, folder: Path | None = None) -> LlamaSize | None:
    """The language model's sizes: of a known id from the table, of any other from its config.json. None without one.

    Stop where that file is not there yet, or describes a model of another family.
    """
    if config.model.llm == "none":
        return None
    if config.model.llm in LLMS:
        return LLMS[config.model.llm]
    folder = folder or Path(config.model.llm)
    path = folder / "config.json"
    if not path.is_file():
        raise Stop(
            f"the sizes of {config.model.llm} are not known before its config.json is there", "python step2_download.py"
        )
    told = json.loads(path.read_text())
    if told.get("model_type") != "llama":
        raise Stop(
            f"{path} describes a {told.get('model_type')!r} model, and model.llm must be of the Llama family",
            "choose another model.llm",
        )
    heads = told["num_attention_heads"]
    return LlamaSize(
        told["hidden_size"],
        told["num_hidden_layers"],
        heads,
        told.get("num_key_value_heads") or heads,
        told["intermediate_size"],
        told["vocab_size"],
    )


def hidden_width(config: Config, size: LlamaSize | None) -> int:
    """Width of map and scene tokens: the language model's, or the decoder's where there is none."""
    return size.hidden if size else config.model.decoder_width


def adapter_parameters(config: Config, size: LlamaSize) -> int | None:
    """LoRA on attention projections of a language model; None where the targets are not in this table."""
    key_value = size.hidden // size.heads * size.key_value_heads
    outputs = {"q_proj": size.hidden, "k_proj": key_value, "v_proj": key_value, "o_proj": size.hidden}
    if not set(config.lora.targets) <= set(outputs):
        return None
    sides = [size.hidden + outputs[name] for name in config.lora.targets]
    return size.layers * config.lora.rank * sum(sides)
