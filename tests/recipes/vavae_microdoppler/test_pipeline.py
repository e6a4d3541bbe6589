"""The five steps of the recipe in this process, with the shipped base at the smallest sizes: stages, export, scores."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lib import api
from lib.core.run import read_json
from tests import pages
from tests.recipes.vavae_microdoppler.test_inception import Means

pytestmark = pytest.mark.long

SMALLEST = (
    "--recipe", "vavae_microdoppler", "--demo", "model.image_px=32",
    "data.stand_in_users=2", "data.stand_in_recordings=4", "data.stand_in_windows=1",
    "train.epochs=3", "train.global_batch=2", "train.micro_batch=2", "train.precision=fp32", "eval.resamples=20",
)  # fmt: skip
STAGES = ("align", "reconstruct", "margin")


def trained(root: str, stage: str) -> Path:
    return max(Path(root, "runs", "walks", "train", stage).glob("step-*"))


def score_in_another_space(step, one):
    """A network that a person brings is a setting of step 5: nothing is trained anew, what the base decided is kept."""
    torch.jit.script(Means()).save("detector.pt")
    assert step(1, *one, *SMALLEST, "eval.inception=detector.pt") == 0 and step(5, *one) == 0
    assert read_json(Path("one/runs/walks/run.json"))["decided"]["train.plan"] == "deep"
    found = read_json(Path("one/runs/walks/eval/scores.json"))["metrics"]["frechet_inception"]
    assert found["base"] > 0 and found["adapted"] > 0
    assert found["difference"] == pytest.approx(found["adapted"] - found["base"])
    assert found["verdict"] == ""  # which the main metric alone has (tests/evaluation/test_statistics.py)


def content(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_two_sessions_equal_one_and_the_export_has_the_published_names(step, tmp_path, capsys):
    """The second session has a fresh folder; the first one's is a read-only input, as on Kaggle."""
    one, first = ("--run", "walks", "--root", "one"), ("--run", "walks", "--root", "first")
    second = ("--run", "walks", "--root", "second", "--inputs", "first")
    for number in range(1, 4):
        assert step(number, *one, *SMALLEST) == 0
    shutil.copytree("one", "first")
    assert step(4, *one) == 0
    assert "-> else: a deep adaptation" in capsys.readouterr().out
    assert read_json(Path("one/runs/walks/run.json"))["decided"]["train.plan"] == "deep"
    assert step(4, *first, "--stages", "align,reconstruct") == 75
    before = content("first")
    for number in (1, 2, 3):
        assert step(number, *second, *SMALLEST) == 0
    assert step(4, *second, "--stages", "margin") == 0
    assert content("first") == before
    for stage in STAGES:
        same_files(trained("one", stage), trained("second", stage), ("weights.safetensors", "optim.safetensors"))
        same_files(*(Path(root, "runs/walks/train", stage) for root in ("one", "second")), ("log.jsonl",))
    refuse_frozen_networks(load_file(trained("one", "margin") / "weights.safetensors"))
    assert step(5, *one) == 0
    check_scores(Path("one/runs/walks"))
    assert step(5, *one, "--export", "merged") == 0
    exported = load_file("one/runs/walks/export/merged/vavae_encoder_for_dit.safetensors")
    published = {"encoder.conv_in.weight", "decoder.up.3.attn.0.q.weight", "linear_proj.weight"}
    assert published | {"latent_mean", "latent_std"} <= exported.keys()
    assert step(5, *one, "--predict", "one/data/vavae_microdoppler/data/ID_1", "--out", str(tmp_path / "out")) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["psnr.csv", *(f"rec0{number}_w0.png.png" for number in range(4))]
    read_from_python(Path("one/runs/walks"))
    score_in_another_space(step, one)


def read_from_python(folder: Path) -> None:
    found = pages.run("vavae_microdoppler", NAME=folder)
    side = found["side"]
    assert found["images"].shape == (1, 3, side, side) and found["latent"].shape[2] < side
    image = torch.rand(1, 3, side, side)
    read = api.load(folder / "export" / "merged").adapted
    assert torch.allclose(
        read.encode(image).latent_dist.mean, found["network"].encode(image).latent_dist.mean, atol=1e-5
    )


def same_files(one: Path, other: Path, names: tuple[str, ...]) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), (one, name)


def refuse_frozen_networks(weights: dict) -> None:
    """A checkpoint holds what is trained, never DINOv2 or LPIPS again."""
    assert {name.split(".")[0] for name in weights} == {"autoencoder", "projection", "critic", "statistics"}


def check_scores(folder: Path) -> None:
    scores = json.loads((folder / "eval" / "scores.json").read_text())
    assert scores["main"] == {"metric": "psnr", "unit": "dB", "lower_is_better": False, "rival": True}
    assert scores["stage"] == "margin"
    of_images = {"psnr_sampled", "lpips", "ssim", "foreground_psnr", "alignment_cosine"}
    assert of_images | {"frechet_vgg32", "user_silhouette"} <= scores["metrics"].keys()
    pictures = {"reconstruction_results.png", "users_in_the_latents.png"}
    assert pictures | {"latent_statistics.json"} <= {p.name for p in folder.glob("figures/*")}
    tested = pd.read_csv(folder / "manifest.csv").query("split == 'test'")
    with Image.open(folder / "figures" / "reconstruction_results.png") as drawn:
        assert drawn.height == round(2.6 * 90 * tested["user"].nunique())
    fields = json.loads((folder / "figures" / "latent_statistics.json").read_text())
    assert len(fields["global_mean"]) == len(fields["global_std"]) == fields["latent_dim"] == 32
    assert fields["spatial_size"] == 4
