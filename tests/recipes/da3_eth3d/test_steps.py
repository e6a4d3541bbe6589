"""A real step of every preset, known cameras, prediction, export, and the five steps from the shipped base."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lib import api, recipes
from lib.core.config import to_dotted
from lib.core.errors import Stop
from lib.core.order import Key
from lib.core.records import Stage
from lib.network import adapters
from lib.network.frozen_features import FeatureCache
from lib.recipes.da3_eth3d import assemble, evaluate
from lib.recipes.da3_eth3d import predict as prediction
from lib.recipes.da3_eth3d.base import ALIASES
from lib.recipes.da3_eth3d.config import PRESETS
from lib.recipes.da3_eth3d.size import ModelSize
from lib.scenes import samples
from lib.scenes.photos import as_tensor
from tests import one_step, pages
from tests.core.test_code import refuse_hidden_reads
from tests.recipes.da3_eth3d.networks import LITTLE

pytestmark = pytest.mark.long

STAGE = Stage("adapt", 1, kind="m")
RECIPE = recipes.load("da3_eth3d")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_a_real_step(preset, precision, made, places, manifest, tmp_path, new_precision):
    config = made(preset)
    [stage] = RECIPE.stages(config, manifest)
    one_step.refuse_no_step(one_step.training(RECIPE, config, stage, places, manifest, precision, tmp_path))


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("small")])
def test_the_full_size_network_takes_a_real_step(preset, made, small_places, manifest, tmp_path, new_precision):
    own = {key.replace(".", "__"): value for key, value in PRESETS[preset].items() if key.startswith("model.")}
    config = made(preset, **own | {"model__weights": str(small_places["base"] / "base.safetensors")})
    [stage] = RECIPE.stages(config, manifest)
    one_step.refuse_no_step(one_step.training(RECIPE, config, stage, small_places, manifest, "fp32", tmp_path))


@pytest.mark.parametrize("options", [
    {"data__poses": "given"}, {"lora__ray": True, "loss__ray_weight": 1.0}, {"loss__confidence": "trained"},
])  # fmt: skip
def test_every_option_takes_a_real_step(options, made, places, manifest, tmp_path, new_precision):
    config = made(**options)
    [stage] = RECIPE.stages(config, manifest)
    one_step.refuse_no_step(one_step.training(RECIPE, config, stage, places, manifest, "fp32", tmp_path))


def held_out(made, manifest, **options):
    config = made(**options)
    sampler = samples.sampler(config, STAGE, manifest, "test")
    return config, samples.collate(config, STAGE, [sampler.draw(5, None)])


def test_known_cameras_change_the_answer_and_both_ways_are_scored(made, places, manifest):
    config, batch = held_out(made, manifest, data__poses="given")
    parts = assemble.build(config, STAGE, places)
    with torch.no_grad():
        [row] = evaluate.score_batch(config, STAGE, parts, batch)
        [alone] = evaluate.score_batch(made(), STAGE, parts, batch)
        [trivial] = evaluate.score_batch(config, STAGE, None, batch)
    assert row.numbers["mae_without_poses"] == alone.numbers["mae"] != row.numbers["mae"]
    assert trivial.numbers["mae_without_poses"] == trivial.numbers["mae"]
    assert set(evaluate.measures(config, STAGE)) >= {"mae_without_poses", "abs_rel_without_poses"}
    assert "mae_without_poses" not in evaluate.measures(made(), STAGE)


# At one size the presets differ by strategy alone; in c no block is frozen.
@pytest.mark.parametrize("preset, poses", [
    ("base_b", "none"), ("base_b", "given"), ("base_a", "none"), ("small_head_full", "none"),
])  # fmt: skip
def test_what_is_kept_of_pictures_and_of_samples_changes_no_bit(preset, poses, made, little_places, manifest, tmp_path):
    """Loss, gradients and held-out depth with nothing kept, with tokens and with blocks, computed and read again."""
    found = {}
    for policy in ("none", "tokens", "blocks"):
        size = {f"model__{name}": value for name, value in to_dotted(ModelSize(**LITTLE)).items()}
        own = size | {"model__weights": str(little_places["base"] / "base.safetensors"), "data__poses": poses}
        config = made(preset, **own, cache__policy=policy, data__distinct_epochs=1)
        folder = None if policy == "none" else tmp_path / policy
        found[policy] = list(twice(config, little_places, manifest, folder))
    one, *others = [numbers for both in found.values() for numbers in both]
    assert len(others) == 5 and all(other.keys() == one.keys() for other in others)
    assert any(one[name].abs().max() > 0 for name in one if "layer1_rn" in name)
    for other in others:
        assert not [name for name in one if not torch.equal(one[name], other[name])]


def twice(config, places, manifest, folder):
    """What a training sample and a held-out one give, first where nothing is kept of them, and once more."""
    parts = assemble.build(config, STAGE, places)
    torch.manual_seed(0)
    adapters.attach(parts)
    cache, trained = FeatureCache(parts, folder, 1e9), adapters.trainable(parts)
    blocks = 6 if config.lora.strategy == "b" else 12
    assert (
        cache.frozen.name
        == ("blocks 0-3 of a picture", f"blocks 0-{blocks - 1} of a sample")[config.cache.policy == "blocks"]
    )
    drawn = [samples.sampler(config, STAGE, manifest, side).draw(4, Key(0, 0, 4)) for side in ("train", "test")]
    for _ in range(2):
        torch.manual_seed(1)  # of dropout
        with torch.no_grad():
            one, other = (samples.collate(config, STAGE, [cache.fill(sample)]) for sample in drawn)
            held_out = {posed: evaluate.predicted(config, parts, other, posed) for posed in (True, False)}
        loss, _ = assemble.loss(config)(parts, one, 0)
        gradients = dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))
        depths = {f"depth, cameras known: {posed}": found["depth"] for posed, found in held_out.items()}
        yield gradients | depths | {"loss": loss.detach()}


def test_cameras_by_rays_replace_the_decoders(made, places, manifest):
    config, batch = held_out(made, manifest, eval__cameras="rays")
    parts = assemble.build(config, STAGE, places)
    with torch.no_grad():
        found = evaluate.predicted(config, parts, batch, False)
    assert found["pose_enc"].shape == (1, batch["images"].shape[1], 9) and found["pose_enc"].isfinite().all()


# ---------------------------------------------------------------------------------------------- prediction


def test_a_scene_with_known_cameras_keeps_them_and_their_unit(made, places, rendered, tmp_path):
    scene = eth3d_as_colmap(rendered / "harbour", tmp_path / "scene")
    config = made()
    parts = assemble.build(config, STAGE, places)
    with torch.no_grad():
        prediction.predict(config, STAGE, parts, str(scene), tmp_path / "out")
    photos = prediction.scene(config, scene)
    called = [photo.called for photo in photos]
    scale = json.loads((tmp_path / "out" / "scale.json").read_text())["network_units_per_given_unit"][called[0]]
    with torch.no_grad():
        images = as_tensor([photo.read() for photo in photos])
        own = prediction.forward(config, parts)(images[None], photos)
    depth = np.load(tmp_path / "out" / f"{called[0]}.depth.npy")
    np.testing.assert_allclose(depth * scale, own["depth"][0, 0, ..., 0].numpy(), rtol=1e-4)
    import pycolmap

    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse")
    first = next(image for image in model.images.values() if image.name == f"{called[0]}.png")
    np.testing.assert_allclose(first.cam_from_world().matrix(), photos[0].camera[0], atol=1e-4)


def one_photo_more(photos: list[Path], cameras: Path) -> None:
    (photos[0].parent / "extra.JPG").write_bytes(photos[0].read_bytes())


def a_namesake_elsewhere(photos: list[Path], cameras: Path) -> None:
    other = photos[0].parent / "another_day"
    other.mkdir()
    (other / photos[0].name).write_bytes(photos[0].read_bytes())


def one_photo_alone(photos: list[Path], cameras: Path) -> None:
    for photo in photos[1:]:
        photo.unlink()


def another_centre(photos: list[Path], cameras: Path) -> None:
    """Without keypoints, which would show that it is not theirs."""
    images = cameras.with_name("images.txt")
    rows = [line for line in images.read_text().splitlines() if line.upper().endswith(".JPG")]
    images.write_text("".join(f"{row}\n\n" for row in rows))
    *lines, camera = cameras.read_text().splitlines()
    cameras.write_text("\n".join([*lines, " ".join([*camera.split()[:-2], "20", "72"])]))


def another_shape(photos: list[Path], cameras: Path) -> None:
    with Image.open(photos[2]) as photo:
        photo.crop((0, 0, 100, 144)).save(photos[2])


@pytest.mark.parametrize("harm, said", [
    (one_photo_more, "known for 6 of 7 views"), (a_namesake_elsewhere, "known for 6 of 7 views"),
    (one_photo_alone, "cannot be told from 1 known camera"),
    (another_centre, "the principal point of camera 1 lies so near the edge"),
    (another_shape, "is 100 x 144 pixels, its camera 216 x 144"),
])  # fmt: skip
def test_a_scene_that_cannot_be_meant_is_refused_and_leaves_nothing(harm, said, made, places, rendered, tmp_path):
    scene = eth3d_as_colmap(rendered / "harbour", tmp_path / "scene")
    harm(sorted((scene / "images").rglob("*.JPG")), scene / "sparse" / "0" / "cameras.txt")
    parts = assemble.build(made(), STAGE, places)
    with pytest.raises(Stop, match=said), torch.no_grad():
        prediction.predict(made(), STAGE, parts, str(scene), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_scene_with_known_cameras_loses_is_said(made, rendered, tmp_path, capsys):
    scene = eth3d_as_colmap(rendered / "harbour", tmp_path / "scene")
    prediction.scene(made(model__image_width_px=56, model__image_height_px=84), scene)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6 and "45% of it is seen, the rest is cut off: it has 216 x 144 px" in said[0]
    prediction.scene(made(), scene)
    assert capsys.readouterr().out == ""


def eth3d_as_colmap(street: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(street / "images", folder / "images")
    return shutil.copytree(street / "dslr_calibration_undistorted", folder / "sparse" / "0").parents[1]


def test_the_export_has_the_names_and_the_notes_of_its_base(made, places, tmp_path):
    parts = assemble.build(made(), STAGE, places)
    RECIPE.export(made(), STAGE, parts, tmp_path)
    files = (places["base"] / "base.safetensors", tmp_path / "model.safetensors")
    found = []
    for file in files:
        with safe_open(file, "pt") as opened:
            found.append((set(opened.keys()), opened.metadata()))
    assert found[0] == found[1] and found[1][1].keys() >= ALIASES.keys()
    assert files[0].stat().st_size == files[1].stat().st_size


# ---------------------------------------------------------------------------------------------- five steps


def test_five_steps_from_the_shipped_base_predict_and_export(step, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    kept = ("cache.policy=blocks", "data.distinct_epochs=1")
    words = ("--recipe", "da3_eth3d", "--demo", "data.poses=given", "eval.resamples=20", "eval.figures=1", *kept)
    for number in range(1, 6):
        assert step(number, "--run", "one", *(words if number == 1 else ())) == 0
    folder = tmp_path / "runs" / "one"
    scores = json.loads((folder / "eval" / "scores.json").read_text())
    assert scores["main"]["metric"] == "mae" and "mae_without_poses" in scores["metrics"]
    refuse_hidden_reads(folder)
    photos = "data/da3_eth3d/scenes/harbour/images/dslr_images_undistorted"
    metres = ("--scale", "DSC_0001.JPG DSC_0002.JPG 3")
    assert step(5, "--run", "one", "--predict", photos, "--out", str(tmp_path / "out"), *metres) == 0
    assert (tmp_path / "out" / "points.ply").exists() and (tmp_path / "out" / "scale.json").exists()
    assert step(5, "--run", "one", "--export", "merged") == 0
    page = pages.run("da3_eth3d", NAME="runs/one", PHOTOS=photos)
    assert page["depth"].shape == page["images"][:, 0].shape and page["cam_from_world"].shape[1:] == (3, 4)
    read = api.load("runs/one/export/merged").adapted(page["images"][None])["depth"]
    assert (read[0, ..., 0] - page["depth"]).abs().max() <= 1e-4 * page["depth"].abs().max()
    base = load_file(Path(assemble.__file__).parent / "demo" / "base.safetensors")
    merged = load_file(next(folder.glob("export/merged/**/model.safetensors")))
    assert merged.keys() == base.keys() and all(name.startswith("model.") for name in merged)
    assert any(not torch.equal(merged[name], base[name].float()) for name in merged)
