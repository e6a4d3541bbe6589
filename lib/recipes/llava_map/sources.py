"""Where weights and data come from. Nothing that needs a licence is fetched without a person."""

from pathlib import Path

from lib.errors import Stop
from lib.recipes import Asset
from lib.recipes.llava_map.config import Config

MAIN = "main"  # no commit could be checked when this was written: step 2 resolves the branch once for a run

# Encoder -> (hub repository, pinned revision, files, licence). BLIP-2's own image encoder is in the Q-Former's repository.
ENCODER_SOURCES = {
    "resnet50": ("microsoft/resnet-50", MAIN, "model.safetensors", "Apache-2.0"),
    "clip_l14_336": ("openai/clip-vit-large-patch14-336", MAIN, "pytorch_model.bin", "MIT"),
}
BLIP2 = ("Salesforce/blip2-opt-2.7b", MAIN, "MIT")
# Language model -> (pinned revision, weight files, licence). Another id needs model.llm_revision and safetensors.
LLM_SOURCES = {
    "lmsys/vicuna-7b-v1.5": (
        MAIN,
        ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
        "Llama 2 Community License",
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (MAIN, ("model.safetensors",), "Apache-2.0"),
}
NUSCENES = (
    "register at https://www.nuscenes.org/nuscenes, accept the terms, download 'Full dataset (v1.0)' metadata and key-frame camera "
    "files (or the mini split) and 'Map expansion pack v1.3', and unpack all of it here; or set data.root to where you have it"
)


def assets(cfg: Config) -> list[Asset]:
    found = [nuscenes(cfg)]
    if cfg.model.encoder == "demo":
        found.append(
            Asset(
                "base", "shipped", source="lib/recipes/llava_map/demo", files={"base.safetensors": "", "tokenizer.json": ""}, licence="MIT"
            )
        )
    if cfg.model.encoder in ENCODER_SOURCES:
        source, revision, file, licence = ENCODER_SOURCES[cfg.model.encoder]
        found.append(Asset("encoder", "hub", source, revision, {file: ""}, licence, f"from huggingface.co/{source}"))
    if cfg.model.qformer == "blip2" or cfg.model.encoder == "blip2_vitg":
        source, revision, licence = BLIP2
        files = {"model.safetensors.index.json": "", "model-*.safetensors": ""}
        found.append(
            Asset(
                "blip2",
                "hub",
                source,
                revision,
                files,
                licence,
                f"about 15 GB from huggingface.co/{source}; only Q-Former tensors are read",
            )
        )
    if cfg.model.llm not in ("none", "demo"):
        found.append(language_model(cfg))
    return found


def language_model(cfg: Config) -> Asset:
    """A Llama-family model by hub id or by folder."""
    name = cfg.model.llm
    if Path(name).is_dir():
        return Asset(
            "llm",
            "folder",
            name,
            files={"config.json": "", "tokenizer*": "", "*model*": ""},
            how_to_get="set model.llm to a Llama-family model's folder",
        )
    revision, weights, licence = LLM_SOURCES.get(name, (cfg.model.llm_revision, ("*.safetensors*",), ""))
    if not revision:
        raise Stop(
            f"model.llm={name!r} is neither a folder nor one of {', '.join(LLM_SOURCES)}, and no revision pins it",
            "give model.llm_revision, 40 hex digits from its page",
        )
    return Asset(
        "llm", "hub", name, revision, dict.fromkeys(("config.json", "tokenizer*", *weights), ""), licence, f"from huggingface.co/{name}"
    )


def nuscenes(cfg: Config) -> Asset:
    files = {f"{cfg.data.version}/*.json": "", "maps/expansion/*.json": ""}
    licence = "CC BY-NC-SA 4.0 and the nuScenes terms of use"
    if cfg.data.root:
        return Asset("nuscenes", "folder", cfg.data.root, files=files, licence=licence, how_to_get=NUSCENES)
    if not cfg.data.stand_in:
        return Asset("nuscenes", "licensed", files=files, licence=licence, how_to_get=NUSCENES)

    def write(folder: Path) -> None:
        from lib.recipes.llava_map import standin

        standin.write(folder, standin.Size(cfg.data.stand_in_scenes, cfg.data.stand_in_val_scenes, cfg.data.stand_in_frames))

    made_from = f"roads {cfg.data.stand_in_scenes} {cfg.data.stand_in_val_scenes} {cfg.data.stand_in_frames}"
    return Asset("nuscenes", "made", stand_in=write, made_from=made_from, licence="MIT (rendered by this project)")
