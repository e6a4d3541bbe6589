"""Where the base weights and the images come from."""

from collections.abc import Callable
from pathlib import Path

from lib.recipes import Asset
from lib.recipes.vavae_microdoppler.config import PUBLISHED, PUBLISHED_DIT, Config

PUBLISHED_FILE = "vavae-imagenet256-f16d32-dinov2.pt"
OTHER_VISIONS = {"dinov2_base": "facebook/dinov2-base", "dinov2_small": "facebook/dinov2-small"}


def assets(cfg: Config) -> list[Asset]:
    wanted = [base(cfg), images(cfg)]
    if "dit" in cfg.train.stages and cfg.model.dit_weights != "scratch":
        wanted.append(dit(cfg))
    if cfg.model.vf in OTHER_VISIONS:
        source = OTHER_VISIONS[cfg.model.vf]
        files = {"config.json": "", "model.safetensors": ""}
        wanted.append(
            Asset(
                "vision",
                "hub",
                source=source,
                revision="main",
                files=files,
                licence="Apache-2.0",
                how_to_get=f"from huggingface.co/{source}",
            )
        )
    return wanted


def base(cfg: Config) -> Asset:
    weights = cfg.model.weights
    if weights == "demo":
        files = {"autoencoder.safetensors": "", "vision.safetensors": ""}
        return Asset(
            "base",
            "shipped",
            source="lib/recipes/vavae_microdoppler/demo",
            files=files,
            licence="MIT (trained by this project on textures)",
        )
    if weights == PUBLISHED:
        how = f"2 GB from huggingface.co/{PUBLISHED}; it holds DINOv2, LPIPS and the critic as well"
        return Asset(
            "base",
            "hub",
            source=weights,
            revision="main",
            files={PUBLISHED_FILE: ""},
            licence="MIT (LightningDiT), DINOv2 Apache-2.0",
            how_to_get=how,
        )
    path = Path(weights)
    folder, name = (path, "*") if path.is_dir() else (path.parent, path.name)
    return Asset(
        "base",
        "folder",
        source=str(folder),
        files={name: ""},
        how_to_get="set model.weights to a VA-VAE file in the published format (.pt, .ckpt, .safetensors)",
    )


def dit(cfg: Config) -> Asset:
    weights = cfg.model.dit_weights
    if weights != "published":
        path = Path(weights)
        how = "set model.dit_weights to a LightningDiT file in the published format (.pt, .safetensors)"
        return Asset("dit", "folder", source=str(path.parent), files={path.name: ""}, how_to_get=how)
    if cfg.model.weights == "demo":
        source = "lib/recipes/vavae_microdoppler/demo_dit"
        return Asset("dit", "shipped", source=source, files={"dit.safetensors": ""}, licence="MIT (trained by this project on textures)")
    how = f"10 GB from huggingface.co/{PUBLISHED_DIT}; only the averaged weights are used, 2.7 GB"
    file = f"{PUBLISHED_DIT.partition('/')[2]}.pt"
    return Asset("dit", "hub", source=PUBLISHED_DIT, revision="main", files={file: ""}, licence="MIT (LightningDiT)", how_to_get=how)


def images(cfg: Config) -> Asset:
    if cfg.data.root:
        return Asset(
            "data",
            "folder",
            source=cfg.data.root,
            files={"**/*": ""},
            how_to_get="set data.root to the folder that holds one folder per user",
        )
    if cfg.data.stand_in:
        walks, write = stand_in(cfg)
        return Asset("data", "made", stand_in=write, made_from=walks, licence="MIT (simulated by this project)")
    return Asset(
        "data",
        "folder",
        files={"**/*": ""},
        how_to_get="set data.root=FOLDER with one folder of spectrograms per user (ID_1 ... ID_31), or use --demo",
    )


def stand_in(cfg: Config) -> tuple[str, Callable[[Path], None]]:
    d = cfg.data
    names = {
        "users": d.stand_in_users,
        "recordings": d.stand_in_recordings,
        "windows": d.stand_in_windows,
        "difference": d.stand_in_difference,
        "side_px": d.stand_in_px,
    }

    def write(folder: Path) -> None:
        from lib.recipes.vavae_microdoppler import simulator

        simulator.make(folder, simulator.Walks(**names))

    return f"walks {names}", write
