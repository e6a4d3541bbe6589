"""The report shows what the files say, in one file that needs nothing else."""

import csv
import html
import json
import re
import shlex

import pytest

from lib import recipes
from lib.core import config, steps
from lib.core.errors import Stop
from lib.core.run import Run, append_line, existing, read_log, write_record
from lib.data import split
from lib.evaluation import curves, report

METRICS = {
    "abs_rel": {
        "base": 0.2,
        "adapted": 0.15,
        "trivial": 0.5,
        "difference": -0.05,
        "low": -0.07,
        "high": -0.03,
        "verdict": "better",
    },
    "inliers": {
        "base": 0.6,
        "adapted": 0.61,
        "trivial": None,
        "difference": 0.01,
        "low": -0.02,
        "high": 0.04,
        "verdict": "not shown",
    },
}


def make_run(root, name="vggt_eth3d-strategy_b-demo", **settings) -> Run:
    """A finished run in its real formats, with 60 steps, two losses and 12 held-out samples of 3 scenes."""
    run = Run(root, name)
    write_record(
        run.record,
        {
            "recipe": "vggt_eth3d",
            "preset": "strategy_b",
            "demo": True,
            "scale": "full",
            "overrides": settings,
            "seed": 42,
            "threads": 2,
            "processes": 1,
            "micro_batch": 1,
            "precision": "fp32",
            "config": {"lora.rank": 16, "train.lr": 1e-4, "eval.resamples": 1000} | settings,
            "differs_from_preset": settings,
            "versions": {"torch": "2.13.0"},
            "device": "cpu",
            "origin": {
                "date": "2026-11-28 09:00 UTC",
                "commit": "0123456789ab",
                "assets": [{"name": "base", "what": "facebook/VGGT-1B at 860abec", "licence": "non-commercial"}],
            },
            "machine": {
                "cores": 2,
                "memory_bytes": 24_000_000_000,
                "system": "Linux",
                "python": "3.11.7",
                "cuda": None,
            },
        },
    )
    write_record(
        run.scores,
        {
            "recipe": "vggt_eth3d",
            "preset": "strategy_b",
            "step": 60,
            "stage": "main",
            "stands_on": {},
            "main": {"metric": "abs_rel", "unit": "", "lower_is_better": True},
            "comparison": "base",
            "n_samples": 12,
            "n_groups": 3,
            "resampled": "groups",
            "metrics": METRICS,
            "guards": ["the base was loaded strictly"],
            "units": {"abs_rel": "", "inliers": "share"},
            "lower_is_better": {"abs_rel": True, "inliers": False},
            "words": {
                "abs_rel": {"title": "Relative error", "meaning": "Share of the true depth.", "front": True},
                "inliers": {"title": "δ < 1.25", "meaning": "Share of right pixels.", "front": True},
            },
            "by_group": {f"scene{i}": {"n": 4, "base": 0.2, "adapted": 0.15} for i in range(3)},
        },
    )
    rows = [[f"scene{i % 3}/{i}", f"scene{i % 3}", "abs_rel", 0.2 + 0.01 * i, 0.15 + 0.01 * i, 0.5] for i in range(12)]
    write_csv(
        run.scores.with_name("per_sample.csv"), ["sample_id", "group", "number", "base", "adapted", "trivial"], rows
    )
    records = [
        [f"scene{i}/{j}", f"scene{i}", "test" if i < 3 else "train", "asset:scenes/x", f"{i}{j}", "ok", "", ""]
        for i in range(6)
        for j in range(5)
    ]
    records.append(
        ["scene5/broken", "scene5", "train", "asset:scenes/y", "", "skipped", "the image cannot be decoded", ""]
    )
    write_csv(run.manifest, split.COLUMNS, records)
    write_record(
        run.split,
        {
            "by": "scene",
            "seed": 42,
            "groups": {"train": ["scene3", "scene4", "scene5"], "select": [], "test": ["scene0", "scene1", "scene2"]},
            "overlap": {"groups": 0, "files": 0, "near_duplicates": 0},
        },
    )
    write_training(run)
    return run


def write_training(run: Run) -> None:
    stage = run.stage("main")
    append_line(stage / "log.jsonl", {"step": 0, "eval": {"abs_rel": 0.2, "inliers": 0.6}, "main": "abs_rel"})
    for step in range(1, 61):
        noise = 0.1 * ((step * 37) % 11 - 5) / 5
        losses = {"loss_objective": 5 / step**0.5 + noise, "loss_camera": 0.5 / step + 0.01}
        append_line(
            stage / "log.jsonl",
            {"step": step, "epoch": step / 20}
            | losses
            | {"lr_lora": 1e-4 * (1 - step / 61), "grad_norm_lora": 1 + noise},
        )
        append_line(
            stage / "timing.jsonl",
            {
                "step": step,
                "seconds": 0.5,
                "waited_seconds": 0.05,
                "samples_per_second": 2.0,
                "memory_bytes": 1_500_000_000 + step,
            },
        )
        if step % 20 == 0:
            append_line(
                stage / "log.jsonl",
                {"step": step, "eval": {"abs_rel": 0.2 - step / 1000, "inliers": 0.6}, "main": "abs_rel"},
            )
    write_record(stage / "best.json", {"step": 40, "metric": "abs_rel", "value": 0.16})
    stamp(run)


def stamp(run: Run) -> None:
    """Steps 4 and 5 were made from what the run holds now."""
    for step in (4, 5):
        made_from = {
            "inputs": steps.inputs(run, step, None, None),
            "config": existing(run.record)["config"],
            "code": {},
        }
        write_record(
            run.stamp(step),
            {
                "state": "complete",
                "fingerprint": made_from,
                "progress": None,
                "outputs": [],
                "hashes": {},
                "seconds": 33.0,
                "next": "",
            },
        )


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def change(path, **values):
    write_record(path, existing(path) | values)


def page_of(run: Run) -> str:
    return report.write(run.folder).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)))


def test_the_page_needs_nothing_but_itself(tmp_path):
    run = make_run(tmp_path)
    page = page_of(run)
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert len(sources) == 1 + 5  # the points of the samples, the curves of the stage
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert "script src" not in page and "http" not in page and "url(" not in page


def test_the_caption_of_a_picture_says_what_it_shows(tmp_path):
    from PIL import Image, PngImagePlugin

    run, said = make_run(tmp_path), PngImagePlugin.PngInfo()
    said.add_itxt("Description", "A held-out hand of 小明.")
    (run.folder / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(run.folder / "figures" / "a_1.png", pnginfo=said)
    Image.new("RGB", (4, 4)).save(run.folder / "figures" / "b_2.png")
    captions = re.findall("<figcaption>(.*?)</figcaption>", page_of(run))
    assert captions[0] == "A held-out hand of 小明." and "b 2" in captions


def test_every_picture_of_a_recipe_has_a_caption():
    for name in recipes.RECIPES:
        for file in recipes.load(name).modules("figures"):
            source = file.read_text(encoding="utf-8")
            drawn = len(re.findall(r"\.savefig\(|scene_figure\(", source))
            assert drawn and drawn == len(re.findall(r"\"Description\": said|scene_figure\(", source)), file


def test_the_verdict_comes_first_with_numbers_interval_and_what_was_resampled(tmp_path):
    text = text_of(page_of(make_run(tmp_path)))
    claim = "The adapted model is better than the untouched base. Relative error: 0.1500 against 0.2000 "
    claim += "(difference −0.0500, −25.0 %; 95 % interval −0.0700 to −0.0300)."
    basis = "12 held-out samples in 3 groups; the interval comes from 1,000 resamples of the groups."
    assert 0 < text.index(claim) < text.index(basis) < text.index("Scores on held-out data")


@pytest.mark.parametrize(
    "word, claim", [("worse", "is worse than"), ("not shown", "is not shown: the interval includes zero")]
)
def test_worse_and_not_shown_are_said_as_plainly_as_better(tmp_path, word, claim):
    run = make_run(tmp_path)
    change(run.scores, metrics=METRICS | {"abs_rel": METRICS["abs_rel"] | {"verdict": word}})
    text = text_of(page_of(run))
    assert claim in text and "is better than the untouched" not in text


def test_the_relative_change_of_a_negative_number_has_the_sign_of_the_difference(tmp_path):
    run = make_run(tmp_path)
    gained = METRICS["abs_rel"] | {"base": -2.0, "adapted": -1.5, "difference": 0.5, "low": 0.4, "high": 0.6}
    change(run.scores, metrics=METRICS | {"abs_rel": gained})
    numbers = report.verdict(existing(run.scores), existing(run.record)).numbers
    assert "difference +0.500, +25.0 %" in numbers


def test_without_a_base_there_is_no_verdict_and_the_comparison_is_named(tmp_path):
    run = make_run(tmp_path)
    change(run.scores, comparison="random_init", metrics=METRICS | {"abs_rel": METRICS["abs_rel"] | {"verdict": ""}})
    text = text_of(page_of(run))
    assert (
        "No verdict: the comparison is with random init, and there is no base to improve on." in text
        and "25.0 %" not in text
    )


def test_a_trivial_predictor_without_a_score_is_no_rival():
    main = {"metric": "error", "unit": "", "lower_is_better": True, "rival": True}
    scores = {"main": main, "words": {"error": {"title": "Error"}}, "metrics": {"error": {"adapted": 0.3}}}
    for trivial, said in ((0.2, 1), (0.4, 0), (float("nan"), 0), (None, 0)):
        scores["metrics"]["error"]["trivial"] = trivial
        assert len(report.trivial_wins(scores)) == said


def test_numbers_that_do_not_exist_are_dashes(tmp_path):
    run = make_run(tmp_path)
    nothing = {"base": 0.0, "low": float("nan"), "high": float("nan"), "trivial": None, "verdict": "not shown"}
    change(run.scores, metrics={"abs_rel": METRICS["abs_rel"] | nothing})
    text = text_of(page_of(run))
    assert "no interval" in text and "– to –" not in text and "nan" not in text.lower().split()


def test_a_demo_is_announced_and_a_real_run_is_not(tmp_path):
    run = make_run(tmp_path)
    assert "Demo run. " in text_of(page_of(run))
    assert report.banner({"demo": True, "scale": "tiny"})["title"] == "Demo run at tiny scale."
    change(run.record, demo=False)
    assert "Demo run" not in text_of(page_of(run))


def test_split_proof_skipped_data_guards_and_settings_are_there(tmp_path):
    text = text_of(page_of(make_run(tmp_path, **{"lora.rank": 8})))
    assert "Split by scene with seed 42. Found on both sides: 0 groups, 0 files and 0 near-duplicates." in text
    assert "train 3 15 scene3, scene4, scene5" in text and "test 3 15 scene0, scene1, scene2" in text
    assert "1 × the image cannot be decoded" in text
    assert "the base was loaded strictly" in text
    assert "Changed against the preset strategy_b : lora.rank 8" in text
    assert "facebook/VGGT-1B at 860abec non-commercial" in text and "2026-11-28 09:00 UTC · code 0123456789ab" in text
    assert "60 optimiser steps · best at step 40 · 2 samples/s (median) · peak memory 1.50 GB" in text
    assert "device busy 90 % of the time" in text
    assert "cores 2 memory 24.00 GB system Linux python 3.11.7 torch 2.13.0" in text


def test_text_from_files_cannot_become_markup(tmp_path):
    run = make_run(tmp_path)
    change(run.scores, guards=["<script>alert(1)</script>"])
    page = page_of(run)
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_the_commands_give_the_same_settings_again(tmp_path):
    overrides = {"data.scenes": ["castle-P30", "a, b"], "lora.rank": 8, "train.lr": 1e-5, "data.root": "../x y"}
    overrides |= {"lora.peft.use_dora": True, "data.depth": None, "data.name": "1"}
    run = make_run(tmp_path, **overrides)
    lines = report.commands(run, json.loads(run.record.read_text()))
    words = shlex.split(lines[0])
    assert words[:8] == [
        "python",
        "step1_setup.py",
        "--recipe",
        "vggt_eth3d",
        "--preset",
        "strategy_b",
        "--demo",
        "--run",
    ]
    read_back = dict(config.parse_override(word) for word in words[9:])
    assert (
        read_back | {"train.lr": float(read_back["train.lr"])} == overrides
    )  # the typed configuration reads 1.0e-05 as well
    assert lines[1:] == [
        f"python {script} --run {run.name}"
        for script in ("step2_download.py", "step3_prepare.py", "step4_train.py", "step5_evaluate.py")
    ]


def test_the_report_can_be_made_again_and_is_the_same(tmp_path):
    run = make_run(tmp_path)
    assert page_of(run) == page_of(run)


def test_a_run_without_scores_names_step_5(tmp_path):
    run = make_run(tmp_path)
    run.scores.unlink()
    with pytest.raises(Stop) as stop:
        report.write(run.folder)
    assert stop.value.command == run.command(5)


def test_curves_have_a_panel_per_loss_and_the_evaluations_of_the_main_metric(tmp_path):
    stage = make_run(tmp_path).stage("main")
    found = curves.panels(read_log(stage / "log.jsonl"))
    assert list(found) == [
        "evaluation: abs_rel",
        "loss_objective",
        "loss_camera",
        "learning rate",
        "gradient norm (before clipping)",
    ]
    steps, values = found["evaluation: abs_rel"]["abs_rel"]
    assert steps == [0, 20, 40, 60] and values == pytest.approx([0.2, 0.18, 0.16, 0.14])
    assert found["learning rate"]["lora"][0] == list(range(1, 61))


def test_an_objective_that_is_not_due_at_every_step_keeps_its_steps():
    log = [{"step": 1, "loss_objective": 1.0}, {"step": 2, "loss_objective": 1.0, "loss_critic": 3.0, "skipped": 1.0}]
    assert curves.panels(log) == {
        "loss_objective": {"loss_objective": ([1, 2], [1.0, 1.0])},
        "loss_critic": {"loss_critic": ([2], [3.0])},
    }


def test_a_stage_that_has_logged_nothing_has_no_curves(tmp_path):
    assert curves.curves(tmp_path) is None


@pytest.mark.parametrize(
    "value, shown",
    [(0.2, "0.2000"), (1234, "1,234"), (1234.56, "1235"), (-1e-7, "−1.000e−07"), (None, "–"), (float("nan"), "–")],
)
def test_numbers_have_four_digits(value, shown):
    assert report.number(value) == shown


@pytest.mark.parametrize(
    "seconds, shown", [(33.4, "33 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (7260, "2 h 01 min")]
)
def test_durations_are_read_at_a_glance(seconds, shown):
    assert report.duration(seconds) == shown
