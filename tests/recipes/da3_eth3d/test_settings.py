"""Settings that contradict one another, and bases that may not be adapted here, are refused in one sentence."""

from dataclasses import fields
from pathlib import Path

import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.da3_eth3d.config import DEMO, PRESETS, Config
from lib.recipes.da3_eth3d.size import ModelSize
from lib.recipes.da3_eth3d.sources import assets


@pytest.mark.parametrize("settings, said", [
    ({"model.weights": "depth-anything/DA3-LARGE"}, "not for commercial use"),
    ({"model.weights": "depth-anything/DA3-LARGE-1.1"}, "not for commercial use"),
    ({"model.weights": "depth-anything/DA3-GIANT"}, "not for commercial use"),
    ({"model.weights": "depth-anything/DA3METRIC-LARGE"}, "one picture at a time"),
    ({"model.weights": "depth-anything/DA3NESTED-GIANT-LARGE"}, "not for commercial use"),
    ({"model.weights": "depth-anything/DA3-SMALL-1.1"}, "does not exist"),
    ({"model.weights": "depth-anything/DA3-SMALL"}, "impossible with model.weights=depth-anything/DA3-SMALL"),
    ({"model.weights": "scratch"}, "names no weights"),
    ({"model.embed_dim": 384}, "impossible with model.weights=depth-anything/DA3-BASE"),
    ({"data.poses": "some"}, "data.poses"),
    ({"lora.ray": True}, "the ray chain is trained, but loss.ray_weight=0"),
    ({"lora.full": [r"da3\.head\.scratch\.output_conv2_aux\.1\..*"]}, "only of the ray chain's last level"),
    ({"lora.targets": ["head.nothing"]}, "lora.targets has 'head.nothing', which matches nothing"),
    ({"lora.full": ["head.nothing"]}, "lora.full has 'head.nothing', which matches nothing"),
    ({"loss.region_weight": 2.0}, "data.region_masks"),
    (DEMO | {"eval.lengths": [11]}, "data.stand_in_views"),
    ({"lora.strategy": "a", "loss.depth_weight": 0.0}, "only the depth head is trained"),
    ({"loss.depth_weight": 0.0, "loss.camera_weight": 0.0}, "nothing would be learned"),
    ({"cache.policy": "blocks"}, "comes again"),
    ({"cache.policy": "blocks", "lora.strategy": "c", "data.distinct_epochs": 1}, "before the first trained layer"),
    ({"loss.confidence": "floored"}, "loss.confidence"),
    ({"train.micro_batch": 2, "train.global_batch": 2}, "needs samples of one length"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(settings, said):
    with pytest.raises(Stop, match=said.replace(".", r"\.")):
        from_dotted(Config, PRESETS["base_b"] | settings)


IMPOSSIBLE_SIZES = {
    "img_size": (520, 0), "patch_size": (13, 0), "embed_dim": (784, 0), "depth": (0, -1), "num_heads": (5, 0),
    "mlp_ratio": (0.0, 100.0, float("nan")), "alt_start": (0, 12), "qknorm_start": (0, 12), "rope_start": (0, 12),
    "out_layers": ([], [5, 7, 9], [5, 7, 9, 12], [5, 7, 7, 11], [-1, 7, 9, 11]), "dpt_features": (0, 12),
    "dpt_out_channels": ([], [96, 192, 384, 767]), "dpt_output_hidden": (0, -1), "camera_encoder_depth": (0, -1),
    "camera_encoder_heads": (7, 0),
}  # fmt: skip


def test_impossible_sizes_are_refused_by_name():
    assert IMPOSSIBLE_SIZES.keys() == {one.name for one in fields(ModelSize)}
    for name, values in IMPOSSIBLE_SIZES.items():
        for value in values:
            with pytest.raises(Stop, match=rf"model\.{name}"):
                ModelSize(**{name: value})


@pytest.mark.parametrize("preset, name, size", [
    ("base_b", "depth-anything/DA3-BASE", 541_518_028), ("small_b", "depth-anything/DA3-SMALL", 137_248_940),
])  # fmt: skip
def test_the_base_is_fetched_under_a_free_licence_and_its_size_is_known(preset, name, size):
    base = assets(from_dotted(Config, PRESETS[preset]))[0]
    assert (base.source, base.licence, base.size_bytes) == (name, "Apache-2.0", size)


def test_no_file_of_the_two_recipes_shares_six_lines():
    """Lines that say something, in their order; what stands twice belongs into lib/scenes."""
    home = Path(__file__).parents[3] / "lib" / "recipes"
    runs = [six_lines(home / name) for name in ("da3_eth3d", "vggt_eth3d")]
    assert not runs[0].keys() & runs[1].keys(), [runs[0][one] for one in runs[0].keys() & runs[1].keys()]


def six_lines(folder: Path) -> dict[tuple[str, ...], str]:
    found = {}
    for file in folder.glob("*.py"):
        lines = [line.strip() for line in file.read_text().splitlines() if len(line.strip()) > 3]
        found |= {tuple(lines[i : i + 6]): f"{file.name}: {lines[i]}" for i in range(len(lines) - 5)}
    return found
