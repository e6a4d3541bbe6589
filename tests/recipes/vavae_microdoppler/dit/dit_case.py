"""A small case of the stage dit: two users with nine random images each, a base in the published layout, latents."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lib.core.order import Key
from lib.core.records import Manifest, Parts, Record, Stage
from lib.data import prepared
from lib.network import scoring
from lib.recipes.vavae_microdoppler.autoencoder.samples import collate
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import assemble, judge, latent_cache, samples
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT
from lib.recipes.vavae_microdoppler.membership import write_labels
from lib.recipes.vavae_microdoppler.stored import image_path
from tests.recipes.vavae_microdoppler.autoencoder.test_assemble import configured as small_config
from tests.recipes.vavae_microdoppler.autoencoder.test_assemble import published

USERS, SIDES = ("ID_1", "ID_2"), ["train"] * 5 + ["select"] + ["test"] * 3  # of each user's images
DIT = Stage("dit", 10, kind="dit")
SMALL = {
    "model__dit_width": 16, "model__dit_depth": 3, "model__dit_heads": 2, "train__stages": ["dit"],
    "dit__sampling_steps": 3,
}  # fmt: skip


def configured(**settings) -> Config:
    return small_config(**(SMALL | settings))


def manifest(folder: Path) -> Manifest:
    generator, records = np.random.default_rng(0), []
    write_labels({user: label for label, user in enumerate(USERS)}, folder)
    for label, user in enumerate(USERS):
        for number, side in enumerate(SIDES):
            name = f"{user}/rec{number:02}"
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) // (label + 1)
            image_path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(image_path(folder, name))
            columns = {"label": str(label), "user": user}
            source = f"asset:data/{name}.png"
            records.append(Record(name, name, source, f"{label}{number}", split=side, columns=columns))
    prepared.note(folder, lambda: None)
    return Manifest(records, folder)


class Case:
    """What lib gives the recipe: settings, folders of assets, a manifest with the stage's inputs."""

    def __init__(self, root: Path, monkeypatch, **settings):
        monkeypatch.setattr(judge, "STEPS", 4)
        self.config, self.root = configured(**settings), root
        save_file(published(self.config), root / "base.safetensors")
        self.asset_dirs = {"base": root}
        self.manifest = manifest(root / "arrays")

    def lay(self, pause=lambda: None, earlier=None, config=None) -> Path:
        given = config or self.config, DIT, self.manifest, self.asset_dirs, earlier, self.root / "cache", pause
        self.manifest.stage_inputs = latent_cache.stage_inputs(*given)
        self.asset_dirs["stage_inputs"] = self.manifest.stage_inputs
        return self.manifest.stage_inputs

    def parts(self) -> Parts:
        return assemble.build(self.config, DIT, self.asset_dirs)

    def batch(self, side: str, count: int = 4, epoch: int = 0) -> dict:
        sampler = samples.sampler(self.config, DIT, self.manifest, side)
        drawn = collate(self.config, DIT, [sampler.draw(index, Key(1, epoch, index)) for index in range(count)])
        return drawn | {scoring.SEEDS: list(range(count))}


def published_dit(config: Config, classes: int) -> dict[str, torch.Tensor]:
    """A network of the published names with a table for `classes` classes and the null row; nothing in it is zero."""
    constant = re.compile(r"pos_embed|feat_rope\..*")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = LightningDiT(config.model.dit_size(classes)).state_dict()
        return {name: t if constant.fullmatch(name) else t + 0.1 * torch.randn_like(t) for name, t in state.items()}
