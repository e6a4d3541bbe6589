"""Step 5: base and adapted on the same samples; it pauses, goes on, and believes no row of another checkpoint."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib.core.records import Metric
from lib.core.run import Run, existing, read_json, write_json
from lib.evaluation import card, evaluate
from lib.network import scoring
from lib.recipes.toy import recipe as toy
from tests.data.hub_server import serve


def table(folder):
    with open(folder / "eval" / "per_sample.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trained(prepared):
    prepared("train.epochs=2", "eval.figures=1", last=4)


def stop_after(monkeypatch, samples):
    """SIGTERM while the sample with this number is scored."""
    real, seen = scoring.rows, []

    def rows(*arguments, **named):
        seen.append(1)
        if len(seen) == samples:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    monkeypatch.setattr(scoring, "rows", rows)


def test_the_base_is_the_untouched_one_and_every_sample_is_scored_once(trained, step, folder, capsys):
    assert step(5) == 0
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    rows = table(folder)
    assert len(rows) == len({row["sample_id"] for row in rows}) == 20
    assert {row["sample_id"] for row in rows} == {f"s{i}" for i in range(20, 40)}
    net = toy.network()
    net.load_state_dict(load_file(folder.parent.parent / "data" / "toy" / "base" / "base.safetensors"))
    for row in rows:
        [path] = (folder.parent.parent / "cache").glob(f"prepared-*/{row['sample_id'][1:]}.npy")
        x = torch.from_numpy(np.load(path))[None]
        assert float(row["base"]) == pytest.approx(float((net(x) - toy.truth(x)).abs().detach()), rel=1e-5)
        assert float(row["trivial"]) == pytest.approx(float(toy.truth(x).abs()), rel=1e-5)
    main = read_json(folder / "eval" / "scores.json")["metrics"]["error"]
    assert main["base"] == pytest.approx(sum(float(row["base"]) for row in rows) / 20)


def test_paused_by_a_signal_and_resumed_it_is_bit_equal(trained, step, folder, monkeypatch, capsys):
    files = [folder / name for name in ("eval/scores.json", "eval/per_sample.csv", "figures/guesses.txt")]
    assert step(5) == 0
    wanted = [file.read_bytes() for file in files]
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        assert step(5, "--force") == 75
    assert (
        "paused at 7 of 60 held-out samples: SIGTERM. Go on with: python step5_evaluate.py --run r"
        in capsys.readouterr().out
    )
    with monkeypatch.context() as patched:
        stop_after(patched, 20)
        assert step(5) == 75
    assert step(5) == 0
    assert [file.read_bytes() for file in files] == wanted
    assert not (folder / "eval" / "partial").exists()


def test_rows_of_a_paused_evaluation_do_not_serve_another_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.steps, "fingerprint", lambda *made_from: {})
    job = SimpleNamespace(run=Run(tmp_path, "r"), recipe=None, config=None)
    devices = [SimpleNamespace(device=torch.device(kind), mixed_precision=precision) for kind, precision in
               (("cuda", "bf16"), ("cuda", "fp16"), ("cpu", "bf16"))]  # fmt: skip
    assert len({evaluate.partial_folder(job, Path("step-000005"), one) for one in devices}) == len(devices)


def test_rows_of_a_paused_evaluation_do_not_serve_another_training(trained, step, folder, monkeypatch):
    with monkeypatch.context() as patched:
        stop_after(patched, 35)  # the base is scored, and most of the adapted model
        assert step(5) == 75
    assert step(1, "train.lr=0.0") == 0 and step(4, "--force") == 0 and step(5) == 0
    assert all(row["base"] == row["adapted"] for row in table(folder))


def test_another_checkpoint_is_scored_when_it_is_asked_for(trained, step, folder, capsys):
    assert step(5) == 0
    assert step(5, "--checkpoint", "step-7") == 2
    assert "the run r has no checkpoint 'step-7'; there are:" in capsys.readouterr().err
    assert step(5, "--force", "--checkpoint", "step-5") == 0
    assert read_json(folder / "eval" / "scores.json")["step"] == 5


def test_plain_peft_loads_the_exported_adapter_and_the_merged_file_has_the_original_keys(trained, step, folder):
    from peft import PeftModel

    assert step(5, "--export", "adapter") == 0 and step(5, "--export", "merged") == 0
    base = load_file(folder.parent.parent / "data" / "toy" / "base" / "base.safetensors")
    one, other = toy.network(), toy.network()
    one.load_state_dict(base)
    adapted = PeftModel.from_pretrained(one, folder / "export" / "adapter").eval()
    merged = load_file(folder / "export" / "merged" / "model.safetensors")
    assert merged.keys() == base.keys() and any(not torch.equal(merged[key], base[key]) for key in base)
    other.load_state_dict(merged)
    x = torch.linspace(-1, 1, 80).reshape(10, 8)
    assert torch.allclose(adapted(x), other(x), atol=1e-6)
    rows = {row["sample_id"]: float(row["adapted"]) for row in table(folder)}
    [path] = (folder.parent.parent / "cache").glob("prepared-*/33.npy")
    x = torch.from_numpy(np.load(path))[None]
    assert rows["s33"] == pytest.approx(float((other(x) - toy.truth(x)).abs().detach()), rel=1e-4)


def test_an_adapter_that_was_pushed_and_pulled_gives_the_same_scores(trained, step, folder, tmp_path, monkeypatch):
    """With plain PEFT, and the real client against a hub on this machine."""
    from huggingface_hub import hf_hub_download
    from peft import PeftModel

    revision, pulled = "1" * 40, tmp_path / "pulled"
    with serve("me/adapter", revision, {}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert step(5, "--export", "hub", "--hub-repository", "me/adapter") == 0
        for name in list(hub.files):
            hf_hub_download("me/adapter", name, revision=revision, local_dir=pulled, endpoint=hub.address)
    exported = folder / "export" / "adapter"
    assert set(hub.files) == {file.name for file in exported.iterdir()}
    network = toy.network()
    network.load_state_dict(load_file(folder.parent.parent / "data" / "toy" / "base" / "base.safetensors"))
    adapted = PeftModel.from_pretrained(network, pulled).eval()
    rows = {row["sample_id"]: float(row["adapted"]) for row in table(folder)}
    [path] = (folder.parent.parent / "cache").glob("prepared-*/33.npy")
    x = torch.from_numpy(np.load(path))[None]
    assert rows["s33"] == pytest.approx(float((adapted(x) - toy.truth(x)).abs().detach()), rel=1e-4)


def test_the_card_says_what_it_was_made_from_and_a_demos_card_that_it_is_no_result(trained, step, folder):
    from huggingface_hub import ModelCard

    assert step(5) == 0
    run, record = Run(folder.parent.parent, "r"), existing(folder / "run.json")
    hub_base = {
        "name": "base",
        "kind": "hub",
        "source": "me/base",
        "commit": "c" * 40,
        "licence": "Own licence, no sale",
    }
    write_json(run.assets, [hub_base])
    exported = folder / "export" / "adapter"
    exported.mkdir(parents=True)
    [scored] = folder.glob(f"train/*/step-{existing(run.scores)['step']:06d}")
    card.write(run, record, ["import peft"], exported, scored)
    head = ModelCard.load(exported / "README.md").data.to_dict()
    assert head["base_model"] == ["me/base"] and head["library_name"] == "peft"
    assert head["license"] == "other" and head["license_name"] == "own-licence-no-sale"
    [result] = head["model-index"][0]["results"]
    scores = existing(run.scores)
    assert result["metrics"][0]["value"] == scores["metrics"][scores["main"]["metric"]]["adapted"]
    text = ModelCard.load(exported / "README.md").text
    assert (
        "c" * 40 in text and "share 0 groups, 0 files" in text and "trivial predictor" in text and "import peft" in text
    )
    assert text.strip().startswith("# r")
    card.write(run, record | {"demo": True}, ["import peft"], exported, scored)
    demo = ModelCard.load(exported / "README.md")
    assert demo.text.strip().startswith("**This adapter comes from a demo") and "model-index" not in demo.data.to_dict()


def test_the_card_of_a_checkpoint_that_was_not_scored_has_no_numbers_of_another_one(trained, step, folder):
    assert step(5) == 0
    scores = existing(folder / "eval" / "scores.json")
    other = next(at for at in folder.glob("train/*/step-*") if int(at.name[5:]) != scores["step"])
    assert step(5, "--export", "adapter", "--checkpoint", other.name) == 0
    text = (folder / "export" / "adapter" / "README.md").read_text()
    assert f"step {int(other.name[5:])}, which was not scored: step {scores['step']} was" in text
    assert f"preset small, step {int(other.name[5:])};" in text
    assert "model-index" not in text and "interval" not in text and "trivial" not in text
    assert step(5, "--export", "adapter") == 0
    assert "interval" in (folder / "export" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("lost", [(33,), range(20, 40)])
def test_an_adapted_model_without_a_number_is_no_result(trained, step, folder, monkeypatch, capsys, lost):
    real = toy.score_batch

    def score_batch(config, stage, parts, batch):
        found = real(config, stage, parts, batch)
        if parts and any("lora_A" in name for name, _ in parts.modules["net"].named_parameters()):
            for row in found:
                row.numbers["error"] = float("nan") if int(row.sample_id[1:]) in lost else row.numbers["error"]
        return found

    monkeypatch.setattr(toy, "score_batch", score_batch)
    assert step(5) == 1 and not (folder / "eval" / "scores.json").exists()
    said = capsys.readouterr().err
    assert f"not finite for {'1 held-out sample' if len(lost) == 1 else '20 held-out samples'}, first s" in said
    assert "step4_train.py --run r --force --detect-anomaly" in said


def test_a_further_number_of_one_network_alone_is_in_no_mean(trained, step, folder, monkeypatch):
    """The base has the value of a sample at which the adapted model has none: its mean would be over that one, too."""
    real = {name: getattr(toy, name) for name in ("score_batch", "summarise", "measures")}

    def score_batch(config, stage, parts, batch):
        found = real["score_batch"](config, stage, parts, batch)
        is_adapted = parts and any("lora_A" in name for name, _ in parts.modules["net"].named_parameters())
        for row in found:
            hard = row.sample_id == "s33"
            row.numbers["reach"] = 1.0 if not hard else float("nan") if is_adapted else 100.0
        return found

    def summarise(config, stage, rows):
        known = [row.numbers["reach"] for row in rows if row.numbers["reach"] == row.numbers["reach"]]
        return real["summarise"](config, stage, rows) | {"reach": sum(known) / len(known)}

    monkeypatch.setattr(toy, "score_batch", score_batch)
    monkeypatch.setattr(toy, "summarise", summarise)
    monkeypatch.setattr(toy, "measures", lambda *of: real["measures"](*of) | {"reach": Metric("m")})
    assert step(5) == 0
    scores = read_json(folder / "eval" / "scores.json")
    assert [scores["metrics"]["reach"][column] for column in ("base", "adapted", "trivial")] == [1, 1, 1]
    assert "reach has a value for 1 sample under one network alone" in scores["guards"][-1]
    assert ",reach,100.0,,100.0" in (folder / "eval" / "per_sample.csv").read_text()  # as scored


def test_predict_needs_a_folder_and_an_input(trained, step, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert step(5, "--predict", "mine") == 2
    assert "--predict needs --out DIR" in capsys.readouterr().err
    assert step(5, "--predict", "my photos") == 2
    assert "--predict 'my photos' --out predictions" in capsys.readouterr().err
    assert step(5, "--predict", "nothing", "--out", "out") == 2 and not (tmp_path / "out").exists()
    assert step(5, "--predict", "mine", "--out", "out") == 0 and (tmp_path / "out" / "prediction.txt").exists()


@pytest.mark.parametrize("content, said", [
    ("## Observations\n\nGl\u00e4ser sind schlechter.".encode("utf-16"), "is not UTF-8 text"),
    (b"## Beobachtungen\n\nGlas ist schlechter.", "has no line ## Observations any more"),
])  # fmt: skip
def test_observations_that_cannot_be_told_stop_before_the_scoring(trained, step, folder, capsys, content, said):
    """Step 5 writes record.md anew around them: what it does not find would be gone."""
    (folder / "record.md").write_bytes(content)
    assert step(5) == 2 and not (folder / "eval").exists()
    assert said in capsys.readouterr().err and (folder / "record.md").read_bytes() == content


def test_files_of_an_earlier_prediction_are_named(trained, step, tmp_path, capsys):
    """Depth maps of the photos of last week, between those of today."""
    (tmp_path / "mine").mkdir()
    assert step(5, "--predict", "mine", "--out", "out") == step(5, "--predict", "mine", "--out", "out") == 0
    assert "were there before" not in capsys.readouterr().out
    (tmp_path / "out" / "old.txt").write_text("of last week")
    assert step(5, "--predict", "mine", "--out", "out") == 0
    said = capsys.readouterr().out
    assert "1 file of out" in said and "there before and not of mine, first out/old.txt" in said


def test_scores_hold_what_the_report_needs_and_no_time(trained, step, folder):
    assert step(5) == 0
    scores = read_json(folder / "eval" / "scores.json")
    assert {
        "recipe",
        "preset",
        "step",
        "main",
        "n_samples",
        "n_groups",
        "resampled",
        "metrics",
        "by_group",
        "guards",
    } <= scores.keys()
    assert set(scores["metrics"]["error"]) == {"base", "adapted", "trivial", "difference", "low", "high", "verdict"}
    assert not any("second" in key or "time" in key for key in scores)
    assert sum(group["n"] for group in scores["by_group"].values()) == scores["n_samples"]
    assert "share 0 groups, 0 files and 0 near-duplicates" in json.dumps(scores["guards"])
    assert (folder / "report.html").stat().st_size > 1000
