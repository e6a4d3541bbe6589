"""The five steps of the recipe in this process, from the shipped base, on few hands: what they leave, and real hands
with 2D scores.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib import api
from tests import pages, reload_adapter
from tests.recipes.hamer import real_hands

pytestmark = pytest.mark.long

FEW = (
    "--recipe",
    "hamer",
    "--demo",
    "data.stand_in_subjects=3",
    "data.stand_in_hands=4",
    "train.epochs=1",
    "train.global_batch=4",
    "train.micro_batch=4",
    "train.precision=fp32",
    "eval.resamples=20",
    "eval.figures=1",
)


# Trained beside the adapters: the read-outs, and the bias of a layer that has one.
IN_FULL = (
    "lora.full_readouts=true",
    r"lora.full=['hamer\.mano_head\.transformer\.transformer\.layers\.0\.1\.fn\.to_out\.0\.bias']",
)


def test_five_steps_predict_and_export(step, tmp_path):
    for number in range(1, 6):
        assert step(number, "--run", "one", *((*FEW, *IN_FULL) if number == 1 else ())) == 0
    folder = Path("runs/one")
    scores = json.loads((folder / "eval" / "scores.json").read_text())
    assert scores["main"]["metric"] == "pa_mpjpe_mm"
    assert {"pa_mpvpe_mm", "f5", "f15", "auc_joints", "pck_05"} <= scores["metrics"].keys()
    assert json.loads((folder / "split.json").read_text())["overlap"] == {"groups": 0, "files": 0, "near_duplicates": 0}
    assert {path.name for path in (folder / "figures").glob("*.png")} == {"hand-00.png", "keypoints.png"}
    inputs = ("--predict", "data/hamer/data/images/subject-00", "--out", str(tmp_path / "out"))
    assert step(5, "--run", "one", *inputs) == 0
    assert len(list((tmp_path / "out").glob("*.obj"))) == 4
    assert step(5, "--run", "one", "--export", "adapter") == 0
    reload_adapter.refuse_other_outputs("one")
    assert step(5, "--run", "one", "--export", "merged") == 0
    exported = load_file(next((folder / "export").rglob("hamer.safetensors")))
    assert exported.keys() == load_file(Path(real_hands.ROOT, "lib/recipes/hamer/demo/base.safetensors")).keys()
    hand = pages.run("hamer", NAME=folder)
    assert hand["vertices"].shape == (1, 778, 3) and hand["camera"].shape == (1, 3)
    assert hand["joints_2d"].shape == (1, 21, 2)
    crop = torch.rand(1, 3, hand["side"], hand["side"])
    read = api.load(folder / "export" / "merged").adapted(crop)["pred_vertices"]
    assert torch.allclose(read, hand["run"].adapted(crop)["pred_vertices"], atol=1e-6)
    assert not torch.allclose(read, hand["run"].base(crop)["pred_vertices"], atol=1e-6)


def base_score(name: str) -> float:
    return json.loads(Path(f"runs/{name}/eval/scores.json").read_text())["metrics"]["pa_mpjpe_mm"]["base"]


def test_five_steps_in_bf16_score_the_base_as_in_fp32(step, new_precision):
    """On the CPU, where autocast works as on a card; the adapters learn in it as well."""
    for precision in ("fp32", "bf16"):
        new_precision()
        words = (*(word for word in FEW if not word.startswith("train.precision")), f"train.precision={precision}")
        for number in range(1, 6):
            assert step(number, "--run", precision, *(words if number == 1 else ())) == 0
    assert abs(base_score("bf16") / base_score("fp32") - 1) < 0.05


if real_hands.REAL.exists():

    def test_real_hands_with_pseudo_labels_are_split_by_person_and_scored_in_2d(step, tmp_path):
        real_hands.signs(tmp_path / "signs")
        labels = tmp_path / "signs" / "hands.json"
        labels.write_text(json.dumps(json.loads(labels.read_text())[::12]))
        first = (*FEW, f"data.root={tmp_path / 'signs'}", "data.format=folder", "data.truth=2d")
        for number in range(1, 6):
            assert step(number, "--run", "real", *(first if number == 1 else ())) == 0
        scores = json.loads(Path("runs/real/eval/scores.json").read_text())
        assert scores["main"]["metric"] == "pck_10" and "pa_mpjpe_mm" not in scores["metrics"]
        assert json.loads(Path("runs/real/split.json").read_text())["overlap"]["groups"] == 0
