import pytest

from lib.core.config import from_dotted
from lib.recipes.vavae_microdoppler.autoencoder import decision
from lib.recipes.vavae_microdoppler.config import Config

AUTOENCODER, WITH_DIT = ["align", "reconstruct", "margin"], ["align", "reconstruct", "margin", "dit"]


def decided(scores: dict, plan: str = "auto", stages: list[str] = AUTOENCODER) -> dict:
    return decision.decide(from_dotted(Config, {"train.plan": plan, "train.stages": stages}), lambda: scores)


@pytest.mark.parametrize(("psnr", "lpips", "stages", "wanted"), [
    (31.0, 0.05, WITH_DIT, {"train.stages": ["dit"]}), (31.0, 0.05, AUTOENCODER, {"train.plan": "light"}),
    (31.0, 0.30, WITH_DIT, {"train.plan": "light"}), (26.0, 0.05, WITH_DIT, {"train.plan": "light"}),
    (21.9, 0.05, WITH_DIT, {"train.plan": "deep"}), (25.0, 0.05, AUTOENCODER, {"train.plan": "deep"}),
])  # fmt: skip
def test_auto_follows_the_guides_tree(psnr, lpips, stages, wanted):
    assert decided({"psnr": psnr, "lpips": lpips}, stages=stages) == wanted


def test_without_lpips_psnr_decides_alone():
    assert decided({"psnr": 31.0}, stages=WITH_DIT) == {"train.stages": ["dit"]}


@pytest.mark.parametrize("plan", ["light", "deep"])
def test_what_a_person_said_stays_and_the_tree_is_shown_all_the_same(plan, capsys):
    assert decided({"psnr": 31.0, "lpips": 0.05}, plan) == {}
    said = capsys.readouterr().out
    assert "-> PSNR > 30 dB" in said and f"this run: train.plan={plan}, as given" in said


def test_the_tree_shows_the_numbers_and_the_branch_taken():
    assert decision.tree(21.94, 0.312).splitlines() == [
        "untouched base on held-out images: PSNR 21.94 dB, LPIPS 0.312",
        "     PSNR > 30 dB and LPIPS < 0.1: the DiT on its latents as they are, or a light adaptation",
        "     PSNR > 25 dB: a light adaptation, half of every stage",
        "  -> else: a deep adaptation, whole stages",
    ]


def test_a_run_that_trains_no_autoencoder_scores_nothing_and_decides_nothing():
    def score():
        raise AssertionError("the base was scored for nothing")

    assert decision.decide(from_dotted(Config, {"train.stages": ["dit"]}), score) == {}
