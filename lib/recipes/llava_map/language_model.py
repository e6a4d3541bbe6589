"""What is known of a language model without torch: its config.json, the files and shapes of its weights.

transformers builds the network from the same config.json (causal.py), and nothing here decides how it computes: shapes
are for the plan, which must answer in half a second.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.fields import is_whole, shown
from lib.recipes.llava_map.sizes import DEMO_LLM, PLANNED

Shapes = dict[str, tuple[int, ...]]  # name of a tensor of the body -> shape

# In transformers' own order. An index names the files that hold the tensors.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
HEADS = ("lm_head.", "embed_out.", "score.")  # what turns states into words: not built, 32 000 logits a token
BODIES = ("model.", "transformer.", "gpt_neox.")  # where a file with a head keeps the body
STORED_BUFFERS = re.compile(r".*(\.rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias)")  # older files hold them
WIDTHS = ("hidden_size", "n_embd", "d_model")
LLAMA_NEEDS = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "n_layer")
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")  # model_type of the families that `layer_shapes` describes
HEADER_BYTES = 100 << 20  # of a safetensors file, as its reader allows
ELSEWHERE = "set model.llm to a folder with config.json, tokenizer and weights, or to a hub id"


@dataclass(frozen=True)
class Body:
    """A language model without its head, as far as a plan needs it."""

    hidden: int
    layers: int
    mlp: int
    shapes: Shapes

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.shapes.values()))


def body(config: Config) -> Body | None:
    """The language model's body. None where there is none, or where nothing is here to count it by.

    Stop: the folder has no config.json or no weights, or they are damaged.
    """
    name = config.model.llm
    if name == "demo" or not Path(name).is_dir():
        known = {"demo": DEMO_LLM, **PLANNED}.get(name)
        if not known:
            return None
        return Body(width(known), known["num_hidden_layers"], known["intermediate_size"], llama_shapes(known))
    folder = Path(name)
    told = read_config(folder)
    shapes = stored_shapes(folder, weight_files(folder))
    if not shapes and told.get("model_type") in LLAMA_LIKE and all(told.get(key) for key in LLAMA_NEEDS):
        shapes = llama_shapes(told)
    layers, mlp = told.get("num_hidden_layers"), told.get("intermediate_size")
    return Body(width(told), layers or told.get("n_layer", 1), mlp or 4 * width(told), shapes) if shapes else None


def asset_name(config: Config) -> str:
    """Of the language model in step 2: each id of the hub has a folder of its own.

    In a common one, what is left of another model would be taken for a part of it.
    """
    name, revision = config.model.llm, config.model.llm_revision
    if Path(name).is_dir():
        return "llm"
    return "-".join(["llm", name.replace("/", "--"), *([revision[:8]] if revision else [])])


def width(told: Mapping[str, Any]) -> int:
    """Of a token, under the names that families give it; 0 where none of them is there."""
    return next((int(told[key]) for key in WIDTHS if told.get(key)), 0)


def hidden_width(config: Config, llm_width: int | None) -> int:
    """Width of map and scene tokens: the language model's, or the decoder's where there is none."""
    return llm_width or config.model.decoder_width


# ---------------------------------------------------------------------------------------------- a folder


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Stop where it is absent or damaged, or where no size is the whole number it must be."""
    told = read_json_object(checked(folder / "config.json"))
    for key in (*WIDTHS, *LLAMA_NEEDS, *OPTIONAL_SIZES):
        if not (told.get(key) is None or (is_whole(told[key]) and told[key] > 0)):
            raise Stop(f"{folder / 'config.json'}: {key} is {shown(told[key])}, not a whole number", ELSEWHERE)
    if not width(told):
        raise Stop(f"{folder / 'config.json'} does not describe a language model: it has no hidden_size", ELSEWHERE)
    return told


def tokenizer_files(folder: Path) -> list[Path]:
    return [path for pattern in TOKENIZER for path in sorted(folder.glob(pattern)) if path.is_file()]


def read_json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Stop(f"{path.parent} has no {path.name}", ELSEWHERE)
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Stop(f"{path} is not readable JSON: {error}", ELSEWHERE) from error
    if not isinstance(told, dict):
        raise Stop(f"{path} is not a JSON object", ELSEWHERE)
    return told


def weight_files(folder: Path) -> list[str]:
    """The files that hold the weights; the first one is opened, and names the others where it is an index.

    Stop: there is none, or an index names no files of the folder.
    """
    first = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        raise Stop(f"{folder} has none of {', '.join(WEIGHTS)}", ELSEWHERE)
    if not first.endswith(".index.json"):
        return [first]
    places = read_json_object(folder / first).get("weight_map")
    named = list(places.values()) if isinstance(places, dict) else []
    if not named or not all(isinstance(name, str) and Path(name).name == name for name in named):
        raise Stop(f"{folder / first} has no weight_map from tensors to files beside it", ELSEWHERE)
    return [first, *sorted(set(named))]


def body_names(names: Iterable[str]) -> dict[str, str]:
    """Name in a file -> name in the body, whether the file was saved with its head or without."""
    kept = [name for name in names if not name.startswith(HEADS) and not STORED_BUFFERS.fullmatch(name)]
    before = next((word for word in BODIES if kept and all(name.startswith(word) for name in kept)), "")
    return {name: name.removeprefix(before) for name in kept}


def stored_shapes(folder: Path, files: list[str]) -> Shapes:
    """Shapes of the body's tensors from the headers of safetensors files; {} for files that would have to be run."""
    stored: Shapes = {}
    for name in files:
        if name.endswith(".safetensors"):
            stored |= header_shapes(folder / name)
    return {inside: stored[name] for name, inside in body_names(stored).items()}


def header_shapes(path: Path) -> Shapes:
    """The shapes that a safetensors file states: its length in 8 bytes, then JSON. Stop: it is damaged or absent."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_BYTES:
                raise ValueError(f"its header would have {length} bytes")
            header = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Stop(f"{path} is not a complete safetensors file ({error})", "bring it again") from error


# ---------------------------------------------------------------------------------------------- shapes by formula


def llama_shapes(told: Mapping[str, Any]) -> Shapes:
    """Shapes of the body of a family of Llama's layout, from its configuration alone."""
    hidden = told["hidden_size"]
    shapes: Shapes = {"embed_tokens.weight": (told["vocab_size"], hidden), "norm.weight": (hidden,)}
    for number in range(told["num_hidden_layers"]):
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer_shapes(told).items()}
    return shapes


def layer_shapes(told: Mapping[str, Any]) -> Shapes:
    """One layer: attention with grouped keys, a gated MLP, two norms; Qwen2 has biases, Qwen3 norms in attention."""
    hidden, heads, mlp = told["hidden_size"], told["num_attention_heads"], told["intermediate_size"]
    head, family = told.get("head_dim") or hidden // heads, told.get("model_type")
    wide, narrow = heads * head, (told.get("num_key_value_heads") or heads) * head
    outputs = {
        "q_proj": (wide, hidden),
        "k_proj": (narrow, hidden),
        "v_proj": (narrow, hidden),
        "o_proj": (hidden, wide),
    }
    shapes: Shapes = {f"self_attn.{name}.weight": shape for name, shape in outputs.items()}
    biased = "qkv" if family == "qwen2" else "qkvo" if told.get("attention_bias") else ""
    shapes |= {f"self_attn.{name}.bias": shape[:1] for name, shape in outputs.items() if name[0] in biased}
    if family == "qwen3":
        shapes |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    parts = {"gate_proj": (mlp, hidden), "up_proj": (mlp, hidden), "down_proj": (hidden, mlp)}
    shapes |= {f"mlp.{name}.weight": shape for name, shape in parts.items()}
    if told.get("mlp_bias"):
        shapes |= {f"mlp.{name}.bias": shape[:1] for name, shape in parts.items()}
    return shapes | {f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}


# ---------------------------------------------------------------------------------------------- what is trained of it


def lora_target(target: str) -> str:
    """A regex over whole names of layers. A bare name ("q_proj", "down_proj") means that layer in every block."""
    return rf"(?:.*\.)?{target}" if target.isidentifier() else target


def adapter_parameters(config: Config, layers: Mapping[str, tuple[int, ...]]) -> int:
    """LoRA's parameters on linear layers, name -> shape of the weight (outputs, inputs)."""
    patterns = [lora_target(target) for target in config.lora.targets]
    sides = [sum(shape) for name, shape in layers.items() if any(re.fullmatch(one, name) for one in patterns)]
    return config.lora.rank * sum(sides)


def linear_layers(shapes: Shapes) -> Shapes:
    """The layers among the body's tensors that adapters go on: matrices in the blocks."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and re.search(r"\.\d+\.", name)
    }


def block_parameters(shapes: Shapes) -> list[int]:
    """Of the table of words, the largest matrix outside of the transformer blocks, and of each block: tensors under a
    number, "layers.3.mlp…".
    """
    blocks: dict[str, int] = {}
    table = 0
    for name, shape in shapes.items():
        if found := re.match(r"(.*?\.\d+)\.", name):
            blocks[found[1]] = blocks.get(found[1], 0) + prod(shape)
        elif len(shape) == 2:
            table = max(table, prod(shape))
    return [table, *blocks.values()]


def held_in_fp32(config: Config, stage: str, tensors: Iterable[str]) -> bool:
    """Does a stage train any of the language model's own tensors, named as in its body? Then it is held in fp32.

    AdamW at 1e-6 moves hardly any number of bf16, whose neighbours are 0.4 % apart.
    """
    if stage == "stage3" and (config.train.stage3 == "full" or config.lora.peft.get("bias", "none") != "none"):
        return True
    return any(re.fullmatch(pattern, f"llm.{name}") for pattern in config.lora.full for name in tensors)
