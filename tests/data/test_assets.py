import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.core.code import REPOSITORY
from lib.core.errors import Paused, Stop
from lib.core.hashes import Memo
from lib.core.records import Archive, Asset
from lib.core.run import Run, existing, write_json
from lib.data import assets, places, recognise
from tests.data.hub_server import serve

REVISION = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {"model.safetensors": WEIGHTS, "config.json": b'{"width": 1}', "extra.bin": b"x" * 5000}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(monkeypatch):
    with serve("someone/weights", REVISION, dict(FILES)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def memo(tmp_path):
    return Memo(tmp_path / "cache" / "hashes.json")


def hub_asset(**changes) -> Asset:
    files = {"model.safetensors": "", "*.json": ""}
    return Asset(
        **({"name": "base", "kind": "hub", "source": "someone/weights", "revision": REVISION, "files": files} | changes)
    )


def test_hub_files_on_the_list_are_fetched_and_no_others(hub, memo, tmp_path):
    made = assets.bring(hub_asset(), tmp_path / "base", memo)
    assert made.files == {"config.json": sha(FILES["config.json"]), "model.safetensors": sha(WEIGHTS)}
    assert not (tmp_path / "base" / "extra.bin").exists()
    assert json.loads((tmp_path / "base" / "sources.json").read_text())["revision"] == REVISION


def test_complete_asset_needs_no_connection(hub, memo, tmp_path):
    assets.bring(hub_asset(), tmp_path / "base", memo)
    hub.requests.clear()
    assert assets.bring(hub_asset(), tmp_path / "base", memo).files["model.safetensors"] == sha(WEIGHTS)
    assert hub.requests == []


def test_dropped_connection_goes_on_where_it_broke(hub, memo, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)  # whole chunks survive; it is 10 MB
    hub.drop_after["model.safetensors"] = [300_000]
    assets.bring(hub_asset(), tmp_path / "base", memo)
    ranges = [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["", "bytes=300000-"]
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == WEIGHTS


def test_corrupt_bytes_are_fetched_once_more(hub, memo, tmp_path):
    hub.corrupt["model.safetensors"] = 1
    made = assets.bring(hub_asset(), tmp_path / "base", memo)
    assert made.files["model.safetensors"] == sha(WEIGHTS)
    assert hub.fetched().count("model.safetensors") == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_file_that_stays_corrupt_is_refused_and_removed(hub, memo, tmp_path, name):
    hub.corrupt[name] = 99
    with pytest.raises(Stop, match=f"{name} of someone/weights arrived twice"):
        assets.bring(hub_asset(), tmp_path / "base", memo)
    assert not (tmp_path / "base" / name).exists()
    assert not (tmp_path / "base" / "sources.json").exists()


def test_hash_that_the_recipe_states_beats_what_the_hub_lists(hub, memo, tmp_path):
    with pytest.raises(Stop, match="arrived twice"):
        assets.bring(hub_asset(files={"model.safetensors": sha(b"the published file")}), tmp_path / "base", memo)


def test_truncated_file_is_found_and_fetched_again_alone(hub, memo, tmp_path):
    assets.bring(hub_asset(), tmp_path / "base", memo)
    hub.requests.clear()
    (tmp_path / "base" / "model.safetensors").write_bytes(WEIGHTS[:1000])
    made = assets.bring(hub_asset(), tmp_path / "base", memo)
    assert made.files["model.safetensors"] == sha(WEIGHTS)
    assert hub.fetched() == ["model.safetensors"]


def test_changed_byte_of_the_same_size_is_found(hub, memo, tmp_path):
    assets.bring(hub_asset(), tmp_path / "base", memo)
    (tmp_path / "base" / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"?")
    assert recognise.differing(tmp_path / "base", {"model.safetensors": sha(WEIGHTS)}, memo) == ["model.safetensors"]


def test_another_revision_is_not_complete(hub, memo, tmp_path):
    assets.bring(hub_asset(), tmp_path / "base", memo)
    assert not recognise.complete(hub_asset(revision="f" * 40), tmp_path / "base", memo)


def test_file_that_the_repository_lacks_is_named(hub, memo, tmp_path):
    with pytest.raises(Stop, match=r"has no tokenizer\.json"):
        assets.bring(hub_asset(files={"tokenizer.json": ""}), tmp_path / "base", memo)


def test_pause_between_files_goes_on_with_the_missing_one(hub, memo, tmp_path):
    answers = iter([False, True])  # time for one file
    with pytest.raises(Paused):
        assets.bring(hub_asset(), tmp_path / "base", memo, lambda: next(answers))
    assert hub.fetched() == ["config.json"] and not (tmp_path / "base" / "sources.json").exists()
    assets.bring(hub_asset(), tmp_path / "base", memo)
    assert hub.fetched() == ["config.json", "model.safetensors"]


def test_no_space_is_said_before_anything_is_fetched(hub, memo, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(Stop, match="GB are free"):
        assets.bring(hub_asset(), tmp_path / "base", memo)
    assert hub.fetched() == []


def test_no_connection_is_one_sentence(memo, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub client waits between five attempts
    with pytest.raises(Stop, match="base: someone/weights cannot be fetched") as stopped:
        assets.bring(hub_asset(), tmp_path / "base", memo)
    assert "--inputs" in stopped.value.command


def test_offline_with_a_partly_filled_folder_is_refused(hub, memo, tmp_path):
    """huggingface_hub's own snapshot_download calls this folder complete (#4624)."""
    assets.bring(hub_asset(), tmp_path / "base", memo)
    (tmp_path / "base" / "model.safetensors").unlink()
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from lib.core.errors import Stop; from lib.core.hashes import Memo; from lib.data import assets\n"
        "from tests.data.test_assets import hub_asset\n"
        "try: assets.bring(hub_asset(), Path(sys.argv[1]), Memo(Path(sys.argv[1]) / 'memo'))\n"
        "except Stop as stop: print('refused:', stop.cause)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "base")]
    said = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("refused: base: someone/weights cannot be fetched: HF_HUB_OFFLINE forbids"), (
        said.stderr
    )


# ---------------------------------------------------------------------------------------------- the other kinds


def stand_in(folder: Path) -> None:
    (folder / "scene").mkdir()
    (folder / "scene" / "a.txt").write_text("facade")


def made_asset(**changes) -> Asset:
    return Asset(**({"name": "scenes", "kind": "made", "stand_in": stand_in, "made_from": "scenes=1"} | changes))


def test_stand_in_is_made_once(memo, tmp_path):
    made = assets.bring(made_asset(), tmp_path / "scenes", memo)
    assert made.files == {"scene/a.txt": sha(b"facade")}

    def again(folder):
        raise AssertionError("made a second time")

    assert assets.bring(made_asset(stand_in=again), tmp_path / "scenes", memo).fingerprint == made.fingerprint


def test_a_damaged_stand_in_is_made_again(memo, tmp_path):
    assets.bring(made_asset(), tmp_path / "scenes", memo)
    (tmp_path / "scenes" / "old").write_text("of the first")
    for name, damaged in (("scene/a.txt", b"fac"), ("sources.json", b'{"name"')):
        (tmp_path / "scenes" / name).write_bytes(damaged)
        assert assets.bring(made_asset(), tmp_path / "scenes", memo).files == {"scene/a.txt": sha(b"facade")}
        assert not (tmp_path / "scenes" / "old").exists()


def test_a_stand_in_with_other_parameters_lies_beside_the_first_one(memo, tmp_path):
    first = assets.bring(made_asset(), tmp_path / "scenes", memo)
    other = assets.bring(made_asset(made_from="scenes=2"), tmp_path / "scenes", memo)
    assert first.path != other.path and {first.path.name, other.path.name[:7]} == {"scenes", "scenes-"}
    for made, settings in ((first, "scenes=1"), (other, "scenes=2")):
        assert assets.bring(made_asset(made_from=settings), tmp_path / "scenes", memo).path == made.path


def test_stand_in_that_fails_half_way_leaves_nothing(memo, tmp_path):
    def fails(folder):
        (folder / "half").write_text("")
        raise Stop("no")

    with pytest.raises(Stop):
        assets.bring(made_asset(stand_in=fails), tmp_path / "scenes", memo)
    assert sorted(tmp_path.glob("**/half")) == []


def licensed(**changes) -> Asset:
    words = {"licence": "MANO licence", "how_to_get": "Register at the MANO page"}
    return Asset(**({"name": "mano", "kind": "licensed", "files": {"MANO_RIGHT.pkl": ""}} | words | changes))


def test_missing_licensed_files_are_listed_with_licence_and_folder(memo, tmp_path):
    second = licensed(name="second", files={"b.zip": ""})
    made = [assets.bring(licensed(), tmp_path / "mano", memo), assets.bring(second, tmp_path / "second", memo)]
    with pytest.raises(Stop) as stopped:
        assets.require(made)
    for word in (
        "2 assets",
        "Register at the MANO page",
        "MANO licence",
        str(tmp_path / "mano"),
        "MANO_RIGHT.pkl",
        "b.zip",
    ):
        assert word in stopped.value.cause


def test_placed_licensed_file_is_used_and_a_wrong_one_refused(memo, tmp_path):
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"hand")
    assert assets.bring(licensed(), tmp_path, memo).files == {"MANO_RIGHT.pkl": sha(b"hand")}
    with pytest.raises(Stop, match="is not the file that mano needs"):
        assets.bring(licensed(files={"MANO_RIGHT.pkl": sha(b"other hand")}), tmp_path, memo)


def test_own_folder_is_used_in_place_and_not_written(memo, tmp_path):
    data = tmp_path / "photos"
    data.mkdir()
    (data / "1.jpg").write_bytes(b"jpg")
    (data / "notes.txt").write_bytes(b"not listed")
    made = assets.bring(Asset("photos", "folder", str(data), files={"*.jpg": ""}), tmp_path / "data", memo)
    assert (made.path, made.files) == (data, {"1.jpg": sha(b"jpg")})
    assert sorted(file.name for file in data.iterdir()) == ["1.jpg", "notes.txt"]


def test_absent_and_empty_data_folders_are_refused(memo, tmp_path):
    with pytest.raises(Stop, match="there is no folder"):
        assets.bring(Asset("photos", "folder", str(tmp_path / "none")), tmp_path / "data", memo)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stop, match="holds no files"):
        assets.bring(Asset("photos", "folder", str(tmp_path / "empty")), tmp_path / "data", memo)


def test_unchanged_files_are_hashed_once(memo, tmp_path, monkeypatch):
    (tmp_path / "1.bin").write_bytes(b"one")
    first = memo.sha256(tmp_path / "1.bin")
    memo.save()
    monkeypatch.setattr("lib.core.hashes.sha256_of", lambda file: pytest.fail("hashed again"))
    assert Memo(memo.path).sha256(tmp_path / "1.bin") == first == sha(b"one")


# ---------------------------------------------------------------------------------------------- inputs, moved runs


def recipe_of(*wanted: Asset) -> SimpleNamespace:
    return SimpleNamespace(name="toy", assets=lambda config: list(wanted), modules=lambda function: [])


def step_2(run: Run, recipe: SimpleNamespace, inputs: list[Path]) -> list[assets.AssetRecord]:
    records = assets.fetch_all(run, recipe, None, inputs, lambda: False)
    write_json(run.assets, [assets.to_json(made) for made in records if not made.missing])
    return records


def test_attached_weights_are_used_in_place_without_a_connection(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    mount = tmp_path / "input" / "datasets" / "someone" / "weights" / "inner"
    mount.mkdir(parents=True)
    (mount / "model.safetensors").write_bytes(WEIGHTS)
    run, recipe = Run(tmp_path / "root", "r"), recipe_of(hub_asset(files={"model.safetensors": sha(WEIGHTS)}))
    step_2(run, recipe, [tmp_path / "input"])
    assert places.asset_dirs(run, recipe, None, []) == {"base": mount}
    assert not run.data("toy", "base").exists()


def test_attached_file_with_another_hash_is_not_taken(memo, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"another model")
    assert places.find_asset(hub_asset(files={"model.safetensors": sha(WEIGHTS)}), [tmp_path], memo) is None


def test_attached_folder_of_unknown_hashes_needs_its_sources_json(hub, memo, tmp_path):
    brought = assets.bring(hub_asset(), tmp_path / "input" / "base", memo).path
    assert places.find_asset(hub_asset(), [tmp_path / "input"], memo) == brought
    (brought / "sources.json").unlink()
    assert places.find_asset(hub_asset(), [tmp_path / "input"], memo) is None


def test_run_finds_its_moved_asset_again_by_hash(tmp_path):
    before, after = tmp_path / "before", tmp_path / "a" / "b" / "after"
    before.mkdir()
    (before / "MANO_RIGHT.pkl").write_bytes(b"hand")
    run, recipe = Run(tmp_path / "root", "r"), recipe_of(licensed())
    step_2(run, recipe, [before])
    after.parent.mkdir(parents=True)
    before.rename(after)
    assert places.asset_dirs(run, recipe, None, [tmp_path / "a"]) == {"mano": after}
    (after / "MANO_RIGHT.pkl").write_bytes(b"foot")
    with pytest.raises(Stop, match=r"mano: 1 file gone or changed in .*: MANO_RIGHT\.pkl"):
        places.asset_dirs(run, recipe, None, [tmp_path / "a"])


def test_what_changed_is_named_where_it_lies_and_not_in_the_folder_of_another_runs_asset(tmp_path):
    brought = tmp_path / "brought"
    brought.mkdir()
    (brought / "MANO_RIGHT.pkl").write_bytes(b"hand")
    run, recipe = Run(tmp_path / "root", "r"), recipe_of(licensed(files={"MANO_RIGHT.pkl": "", "notes": ""}))
    (brought / "notes").write_bytes(b"as they were")
    step_2(run, recipe, [brought])
    run.data(recipe.name, "mano").mkdir(parents=True)
    (brought / "notes").write_bytes(b"changed")
    with pytest.raises(Stop, match=rf"mano: 1 file gone or changed in {brought}: notes"):
        places.asset_dirs(run, recipe, None, [])


def test_only_places_json_names_the_machine(tmp_path):
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"hand")
    run = Run(tmp_path / "root", "r")
    step_2(run, recipe_of(licensed(), made_asset()), [tmp_path])
    assert str(tmp_path) not in run.assets.read_text()
    assert list(existing(run.places).values()) == [str(tmp_path)]


def test_optional_asset_that_nobody_placed_has_no_place(tmp_path):
    run, recipe = Run(tmp_path, "r"), recipe_of(licensed(required=False), made_asset())
    records = step_2(run, recipe, [])
    assert [made.missing for made in records] == [("MANO_RIGHT.pkl",), ()]
    assert places.asset_dirs(run, recipe, None, []).keys() == {"scenes"}


# ---------------------------------------------------------------------------------------------- branches


def test_branch_is_resolved_to_its_commit_which_is_recorded(hub, tmp_path):
    hub.branches["main"] = REVISION
    run, recipe = Run(tmp_path, "r"), recipe_of(hub_asset(revision="main"))
    made = step_2(run, recipe, [])[0]
    assert (made.revision, made.commit, made.files["model.safetensors"]) == ("main", REVISION, sha(WEIGHTS))
    assert json.loads(run.assets.read_text())[0]["commit"] == REVISION
    assert json.loads((made.path / "sources.json").read_text())["commit"] == REVISION


def test_run_keeps_its_commit_when_the_branch_moves(hub, tmp_path):
    hub.branches["main"] = REVISION
    run, recipe = Run(tmp_path, "r"), recipe_of(hub_asset(revision="main"))
    first = step_2(run, recipe, [])[0]
    hub.branches["main"] = "f" * 40
    shutil.rmtree(first.path)  # as on another machine
    assert step_2(run, recipe, [])[0] == first
    assert step_2(run, recipe, [])[0] == first  # and from the folder that the commit was fetched into
    with pytest.raises(Stop):  # a new run takes the branch as it is now, which this hub cannot serve
        assets.bring(hub_asset(revision="main"), tmp_path / "another", Memo(tmp_path / "m.json"))
    assert not any(path.endswith("/" + "f" * 40) for _, path, _ in hub.requests[:-1] if "resolve" in path)


def test_unknown_branch_is_refused(hub, memo, tmp_path):
    with pytest.raises(Stop, match="base: someone/weights cannot be fetched"):
        assets.bring(hub_asset(revision="no-such-branch"), tmp_path / "base", memo)


def test_data_that_changed_or_went_is_said_to_whoever_calls_step_2_again(tmp_path):
    brought = tmp_path / "brought"
    brought.mkdir()
    (brought / "MANO_RIGHT.pkl").write_bytes(b"hand")
    (brought / "notes").write_bytes(b"as they were")
    run, recipe = Run(tmp_path / "root", "r"), recipe_of(licensed(files={"MANO_RIGHT.pkl": "", "notes": ""}))
    step_2(run, recipe, [brought])
    assert places.changed(run, recipe, None) == ""
    (brought / "notes").write_bytes(b"changed")
    said = f"mano: 1 file in {brought} gone or changed since step 2: notes"
    assert places.changed(run, recipe, None) == said
    (brought / "notes").unlink()
    assert places.changed(run, recipe, None) == said
    brought.rename(tmp_path / "elsewhere")
    assert places.changed(run, recipe, None) == ""


def test_an_archive_that_was_placed_later_is_said(tmp_path):
    wanted = licensed(files={"facade/*": ""}, archives=(Archive("facade.zip", ("facade/*",)),))
    run, recipe = Run(tmp_path / "root", "r"), recipe_of(wanted)
    folder = run.data(recipe.name, "mano")
    (folder / "facade").mkdir(parents=True)
    (folder / "facade" / "a.jpg").write_bytes(b"a")
    step_2(run, recipe, [])
    assert places.changed(run, recipe, None) == ""
    (folder / "facade_depth.zip").write_bytes(b"")
    assert places.changed(run, recipe, None) == f"mano: facade_depth.zip in {folder} came after step 2"
