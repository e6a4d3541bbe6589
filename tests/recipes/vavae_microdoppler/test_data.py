"""Folders -> records, sides, stored pictures: every file is a record, recordings stay whole, labels are trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.core.records import Manifest, Record, Stage
from lib.core.run import Damaged
from lib.data import split as splitting
from lib.recipes.vavae_microdoppler import data, layout, membership, recordings
from lib.recipes.vavae_microdoppler.autoencoder import samples
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.stored import image_path

REAL = Path(__file__).resolve().parents[4] / "shared" / "realdata" / "micro_doppler" / "parrad" / "images"
STAGE = Stage("align", 1, kind="autoencoder")
NOTHING = {"groups": 0, "files": 0, "near_duplicates": 0}


def configured(**settings) -> Config:
    return from_dotted(Config, {"model.image_px": 32} | {f"data.{name}": value for name, value in settings.items()})


def noise(seed: int, size=(32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)


def picture(path: Path, seed: int, size=(32, 32), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, size)).convert(mode).save(path)


def folders(root: Path, users=("ID_1", "ID_2", "ID_10"), recordings=4, windows=2) -> Path:
    for u, user in enumerate(users):
        for r in range(recordings):
            for w in range(windows):
                picture(root / user / f"rec{r:02}_w{w}.png", 1000 * u + 10 * r + w)
    return root


def prepared(config: Config, root: Path, out: Path) -> tuple[list[Record], dict]:
    """As step 3 does it."""
    records = list(data.prepare(config, {"data": root}, out))
    wish = membership.split(config, records, out)
    return records, splitting.apply(records, wish, 42, config.eval.select_share)


def groups_by_side(records: list[Record], user: str) -> dict[str, list[str]]:
    """side -> groups of a user's usable records."""
    mine = [r for r in records if r.columns["user"] == user and r.status == "ok"]
    return {side: sorted({r.group for r in mine if r.split == side}) for side in data.SIDES}


def test_recordings_are_on_one_side_and_every_user_is_on_all_three(tmp_path):
    records, proof = prepared(configured(), folders(tmp_path / "in"), tmp_path / "out")
    found: dict[str, set[str]] = {record.group: set() for record in records}
    for record in records:
        found[record.group].add(record.split)
    assert all(len(side) == 1 for side in found.values()) and proof["overlap"] == NOTHING
    for user in ("ID_1", "ID_2", "ID_10"):
        assert [len(groups) for groups in groups_by_side(records, user).values()] == [2, 1, 1]


@pytest.mark.parametrize(("count", "wanted"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (12, [8, 1, 3])])
def test_every_user_keeps_recordings_to_train_on(tmp_path, count, wanted):
    root = folders(tmp_path / "in", users=("x", "y"), recordings=4)
    for number in range(count):
        picture(root / "z" / f"session_{number}" / "0.png", 5000 + number)
    records, _ = prepared(configured(), root, tmp_path / "out")
    assert [len(groups) for groups in groups_by_side(records, "z").values()] == wanted


def test_users_with_two_recordings_lose_none_to_the_choice_of_the_checkpoint(tmp_path):
    records, proof = prepared(configured(), folders(tmp_path / "in", recordings=2), tmp_path / "out")
    assert not proof["groups"]["select"] and len(proof["groups"]["train"]) == 3
    assert {r.columns["label"] for r in records} == {0, 1, 2}


def test_one_recording_of_each_user_cannot_be_split(tmp_path):
    root = tmp_path / "in"
    for user in ("a", "b"):
        picture(root / user / "0.png", ord(user))
    with pytest.raises(Stop, match="one recording only"):
        prepared(configured(), root, tmp_path / "out")


@pytest.mark.parametrize("quality", [None, 95], ids=["the same file", "saved again"])
def test_a_held_out_image_that_lies_in_a_training_recording_too_is_taken_from_training(tmp_path, quality):
    root = folders(tmp_path / "in", users=("x",))
    records, _ = prepared(configured(), root, tmp_path / "first")
    held, trained = (next(r for r in records if r.split == side) for side in ("test", "train"))
    source, copy = root / held.sample_id, root / f"{trained.group}_w9.{'jpg' if quality else 'png'}"
    if quality is None:
        copy.write_bytes(source.read_bytes())
    else:
        Image.open(source).save(copy, quality=quality, subsampling=0)
    records, proof = prepared(configured(), root, tmp_path / "second")
    found = [r.sample_id for r in records if "near-duplicate of the held-out" in r.reason]
    assert found == [f"{trained.group}_w9{copy.suffix}"]
    assert proof["near_duplicates_removed"] == 1 and proof["overlap"]["near_duplicates"] == 0


# ---------------------------------------------------------------------------------------------- labels


def test_labels_follow_the_natural_order_of_the_folders(tmp_path):
    records, _ = prepared(configured(), folders(tmp_path / "in"), tmp_path / "out")
    assert membership.read_labels(tmp_path / "out") == {"ID_1": 0, "ID_2": 1, "ID_10": 2}
    assert {(r.columns["user"], r.columns["label"]) for r in records} == {("ID_1", 0), ("ID_2", 1), ("ID_10", 2)}


def test_labels_that_are_others_than_step_3_wrote_are_refused(tmp_path, changed_since):
    membership.write_labels({"a": 0}, tmp_path)
    changed_since(tmp_path, "labels.json")
    with pytest.raises(Damaged, match="does not hold what was written"):
        membership.read_labels(tmp_path)


def test_a_user_without_a_readable_image_has_records_and_no_label(tmp_path):
    root = folders(tmp_path / "in", users=("b", "c"))
    for number in range(3):
        (root / "a").mkdir(exist_ok=True)
        (root / "a" / f"rec{number}.png").write_bytes(b"no picture")
    records, _ = prepared(configured(), root, tmp_path / "out")
    assert membership.read_labels(tmp_path / "out") == {"b": 0, "c": 1}
    assert [r.status for r in records if r.columns["user"] == "a"] == ["skipped"] * 3


def test_a_user_whose_training_images_are_all_copies_of_held_out_ones_has_no_label(tmp_path):
    root = folders(tmp_path / "in", users=("b", "c"))
    for number in range(4):
        picture(root / "a" / f"rec{number}.png", 7000)
    records, proof = prepared(configured(), root, tmp_path / "out")
    assert membership.read_labels(tmp_path / "out") == {"b": 0, "c": 1} and proof["overlap"] == NOTHING
    mine = [r for r in records if r.columns["user"] == "a"]
    assert {r.status for r in mine} == {"skipped"} and "no image of a is left to train on" in mine[0].reason


# ---------------------------------------------------------------------------------------------- identity


def test_pictures_that_differ_by_type_or_case_alone_are_samples_of_their_own(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    for number, name in enumerate(("rec00_w0.jpg", "rec00_w0.bmp", "rec00 w0.png", "行 rec00.png")):
        picture(root / "x" / name, 8000 + number)
    records, _ = prepared(configured(), root, tmp_path / "out")
    used = [r for r in records if r.status == "ok"]
    assert len({r.sample_id for r in used}) == len({image_path(tmp_path / "out", r.sample_id) for r in used}) == 20
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 20
    for record in used:
        if not record.sample_id.endswith(".jpg"):
            stored, own = image_path(tmp_path / "out", record.sample_id), root / record.sample_id
            assert np.array_equal(Image.open(stored), Image.open(own)), record.sample_id


def test_a_name_that_is_no_text_can_be_written_down(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    source = (root / "x" / "rec00_w0.png").read_bytes()
    with open(bytes(root / "x") + b"/rec09_\xff.png", "wb") as file:
        file.write(source)
    records, _ = prepared(configured(), root, tmp_path / "out")
    splitting.write_manifest(tmp_path / "manifest.csv", records)
    assert any("\\udcff" in record.sample_id for record in records)


# ---------------------------------------------------------------------------------------------- pictures


def stored(out: Path, records: list[Record], name: str) -> np.ndarray:
    [found] = [r for r in records if r.sample_id == name]
    assert found.status == "ok", found.reason
    return np.asarray(Image.open(image_path(out, name)))


def test_more_than_eight_bits_are_scaled(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    grey = noise(1)[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "x" / "rec00_deep.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(root / "x" / "rec00_float.tif")
    records, _ = prepared(configured(), root, tmp_path / "out")
    for name in ("x/rec00_deep.png", "x/rec00_float.tif"):
        assert np.array_equal(stored(tmp_path / "out", records, name)[..., 1], grey)


def test_transparent_pixels_are_white_whatever_lies_beneath(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    alpha = np.repeat([[0] * 16 + [255] * 16], 32, 0).astype(np.uint8)
    Image.fromarray(np.dstack([noise(1), alpha])).save(root / "x" / "rec00_alpha.png")
    records, _ = prepared(configured(), root, tmp_path / "out")
    found = stored(tmp_path / "out", records, "x/rec00_alpha.png")
    assert (found[:, :16] == 255).all() and np.array_equal(found[:, 16:], noise(1)[:, 16:])


def test_a_phones_picture_is_turned_upright(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(1)).save(root / "x" / "rec00_turned.png", exif=exif)
    records, _ = prepared(configured(), root, tmp_path / "out")
    assert np.array_equal(stored(tmp_path / "out", records, "x/rec00_turned.png"), np.rot90(noise(1), -1))


def unusable(folder: Path) -> dict[str, str]:
    """name -> what its reason says."""
    Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "rec00_black.png")
    Image.fromarray(np.full((32, 32), 3.5, np.float32)).save(folder / "rec00_float.tif")
    (folder / "rec00_empty.png").write_bytes(b"")
    (folder / "rec00_text.png").write_bytes(b"no image")
    (folder / "rec00_cut.png").write_bytes((folder / "rec00_w0.png").read_bytes()[:900])
    (folder / "rec00_gone.png").symlink_to(folder / "nowhere")
    return {
        "black": "one colour", "float": "values go from 3.5", "empty": "is empty", "text": "is damaged",
        "cut": "cannot be decoded", "gone": "link to nothing",
    }  # fmt: skip


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    wanted = unusable(root / "x")
    picture(root / "overview.png", 1)
    records, _ = prepared(configured(), root, tmp_path / "out")
    reasons = {Path(r.sample_id).stem.removeprefix("rec00_"): r.reason for r in records if r.status == "skipped"}
    assert reasons.keys() == wanted.keys() | {"overview"}
    assert all(wanted[name] in reasons[name] for name in wanted) and "beside the users" in reasons["overview"]


def test_where_nothing_can_be_used_the_records_keep_their_reasons(tmp_path):
    for user in ("x", "y"):
        (tmp_path / "in" / user).mkdir(parents=True)
        (tmp_path / "in" / user / "rec0.png").write_bytes(b"no image")
    records = list(data.prepare(configured(), {"data": tmp_path / "in"}, tmp_path / "out"))
    with pytest.raises(Stop, match="none of the data can be used"):
        membership.split(configured(), records, tmp_path / "out")
    assert all("damaged" in record.reason for record in records)


def test_a_picture_too_large_to_be_read_is_skipped_unread(tmp_path, monkeypatch):
    root = folders(tmp_path / "in", users=("x", "y"))
    monkeypatch.setattr(data.pictures, "MOST_PIXELS", 32 * 33)
    picture(root / "x" / "rec00_big.png", 1, (64, 64))
    records, _ = prepared(configured(), root, tmp_path / "out")
    assert ["too large" in r.reason for r in records if r.status == "skipped"] == [True]


def test_grey_and_odd_sizes_are_converted_and_counted(tmp_path):
    root = folders(tmp_path / "in", users=("x",))
    picture(root / "x" / "rec00_w7.png", 99, (50, 20), "L")
    config = configured()
    records, _ = prepared(config, root, tmp_path / "out")
    found = data.summarise_data(config, records)
    assert found["converted to RGB"] == 1 and found["sizes"] == {"32x32": 8, "50x20": 1}
    sampler = samples.sampler(config, STAGE, Manifest(records, tmp_path / "out"), "train")
    assert sampler.draw(0, None)["image"].shape == (3, 32, 32)


# ---------------------------------------------------------------------------------------------- blocks, echoes, words


def test_unknown_recordings_are_split_in_time_with_a_gap(tmp_path):
    for user in ("a", "b"):
        for i in range(20):
            picture(tmp_path / "in" / user / f"{i}.jpg", 100 * ord(user) + i)
    records, proof = prepared(configured(gap_images=3), tmp_path / "in", tmp_path / "out")
    mine = [r for r in records if r.columns["user"] == "a"]
    assert [int(Path(r.sample_id).stem) for r in mine] == list(range(20))  # 2 before 10
    assert [r.split for r in mine if r.status == "ok"] == ["train"] * 13 + ["test"] * 4
    assert [int(Path(r.sample_id).stem) for r in mine if r.status == "skipped"] == [13, 14, 15]
    assert proof["dropped"] == 6


def test_many_images_in_time_have_three_sides(tmp_path):
    for user in ("a", "b"):
        for i in range(50):
            picture(tmp_path / "in" / user / f"{i}.png", 100 * ord(user) + i)
    records, proof = prepared(configured(), tmp_path / "in", tmp_path / "out")
    assert proof["groups"] == {"train": ["a/early", "b/early"], "select": ["a/middle", "b/middle"],
                               "test": ["a/late", "b/late"]}  # fmt: skip
    assert [r.split for r in records[:50] if r.status == "ok"] == ["train"] * 27 + ["select"] * 5 + ["test"] * 10


def test_recordings_of_a_csv_go_before_the_names_and_may_be_called_anything(tmp_path):
    root = folders(tmp_path / "in", users=("x",))
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    (root / "recordings.csv").write_text(
        "file,recording\n" + "".join(f"{name},{'gap' if i < 4 else 'late'}\n" for i, name in enumerate(names))
    )
    records, _ = prepared(configured(recordings_csv="recordings.csv"), root, tmp_path / "out")
    assert {record.group for record in records} == {"x/gap", "x/late"} and {r.status for r in records} == {"ok"}


def test_raw_echoes_become_spectrograms_at_their_velocity(tmp_path):
    config = configured(kind="iq", stride_s=0.6)
    for number, velocity in enumerate((1.0, 2.0)):
        t = np.arange(7000) / config.data.prf_hz
        hiss = np.random.default_rng(number).standard_normal((2, 7000)) * 0.05
        echo = np.exp(4j * np.pi * velocity / config.data.wavelength_m * t) + hiss[0] + 1j * hiss[1]
        (tmp_path / "in" / "x").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / "x" / f"rec{number}.npy", np.stack([echo.real, echo.imag], 1) if number else echo)
    records, _ = prepared(config, tmp_path / "in", tmp_path / "out")
    # 7000 pulses are 4.375 s: images of 2.4 + 0.14 s begin at 0, 0.6, 1.2 and 1.8 s
    assert sum(r.group == "x/rec0" for r in records) == 4
    image = np.asarray(Image.open(image_path(tmp_path / "out", "x/rec1.npy#0")).convert("RGB")).astype(float)
    row = image[..., 0].mean(1).argmax()  # dark red is the maximum
    assert np.linspace(5.0, -1.5, 32)[row] == pytest.approx(2.0, abs=0.25)


def test_silence_and_damage_are_reasons_and_their_user_is_trained_on(tmp_path):
    config, signal = configured(kind="iq"), np.random.default_rng(0).standard_normal((6, 2, 5000))
    for number, name in enumerate(("a/rec0", "a/rec1", "b/rec0", "b/rec1")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / f"{name}.npy", signal[number])
    np.save(tmp_path / "in" / "a" / "rec1.npy", np.zeros(5000, complex))
    (tmp_path / "in" / "a" / "rec2.npy").write_bytes(b"x")
    records, _ = prepared(config, tmp_path / "in", tmp_path / "out")
    reasons = {r.sample_id: r.reason for r in records if r.status == "skipped"}
    assert "one colour" in reasons["a/rec1.npy#0"] and "not a NumPy array" in reasons["a/rec2.npy"]
    assert groups_by_side(records, "a") == {"train": ["a/rec0"], "select": [], "test": []}
    assert "a" in data.summarise_data(config, records)["users with nothing to test on"]


def test_prepared_images_are_not_made_again(tmp_path):
    root, out = folders(tmp_path / "in", users=("x",)), tmp_path / "out"
    records, _ = prepared(configured(), root, out)
    path = image_path(out, records[0].sample_id)
    stamp = path.stat().st_mtime_ns
    prepared(configured(), root, out)
    assert path.stat().st_mtime_ns == stamp


def test_what_was_recognised_is_said_with_an_example(tmp_path):
    root, config = folders(tmp_path / "in", users=("x", "y")), configured()
    for i in range(12):
        picture(root / "z" / f"{i}.png", 500 + i)
    records, _ = prepared(config, root, tmp_path / "out")
    found = data.summarise_data(config, records)
    assert found["users"] == "3, each with a label: x, y, z"
    assert "8 by recording, e.g. x/rec00_w0.png in x/rec00" in found["recordings"]
    assert "2 in time (names tell no recordings) for z" in found["recordings"]
    assert found["images"]["train"] == sum(r.split == "train" for r in records if r.status == "ok")
    assert "(below 5,000); autoencoder: freeze the first 3-4 encoder levels" in found["by amount of data (guide)"]


@pytest.mark.skipif(not REAL.is_dir(), reason="real spectrograms are not here")
def test_real_folders_are_read_with_the_usual_words():
    settings = configured().data
    files = layout.find_files(settings, REAL).users
    assert sum(map(len, files.values())) == 601
    groups = {user: recordings.recordings_of(settings, user, mine, {}, 0.1) for user, mine in files.items()}
    assert groups["fall"][0].group == "fall/seg004"
    assert {one.by for found in groups.values() for one in found} == {"segment"}
