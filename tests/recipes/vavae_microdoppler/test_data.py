from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.core.records import Manifest, Stage
from lib.data import split as splitting
from lib.recipes.vavae_microdoppler import data
from lib.recipes.vavae_microdoppler.autoencoder import samples
from lib.recipes.vavae_microdoppler.config import Config

REAL = Path(__file__).resolve().parents[4] / "shared" / "realdata" / "micro_doppler" / "parrad" / "images"
STAGE = Stage("align", 1, kind="autoencoder")


def configured(**settings) -> Config:
    return from_dotted(Config, {"model.image_px": 32} | {f"data.{name}": value for name, value in settings.items()})


def picture(path: Path, seed: int, size=(32, 32), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def folders(root: Path, users=("ID_1", "ID_2", "ID_10"), recordings=4, windows=2) -> Path:
    for u, user in enumerate(users):
        for r in range(recordings):
            for w in range(windows):
                picture(root / user / f"rec{r:02}_w{w}.png", 1000 * u + 10 * r + w)
    return root


def prepared(config: Config, root: Path, out: Path):
    records = list(data.prepare(config, {"data": root}, out))
    proof = splitting.apply(records, data.split(config, records, out), 42)
    return records, proof


def test_recordings_are_never_on_both_sides_and_every_user_is_on_both(tmp_path):
    records, proof = prepared(configured(), folders(tmp_path / "in"), tmp_path / "out")
    sides = {record.group: set() for record in records}
    for record in records:
        sides[record.group].add(record.split)
    assert all(len(side) == 1 for side in sides.values())
    assert proof["overlap"] == {"groups": 0, "files": 0, "near_duplicates": 0}
    for user in ("ID_1", "ID_2", "ID_10"):
        assert {record.split for record in records if record.columns["user"] == user} == {"train", "val"}


@pytest.mark.parametrize("quality", [None, 95], ids=["the same file", "saved again"])
def test_a_held_out_image_that_lies_in_a_training_recording_too_is_taken_from_training(tmp_path, quality):
    root = folders(tmp_path / "in", users=("x",))
    records, _ = prepared(configured(), root, tmp_path / "first")
    held, trained = (next(r for r in records if r.split == side) for side in ("val", "train"))
    source, copy = root / f"{held.sample_id}.png", root / f"{trained.group}_w9.{'jpg' if quality else 'png'}"
    if quality is None:
        copy.write_bytes(source.read_bytes())
    else:
        Image.open(source).save(copy, quality=quality, subsampling=0)
    records, proof = prepared(configured(), root, tmp_path / "second")
    assert [r.sample_id for r in records if "near-duplicate of the held-out" in r.reason] == [f"{trained.group}_w9"]
    assert proof["near_duplicates_removed"] == 1 and proof["overlap"]["near_duplicates"] == 0


def test_labels_follow_the_natural_order_of_the_folders(tmp_path):
    prepared(configured(), folders(tmp_path / "in"), tmp_path / "out")
    assert data.read_labels(tmp_path / "out") == {"ID_1": 0, "ID_2": 1, "ID_10": 2}


def test_unknown_recordings_are_split_in_time_with_a_gap(tmp_path):
    for user in ("a", "b"):
        for i in range(20):
            picture(tmp_path / "in" / user / f"{i}.jpg", 100 * ord(user) + i)
    records, proof = prepared(configured(gap_images=3), tmp_path / "in", tmp_path / "out")
    mine = [r for r in records if r.columns["user"] == "a"]
    assert [int(Path(r.sample_id).name) for r in mine] == list(range(20))  # 2 before 10
    assert [r.split for r in mine if r.status == "ok"] == ["train"] * 13 + ["val"] * 4
    assert [int(Path(r.sample_id).name) for r in mine if r.status == "skipped"] == [13, 14, 15]
    assert proof["dropped"] == 6


def test_recordings_of_a_csv_go_before_the_pattern(tmp_path):
    root = folders(tmp_path / "in", users=("x",))
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    (root / "recordings.csv").write_text(
        "file,recording\n" + "".join(f"{name},{'one' if i < 4 else 'two'}\n" for i, name in enumerate(names))
    )
    records, _ = prepared(configured(recordings_csv="recordings.csv"), root, tmp_path / "out")
    assert {record.group for record in records} == {"x/one", "x/two"}


def test_a_file_that_the_csv_does_not_name_stops(tmp_path):
    root = folders(tmp_path / "in", users=("x",))
    (root / "recordings.csv").write_text("file,recording\nx/rec00_w0.png,one\n")
    with pytest.raises(Stop, match=r"does not name x/rec00_w1\.png"):
        prepared(configured(recordings_csv="recordings.csv"), root, tmp_path / "out")


def test_no_image_names_the_types_that_were_tried(tmp_path):
    (tmp_path / "in" / "ID_1").mkdir(parents=True)
    (tmp_path / "in" / "ID_1" / "notes.txt").write_text("x")
    with pytest.raises(Stop, match=r"\.jpg.*\.png.*in 1 folders"):
        prepared(configured(), tmp_path / "in", tmp_path / "out")


def test_grey_and_odd_sizes_are_converted_and_counted(tmp_path):
    root = folders(tmp_path / "in", users=("x",))
    picture(root / "x" / "rec00_w7.png", 99, (50, 20), "L")
    config = configured()
    records, _ = prepared(config, root, tmp_path / "out")
    found = data.summarise_data(config, records)
    assert found["converted to RGB"] == 1 and found["sizes"] == {"32x32": 8, "50x20": 1}
    sampler = samples.sampler(config, STAGE, Manifest(records, tmp_path / "out"), "train")
    assert sampler.draw(0, None)["image"].shape == (3, 32, 32)


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"no image", "cannot be read")])
def test_a_broken_file_is_skipped_with_the_reason(tmp_path, content, reason):
    root = folders(tmp_path / "in", users=("x",))
    (root / "x" / "rec00_w9.png").write_bytes(content)
    records, _ = prepared(configured(), root, tmp_path / "out")
    [broken] = [r for r in records if r.status == "skipped"]
    assert reason in broken.reason and broken.sample_id == "x/rec00_w9"


def test_a_user_with_one_recording_is_split_in_time(tmp_path):
    root = folders(tmp_path / "in", users=("x", "y"))
    for i in range(12):
        picture(root / "z" / f"rec00_w{i:02}.png", 500 + i)
    records, _ = prepared(configured(gap_images=2), root, tmp_path / "out")
    assert {r.group for r in records if r.columns["user"] == "z"} == {"z/early", "z/gap", "z/late"}


def test_a_user_with_one_echo_is_refused(tmp_path):
    config = configured(kind="iq")
    echo = np.exp(2j * np.pi * 0.05 * np.arange(6000))
    for name in ("a/rec0", "b/rec0", "b/rec1"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / f"{name}.npy", echo * np.exp(1j * len(name)))
    with pytest.raises(Stop, match="user a has one recording only"):
        prepared(config, tmp_path / "in", tmp_path / "out")


def test_raw_echoes_become_spectrograms_at_their_velocity(tmp_path):
    config = configured(kind="iq", stride_s=0.6)
    for number, velocity in enumerate((1.0, 2.0)):
        t = np.arange(7000) / config.data.prf_hz
        noise = np.random.default_rng(number).standard_normal((2, 7000)) * 0.05
        echo = np.exp(4j * np.pi * velocity / config.data.wavelength_m * t) + noise[0] + 1j * noise[1]
        (tmp_path / "in" / "x").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / "x" / f"rec{number}.npy", echo)
    records, _ = prepared(config, tmp_path / "in", tmp_path / "out")
    # 7000 pulses are 4.375 s: images of 2.4 + 0.14 s begin at 0, 0.6, 1.2 and 1.8 s
    assert sum(r.group == "x/rec0" for r in records) == 4
    image = np.asarray(Image.open(data.image_path(tmp_path / "out", "x/rec1#0")).convert("RGB")).astype(float)
    row = image[..., 0].mean(1).argmax()  # dark red is the maximum
    assert np.linspace(5.0, -1.5, 32)[row] == pytest.approx(2.0, abs=0.25)


def test_pattern_without_its_group_is_refused():
    with pytest.raises(Stop, match="no group named 'recording'"):
        configured(recording_pattern=r"rec\d+")


def test_prepared_images_are_not_made_again(tmp_path):
    root, out = folders(tmp_path / "in", users=("x",)), tmp_path / "out"
    records, _ = prepared(configured(), root, out)
    path = data.image_path(out, records[0].sample_id)
    stamp = path.stat().st_mtime_ns
    prepared(configured(), root, out)
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.skipif(not REAL.is_dir(), reason="real spectrograms are not here")
def test_real_folders_are_read_with_the_default_pattern():
    config = configured()
    files = data.find_files(config.data, REAL)
    assert sum(map(len, files.values())) == 601
    groups = {user: data.groups_of(config.data, REAL, user, paths, {}) for user, paths in files.items()}
    assert groups["fall"][0] == "fall/seg004"
    assert not any(group.endswith("/early") for found in groups.values() for group in found)
