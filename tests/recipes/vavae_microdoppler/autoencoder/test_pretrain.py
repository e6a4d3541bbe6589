"""What the shipped base was made with, and that it is an autoencoder; else the comparison of step 5 means nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.config import from_dotted
from lib.core.order import Key
from lib.core.records import Stage
from lib.recipes.vavae_microdoppler import stand_in
from lib.recipes.vavae_microdoppler.autoencoder import assemble, pretrain
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, decode, initialise, moments_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.demo_data import textures
from lib.recipes.vavae_microdoppler.presets import DEMO


@pytest.fixture(scope="module")
def shipped():
    parts = assemble.build(from_dotted(Config, DEMO), Stage("align", 1), {"base": pretrain.FOLDER})
    return parts.modules["autoencoder"]


def test_the_shipped_base_reproduces_textures_that_no_step_drew(shipped):
    assert pretrain.quality(shipped) > 16.0


@torch.no_grad()
def test_the_shipped_base_tells_spectrograms_better_than_one_colour_does(shipped):
    walks = stand_in.Walks(users=4, recordings=1, windows=1, side_px=128, seed=7)
    pictures = [Image.fromarray(stand_in.images(walks, user, 0)[0]) for user in range(4)]
    reduced = [picture.resize((64, 64), Image.Resampling.LANCZOS) for picture in pictures]
    image = torch.from_numpy(np.stack(reduced) / 255.0).float().permute(0, 3, 1, 2)
    recon = (decode(shipped, moments_of(shipped, 2 * image - 1)[:, :32]) + 1) / 2
    error, flat = ((other.clamp(0, 1) - image).square().mean() for other in (recon, image.mean((2, 3), keepdim=True)))
    assert -10 * (error / flat).log10() > 3.0  # dB


def test_files_of_the_base_are_small_enough_to_ship():
    sizes = [path.stat().st_size for path in pretrain.FOLDER.glob("*.safetensors")]
    assert len(sizes) == 2 and max(sizes) <= 4_000_000


def test_tiles_are_cut_row_by_row():
    image = torch.arange(2 * 4 * 4).reshape(2, 1, 4, 4)
    cut = pretrain.tiles(image, 2)
    assert cut.shape == (8, 1, 2, 2)
    assert cut[1, 0].tolist() == [[2, 3], [6, 7]] and cut[6, 0].tolist() == [[24, 25], [28, 29]]


def test_training_starts_with_a_quiet_posterior():
    network = build_autoencoder(from_dotted(Config, DEMO).model.autoencoder)
    initialise(network)
    with torch.no_grad():
        moments = moments_of(network, pretrain.vivid(1, 2, 32))
    assert torch.equal(moments[:, 32:], torch.full_like(moments[:, 32:], -6.0)) and moments[:, :32].std() > 0.1


@pytest.mark.parametrize("vivid", [False, True])
def test_a_texture_is_a_function_of_its_key_and_stays_in_range(vivid):
    first, again, other = (textures.picture(Key(1, 2, index).generator(), 64, 10, vivid) for index in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])
    assert first[0].shape == (3, 64, 64) and first[1].shape == (4, 4) and np.abs(first[0]).max() <= 1


def test_levels_are_painted_along_the_scale():
    colours = np.array([[-1, -1, 0], [1, 0, 0], [1, 1, 1]])
    painted = textures.paint(np.array([[0.0, 0.25, 1.0]]), colours)  # (3, 1, 3)
    assert painted[:, 0].T.tolist() == [[-1, -1, 0], [0, -0.5, 0], [1, 1, 1]]
