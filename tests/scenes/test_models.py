"""Several COLMAP models in one folder: the largest, or each as a scene, never on two sides of the split."""

import copy
import shutil

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.core.records import Manifest
from lib.data.split import apply
from lib.scenes import colmap
from lib.scenes.data import prepare, split, summarise_data
from lib.scenes.samples import open_scenes
from tests.scenes.test_data import colmap_scene

SIZES = {"0": [0, 1], "1": [2, 3, 4, 5], "2": [1]}  # model -> its photographs; 1 is in two of them


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """wall with three models, of which the second has a scale of its own; gate and quay with one."""
    folder = tmp_path_factory.mktemp("yard")
    for seed, (name, scale) in enumerate((("wall", 1.0), ("gate", 2.0), ("quay", 3.0))):
        colmap_scene(folder / name, "PINHOLE 168 126 150 150 84 63", scale=scale, seed=seed)
    models, lines = folder / "wall" / "sparse", (folder / "wall/sparse/0/images.txt").read_text().splitlines()
    shutil.copytree(folder / "gate" / "sparse" / "0", models / "1")
    shutil.copytree(models / "0", models / "2")
    for model, views in SIZES.items():
        mine = [line for view in views for line in lines[2 * view : 2 * view + 2]]
        (models / model / "images.txt").write_text("\n".join(mine) + "\n")
    return folder


@pytest.fixture(scope="module")
def configured(settings):
    def make(**more):
        scenes = {"data__scenes": ["wall", "gate"], "data__val_scenes": ["quay"], "data__sparse_models": "each"}
        return settings(model__image_width_px=112, **(scenes | more))

    return make


@pytest.fixture(scope="module")
def made(yard, configured, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    config = configured(data__root=str(yard))
    return config, list(prepare(config, {"scenes": yard}, out)), out


def test_each_model_is_a_scene_of_its_own_with_its_own_depth(made):
    config, records, out = made
    per_scene = {name: summary["images"] for name, summary in summarise_data(config, records).items()}
    assert per_scene == {"wall#sparse-0": 2, "wall#sparse-1": 4, "wall#sparse-2": 1, "gate": 6, "quay": 6}
    near, far = (np.load(out / f"wall#sparse-{name}.depth.npy") for name in ("0/1", "1/2"))
    assert near.max() <= 9 and far.max() > 11  # points lie 6 to 9 before the camera, at twice the scale in model 1
    assert {record.source for record in records if record.sample_id.endswith("/1")} >= {
        "asset:scenes/wall/images/1.png"
    }


@pytest.mark.parametrize("held_out", [[], ["quay"], ["wall"]])
def test_models_of_one_folder_are_one_group_on_one_side(made, yard, configured, held_out):
    _, records, out = made
    names = [name for name in ("wall", "gate", "quay") if name not in held_out]
    config = configured(data__root=str(yard), data__scenes=names, data__val_scenes=held_out)
    mine = copy.deepcopy(records)
    proof = apply(mine, split(config, mine, out), seed=3, select_share=0.3)
    sides = {record.split for record in mine if record.sample_id.startswith("wall#")}
    assert {record.group for record in mine if record.sample_id.startswith("wall#")} == {"wall"}
    assert len(sides) == 1 and (sides == {"test"} or held_out != ["wall"]) and not any(proof["overlap"].values())


def test_names_of_models_are_unique_and_lead_nowhere(made):
    _, records, out = made
    ids = [record.sample_id for record in records]
    assert len(set(ids)) == len(ids) and all(len(name.split("/")) == 2 for name in ids)
    assert {path.parent.parent for path in out.rglob("*.npy")} == {out}


def test_a_model_that_is_too_short_is_named_and_the_others_are_used(made, yard, configured):
    _, records, out = made
    config = configured(data__root=str(yard))
    wish = split(config, records, out)
    assert wish.dropped == {"wall#sparse-2/1": "the model wall#sparse-2 has 1 usable image, but a sample needs two"}
    mine = copy.deepcopy(records)
    apply(mine, wish, seed=3)
    scenes = open_scenes(Manifest(mine, out), "train")
    assert [(scene.name, scene.group, len(scene.views)) for scene in scenes] == [
        ("wall#sparse-0", "wall", 2), ("wall#sparse-1", "wall", 4), ("gate", "gate", 6)
    ]  # fmt: skip


def test_the_choice_of_the_largest_is_said_with_the_setting_that_takes_all(yard, configured, tmp_path, capsys):
    config = configured(data__root=str(yard), data__sparse_models="largest")
    records = list(prepare(config, {"scenes": yard}, tmp_path))
    assert [record.sample_id for record in records][:4] == [f"wall/{view}" for view in SIZES["1"]]
    assert (
        "(images: sparse/0 has 2, sparse/1 has 4, sparse/2 has 1); data.sparse_models=each" in capsys.readouterr().out
    )


def test_models_of_the_only_scene_cannot_be_held_out_from_one_another(yard, configured, tmp_path):
    config = configured(data__root=str(yard), data__scenes=["wall"], data__val_scenes=[])
    with pytest.raises(Stop, match="wall is the only scene, and its 3 models show one place"):
        list(prepare(config, {"scenes": yard}, tmp_path))
    assert not list(tmp_path.iterdir())
    assert [scene.name for scene in colmap.read_all(yard / "gate")] == ["gate"]


def test_a_folder_called_like_a_model_is_refused(configured):
    with pytest.raises(Stop, match=r"data\.scenes names 'wall#sparse-1', but # begins a model's name"):
        configured(data__scenes=["wall", "wall#sparse-1"])
