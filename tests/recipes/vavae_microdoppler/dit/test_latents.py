"""The folder of latents: its layout, what is made again and what is not, and what may not be used."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib.core.errors import Paused, Stop
from lib.core.hashes import sha256_of
from lib.core.order import Key
from lib.core.records import Stage
from lib.core.run import read_json, write_json
from lib.data import prepared
from lib.network import lineage
from lib.recipes.vavae_microdoppler.autoencoder import assemble, predict
from lib.recipes.vavae_microdoppler.dit import latent_cache, latent_parts, samples
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.recipes.vavae_microdoppler.stored import image_path
from tests.recipes.vavae_microdoppler.autoencoder.test_assemble import published
from tests.recipes.vavae_microdoppler.dit.dit_case import Case, configured

SHARD = "lightningdit/latents_rank00_shard000.safetensors"


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_shards_have_the_published_layout_and_no_mirrored_copies(case):
    # facts/vavae.md 5.1
    folder = case.lay()
    stored = load_file(folder / SHARD)
    assert stored["latents"].shape == stored["latents_flip"].shape == (10, 4, 8, 8)
    assert stored["latents"].dtype == torch.float32
    assert stored["labels"].dtype == torch.int64 and stored["labels"].tolist() == [0] * 5 + [1] * 5
    with safe_open(folder / SHARD, "pt") as handle:
        assert handle.metadata() == {"total_size": "10", "dtype": "torch.float32", "device": "cpu"}
    for name in ("latents", "latents_flip"):  # both are mean + std * noise of the image itself
        noise = (stored[name] - stored["mean"]) / (0.5 * stored["logvar"]).exp()
        assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1
    assert not torch.equal(stored["latents"], stored["latents_flip"])


def test_statistics_are_those_of_the_training_latents_by_channel(case):
    folder = case.lay()
    stored, drawn = load_file(folder / "latents_stats.safetensors"), load_file(folder / SHARD)["latents"]
    by_channel = drawn.double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
    assert stored["mean"].shape == stored["std"].shape == (1, 4, 1, 1)
    np.testing.assert_allclose(stored["mean"].flatten(), by_channel.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stored["std"].flatten(), by_channel.std(1, ddof=1), rtol=1e-5)


def test_nothing_is_made_again_when_nothing_changed(case, monkeypatch):
    folder = case.lay()
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(latent_parts, "encode", lambda *_: pytest.fail("encoded again"))
    assert case.lay() == folder and {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps


def test_a_pause_between_shards_goes_on_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(latent_parts, "SHARD_IMAGES", 4)
    monkeypatch.setattr(samples, "SHARD_IMAGES", 4)
    whole, paused = (Case(tmp_path / name, monkeypatch) for name in made(tmp_path, "whole", "paused"))
    whole.lay()
    calls = []

    def pause():
        calls.append(1)
        if len(calls) in (1, 3, 4):  # after the first shard, after the third, after the judge
            raise Paused("time")

    for _ in range(3):
        with pytest.raises(Paused):
            paused.lay(pause)
    folder = paused.lay(pause)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.manifest.stage_inputs.iterdir())
    for file in whole.manifest.stage_inputs.rglob("*.safetensors"):
        one, other = load_file(file), load_file(folder / file.relative_to(whole.manifest.stage_inputs))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), file.name
    assert whole.batch("train", 10)["latent"].shape == (10, 4, 8, 8)  # the third shard holds two images


def made(root, *names):
    for name in names:
        (root / name).mkdir()
    return names


def test_every_epoch_draws_a_new_sample_of_the_posterior(case):
    case.lay()
    stored = load_file(case.manifest.stage_inputs / SHARD)
    first, again, second = (case.batch("train", 3, epoch)["latent"] for epoch in (0, 0, 1))
    drawn = [Key(1, 0, index).generator().standard_normal((4, 8, 8), dtype="float32") for index in range(3)]
    noise = torch.from_numpy(np.stack(drawn))
    torch.testing.assert_close(first, stored["mean"][:3] + (0.5 * stored["logvar"][:3]).exp() * noise)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_held_out_users_take_turns(case):
    case.lay()
    assert case.batch("test", 6)["label"].tolist() == [0, 1, 0, 1, 0, 1]


def test_latents_of_another_autoencoder_are_refused_by_fingerprint(case, tmp_path):
    folder = case.lay()
    assert case.lay(config=configured(dit__latents=str(folder))) == folder
    other = published(case.config)
    other["decoder.conv_in.bias"] = other["decoder.conv_in.bias"] + 1e-3
    save_file(other, tmp_path / "base.safetensors")
    with pytest.raises(Stop, match="made by another autoencoder"):
        case.lay(config=configured(dit__latents=str(folder)))
    assert case.lay() != folder


def test_latents_without_a_fingerprint_or_of_another_split_are_refused(case):
    folder = case.lay()
    case.manifest.records[0].split = "select"
    with pytest.raises(Stop, match="other images or of another split"):
        case.lay(config=configured(dit__latents=str(folder)))
    (folder / "latents.json").unlink()
    with pytest.raises(Stop, match=r"no latents\.json"):
        case.lay(config=configured(dit__latents=str(folder)))


def test_latents_of_other_pictures_of_the_same_recordings_are_made_again_and_refused(case):
    """As another range of decibels makes them of the same echoes: names, files and sides stay."""
    folder, arrays = case.lay(), case.manifest.arrays
    picture = image_path(arrays, case.manifest.records[0].sample_id)
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    prepared.note(arrays, lambda: None)
    assert case.lay() != folder
    with pytest.raises(Stop, match="other images or of another split"):
        case.lay(config=configured(dit__latents=str(folder)))


def test_latents_of_another_autoencoder_are_refused(case):
    folder = case.lay()
    write_json(folder / "latents.json", read_json(folder / "latents.json") | {"autoencoder": "0" * 64})
    with pytest.raises(Stop, match="these latents were made by another autoencoder"):
        case.lay(config=configured(dit__latents=str(folder)))


def test_the_folder_says_what_it_was_made_from_and_what_its_ancestors_were(case, tmp_path):
    lineage.Lineage({"recording": {"elsewhere/rec0"}}, {"0123456789abcdef"}).write(tmp_path)
    found = lineage.read(case.lay(earlier=earlier(case, tmp_path)))
    mine = [r for r in case.manifest.records if r.split != "test"]
    assert found.groups == {"recording": {r.group for r in mine} | {"elsewhere/rec0", "before/rec0"}}
    assert found.files == {r.sha256 for r in mine} | {"0123456789abcdef"}


def test_latents_that_have_seen_what_is_tested_on_are_refused(case):
    folder = case.lay()
    held, trained = case.manifest.side("test")[0], case.manifest.side("train")[0]
    held.split, trained.split = "train", "test"
    with pytest.raises(Stop, match="was trained on 1 recording and 1 file held out"):
        case.lay(config=configured(dit__latents=str(folder)))
    trained.group = "another/name"  # the file is the same wherever it lies
    with pytest.raises(Stop, match="0 recordings and 1 file"):
        case.lay(config=configured(dit__latents=str(folder)))


def test_latents_of_an_autoencoder_that_has_seen_it_are_refused_too(case):
    folder = case.lay()
    known = lineage.read(folder)
    (known | lineage.Lineage({"recording": {case.manifest.side("test")[0].group}})).write(folder)
    with pytest.raises(Stop, match="1 recording and 0 files held out"):
        case.lay(config=configured(dit__latents=str(folder)))


def test_all_three_sides_are_compared(case):
    folder = case.lay()
    stored = load_file(folder / "features.safetensors")
    assert len(stored["real_feature"]) == len(case.manifest.records) == 18
    assert case.batch("select", 2)["label"].tolist() == [0, 1]
    for side, first in (("select", 10), ("test", 12)):  # after ten training images
        assert np.array_equal(case.batch(side, 1)["real_feature"][0], stored["real_feature"][first])


def test_training_images_stand_in_where_no_group_chooses(case):
    """As lib asks before a training without a select side."""
    for record in case.manifest.side("select"):
        record.split = "train"
    folder, stored = case.lay(), case.manifest.side("train")
    for record in stored:
        record.split = "select"
    batch = case.batch("select", 4)
    assert batch["label"].tolist() == [0, 1, 0, 1]
    assert np.array_equal(batch["real_feature"][0], load_file(folder / "features.safetensors")["real_feature"][0])


def test_statistics_of_a_wrong_shape_are_refused(case):
    folder = case.lay()
    file = folder / "latents_stats.safetensors"
    save_file({name: tensor.flatten().contiguous() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(Stop, match=r"latents_stats\.safetensors: mean has shape \(4,\)"):
        case.parts()


@pytest.mark.parametrize(
    "spoilt", [lambda s: LatentStatistics(s.mean, 3 * s.std), lambda s: LatentStatistics(s.mean + 2 * s.std, s.std)]
)
def test_latents_that_do_not_come_out_normal_stop_the_run(case, monkeypatch, spoilt):
    kept = latent_parts.read_statistics
    monkeypatch.setattr(latent_parts, "read_statistics", lambda *given: spoilt(kept(*given)))
    with pytest.raises(Stop, match="not about 0 and 1"):
        case.lay()


def earlier(case, tmp_path, leave_out: int = 0) -> tuple[Stage, object]:
    """A finished stage whose checkpoint moved every tensor of the autoencoder by 1, except the first `leave_out`."""
    stage = Stage("align", 10, kind="autoencoder")
    parts = assemble.build(case.config, stage, case.asset_dirs)
    state = {f"autoencoder.{name}": tensor + 1 for name, tensor in parts.modules["autoencoder"].state_dict().items()}
    folder = tmp_path / "step-000010"
    folder.mkdir()
    save_file(dict(sorted(state.items())[leave_out:]), folder / "weights.safetensors")
    write_json(folder / "state.json", {"step": 10})
    lineage.Lineage({"recording": {"before/rec0"}}).write(folder)
    hashes = {name: sha256_of(folder / name) for name in ("weights.safetensors", "state.json")}
    (folder / "sha256.json").write_text(json.dumps(hashes))
    return stage, folder


def test_the_autoencoder_is_the_one_that_the_stage_before_trained(case, tmp_path):
    base = latent_cache.adapted_autoencoder(case.config, case.asset_dirs, None).state_dict()
    moved = latent_cache.adapted_autoencoder(case.config, case.asset_dirs, earlier(case, tmp_path)).state_dict()
    assert all(torch.equal(moved[name], base[name] + 1) for name in base)


def test_the_export_of_another_run_is_a_base_for_the_stage(case, tmp_path):
    parts = assemble.build(case.config, Stage("align", 1), case.asset_dirs)
    parts.modules["statistics"].update(torch.randn(4, 4, 8, 8))
    (tmp_path / "merged").mkdir()
    predict.export(case.config, Stage("align", 1), parts, tmp_path / "merged")
    from_base = case.lay()
    case.asset_dirs["base"] = tmp_path / "merged"
    assert case.lay() == from_base and case.parts().base


def test_a_checkpoint_that_lacks_a_tensor_is_refused(case, tmp_path):
    with pytest.raises(Stop, match="tensors of the autoencoder, not"):
        latent_cache.adapted_autoencoder(case.config, case.asset_dirs, earlier(case, tmp_path, leave_out=1))


def as_lightningdit_reads(folder, index: int) -> tuple[torch.Tensor, int]:
    """Item `index` of LightningDiT's data set (facts/vavae.md 5.1): every .safetensors of the folder, in order of name,
    one item of three tensors, normalised by latents_stats.pt with the multiplier 1.
    """
    places = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            places += [(file, i) for i in range(handle.get_slice("labels").get_shape()[0])]
    file, place = places[index]
    with safe_open(file, "pt") as handle:
        latent, flipped, label = (handle.get_slice(name)[place : place + 1] for name in
                                  ("latents", "latents_flip", "labels"))  # fmt: skip
    assert latent.shape == flipped.shape
    statistics = torch.load(folder / "latents_stats.pt", weights_only=True)
    return ((latent - statistics["mean"]) / statistics["std"])[0], int(label)


def test_lightningdits_own_loader_reads_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(latent_parts, "SHARD_IMAGES", 4)
    monkeypatch.setattr(samples, "SHARD_IMAGES", 4)
    folder = Case(tmp_path, monkeypatch).lay() / "lightningdit"
    read = [as_lightningdit_reads(folder, index) for index in range(10)]
    assert [label for _, label in read] == [0] * 5 + [1] * 5
    together = torch.stack([latent for latent, _ in read])
    assert together.shape == (10, 4, 8, 8) and together.dtype == torch.float32
    torch.testing.assert_close(together.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.std((0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".pt"} and len(list(folder.iterdir())) == 4
