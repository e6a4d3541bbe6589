"""What step 5 says of generated spectrograms, on sets whose answer is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lib import recipes
from lib.core.errors import Stop
from lib.core.records import Row, Stage
from lib.network import scoring
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, moments_of
from lib.recipes.vavae_microdoppler.autoencoder.samples import sample
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import evaluate, generate, predict
from tests.recipes.vavae_microdoppler.dit.dit_case import DIT, Case


@pytest.fixture
def case(laid) -> Case:
    with torch.no_grad():  # as lib scores
        yield laid


def rows(decoded: np.ndarray, fake: np.ndarray, labels, **numbers) -> list[Row]:
    made = []
    for i, label in enumerate(labels):
        sets = {"real": decoded[i] + 7, "decoded": decoded[i], "fake": fake[i]}
        vectors = {f"{name}_{k:02}": float(v) for name, vector in sets.items() for k, v in enumerate(vector)}
        more = {name: float(np.broadcast_to(value, len(labels))[i]) for name, value in numbers.items()}
        made.append(Row(str(i), "g", vectors | {"label": float(label)} | more))
    return made


def summarised(decoded: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    return evaluate.summarise(Config(), DIT, rows(decoded, fake, [0, 0, 1, 1], **MARKS))


def scored(case: Case, parts, batch) -> dict[str, float]:
    return evaluate.summarise(case.config, DIT, evaluate.score_batch(case.config, DIT, parts, batch))


MARKS = {"hit": 1, "hit_real": [1, 1, 0, 1], "hit_reconstructed": 1, "nearest": 1.0, "nearest_held_out": [1, 2, 3, 4]}
POINTS = np.array([[0.0, 0], [3, 4], [10, 0], [10, 1]])


def test_two_equal_sets_have_distance_zero_and_full_diversity():
    found = summarised(POINTS, POINTS)
    assert found["frechet_decoded"] == pytest.approx(0, abs=1e-6) and found["diversity_ratio"] == pytest.approx(1)
    assert (found["precision"], found["recall"]) == (1, 1)
    assert (found["user_accuracy"], found["user_accuracy_real"]) == (1, 0.75)
    assert found["memorisation_ratio"] == pytest.approx(1 / 2.5)  # medians of 1 and of 1, 2, 3, 4


def test_a_user_who_always_looks_the_same_is_a_collapse():
    fake = np.array([[0.0, 0], [0, 0], [10, 0], [10, 1]])
    found = summarised(POINTS, fake)
    # distances within users: real 5 and 1, generated 0 and 1
    assert found["diversity_ratio"] == pytest.approx((0 + 1) / (5 + 1))


def test_frechet_distance_of_shifted_sets_is_the_squared_shift():
    found = summarised(POINTS, POINTS + np.array([3, 4]))
    assert found["frechet_decoded"] == pytest.approx(25)
    assert found["frechet_vgg32"] == pytest.approx(4**2 + 3**2)  # the images themselves lie 7 further along both axes


def described(**values) -> str:
    adapted = {
        "frechet_vgg32": 1.0, "frechet_decoded": 0.5, "user_accuracy": 0.9, "user_accuracy_real": 0.8,
        "user_accuracy_reconstructed": 0.7, "diversity_ratio": 0.9, "memorisation_ratio": 0.9, "precision": 0.5,
        "recall": 0.5,
    } | values  # fmt: skip
    metrics = {name: {"adapted": value, "base": 2.0, "trivial": 0.1} for name, value in adapted.items()}
    scores, of = {"metrics": metrics, "comparison": "random_init"}, rows(POINTS, POINTS, [0, 0, 1, 1])
    return evaluate.describe(Config(), DIT, scores, of, of)


def test_the_marks_state_chance_and_what_the_judge_is_worth():
    said = described()
    assert "user accuracy 90.0% (> 80%: passed), chance 50.0%" in said and "on real held-out images 80.0%" in said
    assert "no collapse" in said and "no copies" in said and "not Inception's (< 50: passed)" in said


@pytest.mark.parametrize(("bad", "word"), [
    ({"diversity_ratio": 0.4}, "COLLAPSED"), ({"memorisation_ratio": 0.1}, "MEMORISED"),
    ({"user_accuracy": 0.79}, "> 80%: not passed"), ({"frechet_vgg32": 51.0}, "< 50: not passed"),
    ({"diversity_ratio": float("nan")}, "COLLAPSED"), ({"frechet_inception": 60.0}, "space 60 (< 50: not passed)"),
])  # fmt: skip
def test_a_mark_that_is_missed_is_said(bad, word):
    assert word in described(**bad)


def test_a_network_that_generates_training_images_is_found_out(case, monkeypatch):
    parts, batch = case.parts(), case.batch("test", 6)
    autoencoder, stored = parts.modules["autoencoder"], case.manifest.side("train")[:6]
    copies = torch.stack([torch.from_numpy(sample(case.manifest.arrays, record)["image"]) for record in stored])

    def decoded(image):
        return decode(autoencoder, moments_of(autoencoder, image).chunk(2, 1)[0])

    monkeypatch.setattr(generate, "images", lambda *_: decoded(copies))
    assert scored(case, parts, batch)["memorisation_ratio"] < 0.01
    monkeypatch.setattr(generate, "images", lambda *_: decoded(batch["image"]))
    assert scored(case, parts, batch)["memorisation_ratio"] == pytest.approx(1, rel=1e-3)


def test_scores_are_of_the_sample_that_the_seed_draws(case):
    parts, batch = case.parts(), case.batch("test", 2)
    found = [evaluate.score_batch(case.config, DIT, parts, batch | {scoring.SEEDS: [seed, 9]})[0] for seed in (4, 4, 5)]
    assert found[0].numbers == found[1].numbers and found[0].numbers["fake_00"] != found[2].numbers["fake_00"]
    assert found[0].arrays["generated"].shape == (3, 32, 32)


def test_the_trivial_column_is_a_training_image_of_the_same_user(case):
    batch = case.batch("test", 6)
    found = evaluate.score_batch(case.config, DIT, None, batch)
    features, trained = case.parts().modules["reference"].train_features, case.manifest.side("train")
    for row in found:
        fake = torch.tensor([row.numbers[f"fake_{i:02}"] for i in range(features.shape[1])])
        twin = int((features - fake).norm(dim=1).argmin())
        assert torch.allclose(features[twin], fake) and trained[twin].columns["label"] == str(int(row.numbers["label"]))


def test_metrics_of_the_stage_name_what_summarise_finds(case):
    found, measures = scored(case, case.parts(), case.batch("test", 4)), evaluate.measures(case.config, DIT)
    assert measures.keys() - found.keys() == {"frechet_inception"}  # for which a person brings the network
    assert not found.keys() - measures.keys() and next(iter(measures)) == "frechet_decoded"


def test_each_kind_of_stage_has_functions_of_its_own(case):
    recipe, align = recipes.load("vavae_microdoppler"), Stage("align", 1, kind="autoencoder")
    names = [[objective.name for objective in recipe.objectives(case.config, stage)] for stage in (DIT, align)]
    assert names == [["velocity"], ["autoencoder", "critic"]]
    assert [recipe.comparison(case.config, stage) for stage in (DIT, align)] == ["random_init", "base"]
    assert next(iter(recipe.measures(case.config, align))) == "psnr"


# ---------------------------------------------------------------------------------------------- --predict, --export


def test_predict_draws_a_grid_per_user_and_the_same_image_however_many_are_asked_for(case, tmp_path):
    parts = case.parts()
    for count in (2, 5):
        predict.predict(case.config, DIT, parts, f"users=2 n={count}", tmp_path / str(count))
    made = sorted(p.name for p in (tmp_path / "5").rglob("*.png"))
    assert made == [*(f"00{number}.png" for number in range(5)), "ID_2.png"]
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / n / "ID_2" / "001.png")) for n in ("2", "5")))
    assert Image.open(tmp_path / "5" / "ID_2.png").size == (3 * 34 - 2, 2 * 34 - 2)


@pytest.mark.parametrize(("words", "found"), [
    ("users=1,ID_2 n=3", (["ID_1", "ID_2"], 3)), ("n=2", (["ID_1", "ID_2", "Anna Lee", "王 小明"], 2)),
    ("users=ID_1", (["ID_1"], 16)),
    ('users="Anna Lee",2 n=1', (["Anna Lee", "ID_2"], 1)), ("users=ID_1,Anna Lee n=2", (["ID_1", "Anna Lee"], 2)),
    ("users=王 小明", (["王 小明"], 16)),
])  # fmt: skip
def test_users_are_named_in_full_or_by_their_number(words, found):
    assert predict.read_inputs(words, ["ID_1", "ID_2", "Anna Lee", "王 小明"]) == found


@pytest.mark.parametrize(("words", "said"), [
    ("users=9", "no user '9'"), ("n=0", "not a number of images"), ("folder/", "not understood"),
    ("user=1", "'user=1': user"), ('users="1', "No closing quotation"),
])  # fmt: skip
def test_inputs_that_cannot_be_read_say_how(words, said):
    with pytest.raises(Stop, match=said) as stopped:
        predict.read_inputs(words, ["ID_1", "ID_2"])
    assert stopped.value.command == predict.USAGE


def test_the_export_holds_published_names_and_what_turns_samples_into_images(case, tmp_path):
    parts = case.parts()
    predict.export(case.config, DIT, parts, tmp_path)
    assert load_file(tmp_path / "lightningdit.safetensors").keys() == parts.modules["dit"].state_dict().keys()
    assert load_file(tmp_path / "latents_stats.safetensors")["std"].shape == (1, 4, 1, 1)
    assert "decoder.mid.attn_1.q.weight" in load_file(tmp_path / "vavae_published.safetensors")
