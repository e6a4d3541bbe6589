"""Single images: which ones choose the best checkpoint, and what a batch of them is."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.config import from_dotted
from lib.core.records import Manifest, Record, Stage
from lib.core.run import Damaged
from lib.recipes.vavae_microdoppler.autoencoder.samples import collate, sampler
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.stored import image_path

ALIGN = Stage("align", 1, kind="autoencoder")
CONFIG = from_dotted(Config, {"eval.select_samples": 3})
SIDES = ["select"] * 9 + ["train"] * 2 + ["test"] * 4  # of the images x/0, x/1, …


def manifest(folder) -> Manifest:
    records = []
    for number, side in enumerate(SIDES):
        path = image_path(folder, f"x/{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
        records.append(
            Record(f"x/{number}", "x/1", "", f"hash{number}", split=side, columns={"label": "5", "user": "x"})
        )
    return Manifest(records, folder)


def drawn(folder, side: str) -> list[dict]:
    found = sampler(CONFIG, ALIGN, manifest(folder), side)
    return [found.draw(index, None) for index in range(found.length)]


def test_the_images_that_choose_the_best_checkpoint_are_spread_over_their_side(tmp_path):
    assert [sample["sample_id"] for sample in drawn(tmp_path, "select")] == ["x/0", "x/3", "x/6"]
    assert [sample["sample_id"] for sample in drawn(tmp_path, "train")] == ["x/9", "x/10"]
    assert [sample["sample_id"] for sample in drawn(tmp_path, "test")] == ["x/11", "x/12", "x/13", "x/14"]


def test_one_image_of_every_user_is_drawn_in_the_order_of_their_labels(tmp_path):
    records = manifest(tmp_path).records
    for record, label in zip(records, [*[0] * 11, 7, 3, 7, 3], strict=True):
        record.columns["label"] = str(label)
    config = from_dotted(Config, {"eval.figures": 1})
    assert sampler(config, ALIGN, Manifest(records, tmp_path), "test").pictured == (1, 0)
    assert sampler(config, ALIGN, Manifest(records, tmp_path), "train").pictured is None
    config.eval.figures = 0
    assert sampler(config, ALIGN, Manifest(records, tmp_path), "test").pictured is None


def test_images_and_batches_are_contiguous_channels_first(tmp_path):
    samples = drawn(tmp_path, "train")
    assert all(sample["image"].flags["C_CONTIGUOUS"] for sample in samples)
    transposed = [one | {"image": one["image"].transpose(1, 2, 0).copy().transpose(2, 0, 1)} for one in samples]
    assert collate(CONFIG, ALIGN, transposed)["image"].is_contiguous(memory_format=torch.contiguous_format)


def test_a_batch_stacks_arrays_and_takes_the_one_frozen_feature_of_each_image(tmp_path):
    samples = [one | {"frozen_features": torch.full((1, 2, 2, 2), n)} for n, one in enumerate(drawn(tmp_path, "train"))]
    batch = collate(CONFIG, ALIGN, samples)
    assert batch["image"].shape == (2, 3, 4, 4) and batch["image"][1, 0, 0, 0] == np.float32(10) / 127.5 - 1
    assert batch["label"].tolist() == [5, 5] and batch["sample_id"] == ["x/9", "x/10"]
    assert batch["feature"].shape == (2, 2, 2, 2) and batch["feature"][:, 0, 0, 0].tolist() == [0, 1]


def test_an_image_that_is_another_than_step_3_wrote_is_refused(tmp_path, changed_since):
    images = sampler(CONFIG, ALIGN, manifest(tmp_path), "test")
    changed_since(tmp_path, "*.png")
    with pytest.raises(Damaged, match="does not hold what was written"):
        images.draw(0, None)
