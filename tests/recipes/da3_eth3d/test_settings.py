"""Settings that contradict one another, and bases that may not be adapted here, are refused in one sentence."""

from pathlib import Path

import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.da3_eth3d.config import PRESETS, Config
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
    ({"lora.targets": ["head.nothing"]}, "matches nothing"),
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
