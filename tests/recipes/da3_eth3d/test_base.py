"""The published names, sizes and bytes; what is loaded, and what is refused before and after it was fetched."""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core.errors import Stop
from lib.network import weights
from lib.recipes.da3_eth3d import base
from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.size import BASE, NAMES, SMALL, ModelSize, size_of
from tests.recipes.da3_eth3d.networks import LITTLE, largest_difference, network, outputs, photos

FACTS = Path(__file__).resolve().parents[3].parent / "shared" / "facts" / "da3_keys.json"
OF_PARTS = {  # SMALL, BASE
    "backbone": (22_059_008, 86_583_296), "head": (3_873_854, 15_387_582), "cam_dec": (1_188_105, 4_735_497),
    "cam_enc": (7_178_496, 28_660_224),
}  # fmt: skip


def empty(size: ModelSize) -> DA3:
    with torch.device("meta"):
        return DA3(size)


def shapes_of(built: DA3) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def write(file: Path, built: DA3, **others: torch.Tensor) -> Path:
    """As the hub stores a network: prefix, and the shared norm once, with the other names in the metadata."""
    tensors = {f"model.{name}": tensor for name, tensor in (built.state_dict() | others).items()}
    save_file(tensors, file, metadata=base.ALIASES)
    return file


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "model.safetensors", network())


@pytest.mark.parametrize("size, total, column", [(SMALL, 34_299_463, 0), (BASE, 135_366_599, 1)])
def test_the_published_networks_have_437_tensors_and_these_parameters(size, total, column):
    built = empty(size)
    assert len(built.state_dict()) == 437
    assert sum(parameter.numel() for parameter in built.parameters()) == total
    for part, counts in OF_PARTS.items():
        assert sum(one.numel() for one in getattr(built, part).parameters()) == counts[column], part


if FACTS.exists():

    @pytest.mark.parametrize("size, word", [(SMALL, "small"), (BASE, "base")])
    def test_every_name_and_shape_is_the_published_one(size, word):
        facts = json.loads(FACTS.read_text())
        assert {f"model.{name}": list(shape) for name, shape in shapes_of(empty(size)).items()} == facts[word]
        assert facts["alias"] == base.ALIASES


@pytest.mark.parametrize("word", ["SMALL", "BASE"])
def test_a_file_saved_as_the_hub_does_has_the_published_bytes(word):
    """The format is eight bytes, a JSON header padded to a multiple of eight, and the numbers."""
    size = NAMES[f"depth-anything/DA3-{word}"]
    header, end = {"__metadata__": base.ALIASES}, 0
    for name, shape in sorted(shapes_of(empty(size)).items()):
        header[f"model.{name}"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + 4 * prod(shape)]}
        end += 4 * prod(shape)
    text = len(json.dumps(header, separators=(",", ":")))
    assert 8 + text + -text % 8 + end == base.FILE_BYTES[f"depth-anything/DA3-{word}"]


@pytest.mark.parametrize("size", [SMALL, BASE])
def test_the_size_is_read_off_the_shapes(size):
    assert size_of(shapes_of(empty(size))) == size


def test_a_published_file_is_loaded_whole_and_the_last_ray_level_has_the_shared_norm(file):
    built = empty(ModelSize(**LITTLE)).eval()
    loaded = base.load(built, file)
    assert (loaded.matched, loaded.ignored) == (len(load_file(file)), 0)
    assert largest_difference(outputs(network(), photos()), outputs(built, photos())) == 0


def test_a_file_that_lists_the_shared_norm_four_times_is_taken_where_all_agree(tmp_path):
    one = network()
    kept = {name: one.state_dict()[level_0].clone() for name, level_0 in base.SHARED.items()}
    file = write(tmp_path / "model.safetensors", one, **kept)
    assert base.load(empty(ModelSize(**LITTLE)), file).ignored == 6
    kept["head.scratch.output_conv2_aux.3.2.bias"] += 0.1
    with pytest.raises(Stop, match=r"aux\.3\.2\.bias is not .*aux\.0\.2\.bias"):
        base.load(empty(ModelSize(**LITTLE)), write(file, one, **kept))


@pytest.mark.parametrize("name", ["backbone.pretrained.camera_token", "cam_enc.token_norm.bias", "head.norm.weight"])
def test_a_lost_tensor_stops_the_load(tmp_path, name):
    tensors = {f"model.{key}": tensor for key, tensor in network().state_dict().items() if key != name}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(Stop):
        base.load(empty(ModelSize(**LITTLE)), tmp_path / "model.safetensors")


def test_a_foreign_tensor_stops_the_load(tmp_path):
    file = write(tmp_path / "model.safetensors", network(), mask_token=torch.zeros(3))
    with pytest.raises(Stop, match="mask_token"):
        base.load(empty(ModelSize(**LITTLE)), file)


def test_a_file_of_another_size_than_asked_for_is_named_by_what_it_holds(file):
    with pytest.raises(Stop, match=r"holds a network of ones own \(width 32, 12 blocks\), and SMALL \(width 384"):
        base.load(empty(SMALL), file)


LARGE = {"backbone.pretrained.pos_embed": (1, 1370, 1024), "backbone.pretrained.camera_token": (1, 2, 1024)}
GIANT = {"backbone.pretrained.pos_embed": (1, 1370, 1536), "backbone.pretrained.camera_token": (1, 2, 1536)}


@pytest.mark.parametrize("shapes, said", [
    (LARGE, "is a LARGE: it is CC BY-NC 4.0"), (GIANT, "is a GIANT: it is CC BY-NC 4.0"),
    (LARGE | {"gs_head.norm.weight": (3,)}, "Gaussians"), ({"da3.backbone.x": (1,)}, "joins two networks"),
    ({"backbone.pretrained.pos_embed": (1, 1370, 1024)}, "one picture at a time"), ({"fc.weight": (3, 3)}, "any-view"),
])  # fmt: skip
def test_a_file_of_another_variant_is_named(tmp_path, shapes, said):
    with pytest.raises(Stop, match=said):
        base.refuse_other_size(SMALL, shapes, tmp_path / "model.safetensors")


@pytest.mark.parametrize("name, said", [
    ("depth-anything/DA3-LARGE", "CC BY-NC 4.0"), ("depth-anything/DA3-LARGE-1.1", "CC BY-NC 4.0"),
    ("depth-anything/DA3-GIANT-1.1", "CC BY-NC 4.0"), ("depth-anything/DA3NESTED-GIANT-LARGE", "CC BY-NC 4.0"),
    ("depth-anything/DA3METRIC-LARGE", "one picture"), ("depth-anything/DA3MONO-LARGE", "one picture"),
    ("depth-anything/DA3-SMALL-1.1", "does not exist"),
])  # fmt: skip
def test_another_variant_is_refused_by_name_before_anything_is_fetched(name, said):
    with pytest.raises(Stop, match=said) as stop:
        base.refuse_other_variant(name)
    assert "DA3-BASE" in str(stop.value.command)


def test_the_offered_names_and_files_of_ones_own_pass(tmp_path):
    (tmp_path / "da3-large.safetensors").touch()
    for name in (*NAMES, "demo", str(tmp_path / "da3-large.safetensors"), "runs/mine/model.safetensors"):
        base.refuse_other_variant(name)


def test_config_json_beside_the_file_is_never_opened(file):
    (file.parent / "config.json").write_text('{"config": {"__object__": {"path": "os", "name": "abort"}}')
    base.load(empty(ModelSize(**LITTLE)), file)


def test_the_fingerprint_does_not_depend_on_the_prefix(file, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, plain)
    found = [base.load(empty(ModelSize(**LITTLE)), one).fingerprint for one in (file, plain)]
    assert found[0] == found[1] == weights.fingerprint(network().state_dict().items())
