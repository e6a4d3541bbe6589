"""Where weights and data come from. Nothing that needs a licence is fetched without a person."""

import re
from pathlib import Path

from lib.core.errors import Stop
from lib.core.records import Asset
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.language_model import (
    ELSEWHERE,
    TOKENIZER,
    asset_name,
    read_config,
    tokenizer_files,
    weight_files,
)

MAIN = "main"  # no commit could be checked when this was written: step 2 resolves the branch once for a run

# name -> (hub repository, files, licence)
ENCODERS = {
    "resnet50": ("microsoft/resnet-50", ("model.safetensors",), "Apache-2.0"),
    "clip_l14_336": ("openai/clip-vit-large-patch14-336", ("pytorch_model.bin",), "MIT"),
}
# its image encoder included
BLIP2 = ("Salesforce/blip2-opt-2.7b", ("model.safetensors.index.json", "model-*.safetensors"), "MIT")
HUB_BYTES = {  # of the files above
    "microsoft/resnet-50": 102_000_000,
    "openai/clip-vit-large-patch14-336": 1_710_000_000,
    "Salesforce/blip2-opt-2.7b": 15_000_000_000,
    "lmsys/vicuna-7b-v1.5": 13_480_000_000,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 2_200_000_000,
}
LLM_FILES = ("config.json", TOKENIZER[0])
LLMS = {
    "lmsys/vicuna-7b-v1.5": (("pytorch_model*.bin", "pytorch_model.bin.index.json"), "Llama 2 Community License"),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (("model.safetensors",), "Apache-2.0"),
}
BASE = Asset(
    "base", "shipped", "lib/recipes/llava_map/demo", files={"base.safetensors": "", "tokenizer.json": ""}, licence="MIT"
)
NUSCENES = (
    "register at https://www.nuscenes.org/nuscenes, accept the terms, download 'Full dataset (v1.0)' metadata and "
    "key-frame camera files (or the mini split) and 'Map expansion pack v1.3', and unpack all of it here; or set "
    "data.root to where you have it"
)


def assets(config: Config) -> list[Asset]:
    found = [nuscenes(config)]
    if "demo" in (config.model.encoder, config.model.qformer, config.model.llm):
        found.append(BASE)
    if config.model.encoder in ENCODERS:
        found.append(hub("encoder", *ENCODERS[config.model.encoder]))
    if config.model.qformer == "blip2" or config.model.encoder == "blip2_vitg":
        found.append(hub("blip2", *BLIP2))
    if config.model.llm not in ("none", "demo"):
        found.append(language_model(config))
    return found


def hub(name: str, repository: str, files: tuple[str, ...], licence: str, revision: str = MAIN) -> Asset:
    how, size = f"from huggingface.co/{repository}", HUB_BYTES.get(repository, 0)
    return Asset(name, "hub", repository, revision, dict.fromkeys(files, ""), licence, how, size_bytes=size)


def language_model(config: Config) -> Asset:
    """A causal language model by folder or by hub id: exactly the files that `build` opens.

    Stop where it is neither, or a hub id whose commit nothing says.
    """
    name, revision = config.model.llm, config.model.llm_revision
    if Path(name).is_dir():
        return Asset(asset_name(config), "folder", name, files=files_of(Path(name)), how_to_get=ELSEWHERE)
    if name in LLMS:
        weights, licence = LLMS[name]
        return hub(asset_name(config), name, LLM_FILES + weights, licence, revision or MAIN)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise Stop(f"model.llm={name!r} is neither a folder nor an id of the hub (OWNER/NAME)", ELSEWHERE)
    if not revision:
        cause = f"model.llm={name!r} is neither a folder nor one of {', '.join(LLMS)}, and no revision pins it"
        raise Stop(cause, "give model.llm_revision, 40 hex digits from its page")
    return hub(asset_name(config), name, (*LLM_FILES, "model*.safetensors*"), "", revision)


def files_of(folder: Path) -> dict[str, str]:
    """config.json, the weights that are opened (never what else lies beside them), and what tokenizer there is."""
    read_config(folder)
    tokenizer = [path.name for path in tokenizer_files(folder)]
    return dict.fromkeys(("config.json", *weight_files(folder), *(tokenizer or TOKENIZER[:1])), "")


def nuscenes(config: Config) -> Asset:
    files = {f"{config.data.version}/*.json": "", "maps/expansion/*.json": ""}
    licence = "CC BY-NC-SA 4.0 and the nuScenes terms of use"
    if config.data.root:
        return Asset("nuscenes", "folder", config.data.root, files=files, licence=licence, how_to_get=NUSCENES)
    if not config.data.stand_in:
        return Asset("nuscenes", "licensed", files=files, licence=licence, how_to_get=NUSCENES)

    counts = (config.data.stand_in_scenes, config.data.stand_in_val_scenes, config.data.stand_in_frames)

    def write(folder: Path) -> None:
        from lib.recipes.llava_map import stand_in

        stand_in.write(folder, stand_in.Size(*counts))

    made_from = " ".join(["roads", *map(str, counts)])
    return Asset("nuscenes", "made", stand_in=write, made_from=made_from, licence="MIT (rendered by this project)")
