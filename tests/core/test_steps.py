"""The four states of a step, each with its reason; what makes a step stale and what does not."""

import json
import shutil

import numpy as np
import pytest

from lib import recipes
from lib.core import code, steps
from lib.core.run import LISTED, existing, write_record
from lib.data.prepared import note
from tests.conftest import TOY


def plan(step, capsys, *words):
    capsys.readouterr()
    assert step(1, "--plan", "--json", *words) == 0
    return {
        int(number): (entry["state"], "; ".join(entry["reasons"]))
        for number, entry in json.loads(capsys.readouterr().out)["states"].items()
    }


@pytest.fixture
def done(prepared):
    prepared("train.epochs=1", last=5)


def test_a_new_run_is_absent_and_a_finished_one_complete(step, done, capsys):
    assert all(word == "complete" for word, _ in plan(step, capsys).values())
    assert all(word == "absent" for word, _ in plan(step, capsys, "--run", "another", "--recipe", "toy").values())
    for number in range(1, 6):
        assert step(number) == 0
        assert "complete, nothing to do" in capsys.readouterr().out


def test_another_rank_makes_training_and_evaluation_stale_and_nothing_before(step, done, capsys):
    states = plan(step, capsys, "lora.rank=3")
    assert [states[i][0] for i in (1, 2, 3)] == ["complete"] * 3
    assert states[4] == ("stale", "lora.rank was 2, is 3")
    assert states[5] == ("stale", "lora.rank was 2, is 3")


def test_settings_that_shape_nothing_make_nothing_stale(step, done, capsys):
    words = (
        "train.log_seconds=3",
        "train.checkpoint_minutes=1",
        "session.reserve_seconds=5",
        "eval.batch=7",
    )
    assert {word for word, _ in plan(step, capsys, *words).values()} == {"complete"}
    assert plan(step, capsys, "eval.resamples=60")[5] == ("stale", "eval.resamples was 50, is 60")
    assert plan(step, capsys, "eval.select_samples=3")[4] == ("stale", "eval.select_samples was 16, is 3")
    states = plan(step, capsys, "data.noise=0.5")  # of the augmentation: step 3 does not look at it
    assert states[3][0] == "complete" and states[4] == ("stale", "data.noise was 0.01, is 0.5")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of the code that a test may edit; the states are computed from it."""
    copy = tmp_path / "copy"
    shutil.copytree(code.REPOSITORY / "lib", copy / "lib", ignore=shutil.ignore_patterns("demo*", "__pycache__"))
    for file in (*code.REPOSITORY.glob("step*.py"), code.REPOSITORY / "requirements.txt"):
        shutil.copy(file, copy)
    monkeypatch.setattr(code, "REPOSITORY", copy)
    return copy


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_comment_changes_nothing_and_a_constant_names_its_file(step, done, capsys, repository):
    for path in (repository / "lib").rglob("*.py"):
        path.write_text(f"# a comment\n{path.read_text()}\n# the end\n")
    edit(repository / "lib" / "training" / "loop.py", '"""The one training loop.', '"""Another docstring.')
    assert {word for word, _ in plan(step, capsys).values()} == {"complete"}
    edit(repository / "lib" / "data" / "split.py", "NEAR_DUPLICATE_BITS = 6", "NEAR_DUPLICATE_BITS = 7")
    states = plan(step, capsys)
    assert states[3] == ("stale", "the code of lib/data/split.py changed") and states[2][0] == "complete"


def test_code_alone_never_retrains(step, done, capsys, repository, folder):
    log = (folder / "train" / "adapt" / "log.jsonl").read_bytes()
    edit(repository / "lib" / "core" / "order.py", "0xD1CE", "0xD1CF")
    assert step(4) == 2
    said = capsys.readouterr().err
    assert "the code of lib/core/order.py changed" in said and "--accept-code" in said and "Traceback" not in said
    assert step(5) == 2
    assert "step 4 (train) is stale: the code of lib/core/order.py changed" in capsys.readouterr().err
    assert step(5, "--accept-code") == 0
    assert step(4, "--accept-code") == 0
    assert (folder / "train" / "adapt" / "log.jsonl").read_bytes() == log
    assert json.loads((folder / "run.json").read_text())["accepted_code"] == ["the code of lib/core/order.py changed"]
    assert plan(step, capsys)[4][0] == "complete"


def test_more_epochs_and_other_code_go_on_once_the_code_is_accepted(step, done, capsys, repository, folder):
    edit(repository / "lib" / "core" / "order.py", "0xD1CE", "0xD1CF")
    assert step(4, "train.epochs=2") == 2
    assert "since the training began, the code of lib/core/order.py changed\n" in capsys.readouterr().err
    assert step(4, "train.epochs=2", "--accept-code") == 0
    assert "going on from step-000005" in capsys.readouterr().out
    assert json.loads((folder / "run.json").read_text())["accepted_code"] == ["the code of lib/core/order.py changed"]


def test_force_retrains_from_scratch(step, done, capsys, folder):
    times = (folder / "train" / "adapt" / "timing.jsonl").read_bytes()
    log = (folder / "train" / "adapt" / "log.jsonl").read_bytes()
    assert step(4, "--force") == 0
    assert (folder / "train" / "adapt" / "timing.jsonl").read_bytes() != times
    assert (folder / "train" / "adapt" / "log.jsonl").read_bytes() == log


def test_a_changed_input_is_named_and_not_trained_over(step, done, capsys, folder):
    """Another manifest, as step 3 writes it for other data."""
    manifest, stamp = folder / "manifest.csv", folder / "3_prepare.json"
    manifest.write_text(manifest.read_text().replace("hash3", "hashX"))
    made = existing(stamp)
    write_record(stamp, made | {"hashes": made["hashes"] | {"manifest.csv": steps.file_hash(manifest)}})
    assert plan(step, capsys)[4] == ("stale", "the input manifest.csv changed")
    assert step(4) == 2
    assert "was trained with different inputs: the input manifest.csv changed" in capsys.readouterr().err


def test_other_arrays_behind_the_same_manifest_are_not_trained_or_scored_over(step, done, capsys, folder):
    """A setting of step 3 alone, as the unit of depth is: the manifest stays as it was to the last letter."""
    manifest = (folder / "manifest.csv").read_bytes()
    assert step(1, "data.scale=3.0") == 0 and step(3) == 0
    assert (folder / "manifest.csv").read_bytes() == manifest
    reason = "data.scale was 1.0, is 3.0, and with it the prepared arrays"
    states = plan(step, capsys)
    assert states[4] == ("stale", reason) and states[5] == ("stale", reason)
    assert step(5) == 2 and step(4) == 2
    assert f"was trained with different inputs: {reason}" in capsys.readouterr().err
    assert step(4, "--force") == 0 and step(5) == 0 and step(5) == 0


def test_arrays_that_other_code_made_are_accepted_as_other_code_is():
    def said(holds, code):
        return json.dumps({"holds": [holds], "settings": {}, "code": {"lib/scenes/data.py": code}})

    reasons = steps.other_arrays(said("a", "1"), said("b", "2"))
    assert reasons == ["the code of lib/scenes/data.py changed, and with it the prepared arrays"]
    assert steps.only_code(tuple(reasons))
    for same in (said("a", "2"), said("b", "1"), None):  # the same arrays, another machine's, an older stamp
        assert steps.other_arrays(said("a", "1"), same) == steps.other_arrays(same, said("a", "1")) == []


def test_another_machine_that_rounds_otherwise_prepares_the_same_data(step, done, capsys, folder, tmp_path):
    [arrays] = (tmp_path / "cache").glob("prepared-*")
    np.save(arrays / "0.npy", np.load(arrays / "0.npy") + 1)
    note(arrays, lambda: None)
    made = existing(folder / "3_prepare.json")
    write_record(folder / "3_prepare.json", made | {"lists": [steps.file_hash(arrays / LISTED)]})
    assert [state for state, _ in plan(step, capsys).values()] == ["complete"] * 5


def test_what_a_training_notes_in_the_record_does_not_repeat_step_1(step, prepared, capsys):
    prepared("train.epochs=1", last=4)
    capsys.readouterr()
    assert step(5) == 0 and "running it first" not in capsys.readouterr().out


def test_a_manifest_that_step_3_did_not_write_is_made_again(step, done, capsys, folder):
    manifest = folder / "manifest.csv"
    written = manifest.read_text()
    manifest.write_text(written.replace("hash3", "hashX"))
    assert plan(step, capsys)[3] == ("stale", "manifest.csv is not what the step wrote")
    assert step(4) == 0 and manifest.read_text() == written


def test_a_training_whose_stamp_is_damaged_asks_before_it_goes_on(step, done, capsys, folder):
    """Nothing says what it was made from, so a person says that it may go on; it is recorded."""
    stamp = folder / "4_train.json"
    stamp.write_text(stamp.read_text().replace('"complete"', '"paused"'))
    assert step(4) == 2
    assert "4_train.json is damaged" in capsys.readouterr().err
    assert step(4, "--accept-code") == 0 and "4_train.json is damaged" in str(existing(folder / "run.json"))


def test_a_lost_cache_is_rebuilt_by_the_step_that_needs_it(step, done, capsys, tmp_path):
    shutil.rmtree(tmp_path / "cache")
    state = plan(step, capsys)[3]
    assert state[0] == "stale" and state[1].startswith("cache/prepared-") and state[1].endswith("is missing")
    assert step(5, "--force") == 0
    assert "step 3 (prepare) is stale" in capsys.readouterr().out
    assert plan(step, capsys)[3][0] == plan(step, capsys)[4][0] == "complete"


def test_more_epochs_go_on_from_the_last_checkpoint(step, done, capsys):
    assert step(4, "train.epochs=2") == 0
    assert "going on from step-000005" in capsys.readouterr().out


def test_accept_code_covers_code_only():
    assert steps.only_code(("the code of lib/a.py changed",)) and not steps.only_code(
        ("the code of lib/a.py changed", "lora.rank was 2, is 3")
    )
    config = recipes.load(str(TOY)).Config()
    moved = ("train.lr was 1, is 2", "the code of lib/a.py changed")
    assert steps.harmful(("train.epochs was 1, is 2", *moved, "train/adapt is missing"), config) == moved


def test_where_a_step_paused_is_said_in_words():
    assert steps.where(None) == ""
    assert steps.where({"done": 1, "total": 0, "unit": "records"}) == " after 1 record"
    assert steps.where({"done": 120, "total": 400, "unit": "steps"}) == " at 120 of 400 steps"
