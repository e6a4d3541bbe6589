"""A small case of the stage dit: two users with eight random images each, a base in the published layout, a latent folder."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lib.recipes import Manifest, Parts, Record, Stage
from lib.recipes.vavae_microdoppler import dit_assemble, judge, latent_folder, latent_samples
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.data import collate, image_path, write_labels
from tests.vavae_microdoppler.test_assemble import config as small_config
from tests.vavae_microdoppler.test_assemble import published

USERS, EACH, HELD = ("ID_1", "ID_2"), 8, 3  # the last three images of a user are held out
DIT = Stage("dit", 10)
SMALL = {"model__dit_width": 16, "model__dit_depth": 3, "model__dit_heads": 2, "train__stages": ["dit"], "dit__updates": 3}


def config(**settings) -> Config:
    return small_config(**(SMALL | settings))


def manifest(folder: Path) -> Manifest:
    generator, records = np.random.default_rng(0), []
    write_labels(list(USERS), folder)
    for label, user in enumerate(USERS):
        for number in range(EACH):
            name = f"{user}/rec{number:02}"
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) // (label + 1)
            image_path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(image_path(folder, name))
            side = "val" if number >= EACH - HELD else "train"
            columns = {"label": str(label), "user": user}
            records.append(Record(name, name, f"asset:data/{name}.png", f"{label}{number}", split=side, columns=columns))
    return Manifest(records, folder)


class Case:
    """What lib hands to the recipe: settings, places, manifest with its groundwork."""

    def __init__(self, root: Path, monkeypatch, **settings):
        monkeypatch.setattr(judge, "STEPS", 4)
        self.cfg, self.root = config(**settings), root
        save_file(published(self.cfg), root / "base.safetensors")
        self.places = {"base": root / "base.safetensors"}
        self.manifest = manifest(root / "arrays")

    def lay(self, pause=lambda: None, earlier=None, cfg=None) -> Path:
        self.manifest.groundwork = latent_folder.lay(cfg or self.cfg, self.manifest, self.places, earlier, self.root / "cache", pause)
        self.places["groundwork"] = self.manifest.groundwork
        return self.manifest.groundwork

    def parts(self) -> Parts:
        return dit_assemble.build(self.cfg, self.places)

    def batch(self, side: str, count: int = 4, epoch: int = 0) -> dict:
        from lib.order import Key

        sampler = latent_samples.sampler(self.cfg, self.manifest, side)
        return collate([sampler.draw(index, Key(1, epoch, index)) for index in range(count)])


def published_dit(cfg: Config, classes: int) -> dict[str, torch.Tensor]:
    """A network of the published names with a table for `classes` classes and the null row; nothing in it is zero."""
    from lib.recipes.vavae_microdoppler.dit import LightningDiT

    constant = re.compile(r"pos_embed|feat_rope\..*")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = LightningDiT(cfg.model.dit_size(classes)).state_dict()
        return {name: t if constant.fullmatch(name) else t + 0.1 * torch.randn_like(t) for name, t in state.items()}
