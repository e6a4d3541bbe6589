"""Where weights and data come from. Nothing that needs a licence is fetched without a person."""

from pathlib import Path

from lib.core.errors import Stop
from lib.core.records import Asset
from lib.recipes.llava_map.config import Config

MAIN = "main"  # no commit could be checked when this was written: step 2 resolves the branch once for a run

# name -> (hub repository, files, licence)
ENCODERS = {
    "resnet50": ("microsoft/resnet-50", ("model.safetensors",), "Apache-2.0"),
    "clip_l14_336": ("openai/clip-vit-large-patch14-336", ("pytorch_model.bin",), "MIT"),
}
# 15 GB, its image encoder included
BLIP2 = ("Salesforce/blip2-opt-2.7b", ("model.safetensors.index.json", "model-*.safetensors"), "MIT")
LLM_FILES = ("config.json", "tokenizer*")
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
    return Asset(
        name, "hub", repository, revision, dict.fromkeys(files, ""), licence, f"from huggingface.co/{repository}"
    )


def language_model(config: Config) -> Asset:
    """A Llama-family model by hub id or by folder. Stop where a hub id has no known revision."""
    name = config.model.llm
    if Path(name).is_dir():
        files = dict.fromkeys((*LLM_FILES, "*model*"), "")
        return Asset("llm", "folder", name, files=files, how_to_get="set model.llm to a Llama-family model's folder")
    if name in LLMS:
        weights, licence = LLMS[name]
        return hub("llm", name, LLM_FILES + weights, licence, config.model.llm_revision or MAIN)
    if not config.model.llm_revision:
        cause = f"model.llm={name!r} is neither a folder nor one of {', '.join(LLMS)}, and no revision pins it"
        raise Stop(cause, "give model.llm_revision, 40 hex digits from its page")
    return hub("llm", name, (*LLM_FILES, "*.safetensors*"), "", config.model.llm_revision)


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
