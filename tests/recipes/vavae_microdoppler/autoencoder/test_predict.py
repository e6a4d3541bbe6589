"""Reconstructions of a person's own pictures: each has a file of its own, and what cannot be read has its reason."""

import csv

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler import echoes
from lib.recipes.vavae_microdoppler.autoencoder import predict
from lib.recipes.vavae_microdoppler.autoencoder.evaluate import describe
from lib.recipes.vavae_microdoppler.data import keep
from lib.recipes.vavae_microdoppler.stored import image_path
from lib.recipes.vavae_microdoppler.walk import File
from tests.recipes.vavae_microdoppler.autoencoder.test_assemble import ALIGN, build, configured, file

__all__ = ["file"]  # a fixture


def picture(path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def rows(out) -> dict[str, dict[str, str]]:
    with open(out / "psnr.csv", newline="", encoding="utf-8") as opened:
        return {row["file"]: row for row in csv.DictReader(opened)}


def test_pictures_that_differ_by_type_alone_both_come_out_and_odd_files_are_named(file, tmp_path, capsys):
    inputs, out = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate(("w0.jpg", "w0.png", "sub/w0.png", "a,b c.png", "__MACOSX/w0.png", "._w0.png")):
        picture(inputs / name, number)
    (inputs / "broken.png").write_bytes(b"x")
    out.mkdir()
    predict.predict(configured(), ALIGN, build(configured(), file), str(inputs), out)
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert made == ["a,b c.png.png", "sub/w0.png.png", "w0.jpg.png", "w0.png.png"]
    found = rows(out)
    assert found.keys() == {"a,b c.png", "broken.png", "sub/w0.png", "w0.jpg", "w0.png"}
    assert "damaged" in found["broken.png"]["problem"] and float(found["w0.png"]["psnr_db"]) > 0
    assert "broken.png: it is damaged" in capsys.readouterr().out


def test_a_picture_is_read_as_step_3_reads_it(tmp_path):
    """Transparent, sideways and larger than the network: the same pixels."""
    exif = Image.Exif()
    exif[274] = 6
    noise = np.random.default_rng(3).integers(0, 256, (40, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "p.png", exif=exif)
    config = configured()
    config.model.image_px = 32
    [(name, image)] = predict.read(config, File(tmp_path / "p.png", "p.png"))
    keep(predict.pictures.read(tmp_path / "p.png", upright=True), 32, tmp_path, "p.png")
    stored = np.asarray(Image.open(image_path(tmp_path, "p.png")), np.float32) / 127.5 - 1
    assert name == "p.png" and image.is_contiguous() and np.array_equal(image[0].permute(1, 2, 0), stored)


def test_echoes_and_arrays_are_read_as_step_3_reads_them(file, tmp_path, capsys):
    """Two windows of one echo; the reasons of one that is too short and of one with a NaN."""
    config = configured()
    config.data.kind, config.data.duration_s, config.data.stride_s = "iq", 0.4, 0.4
    inputs, out, rng = tmp_path / "in", tmp_path / "out", np.random.default_rng(5)
    inputs.mkdir(), out.mkdir()
    echo = np.exp(1j * np.cumsum(rng.normal(0.2, 0.1, 1600))) + 0.01
    for name, pulses in (("walk.npy", echo), ("short.npy", echo[:50])):
        np.save(inputs / name, pulses)
    echo[1300] = np.nan
    np.save(inputs / "gap.npy", echo)
    picture(inputs / "drawn.png", 1)
    predict.predict(config, ALIGN, build(config, file), str(inputs), out)
    found = rows(out)
    windows = {name for name in found if name.startswith("walk")}
    assert len(windows) > 1 and {"walk.npy#0", "walk.npy#1", "drawn.png"} < found.keys()
    assert {f"{name}.png" for name, row in found.items() if not row["problem"]} == {
        path.name for path in out.glob("*.png")
    }
    assert "too few" in found["short.npy"]["problem"] and "NaN" in found["gap.npy"]["problem"]
    walk = File(inputs / "walk.npy", "walk.npy")
    made = [np.asarray(image) for image in echoes.spectrograms(config, walk.path)]
    read = [image[0].permute(1, 2, 0).numpy() for _, image in predict.read(config, walk)]
    assert np.array_equal(np.stack(made).astype(np.float32) / 127.5 - 1, np.stack(read))
    config.data.kind, config.data.values = "arrays", "db"
    np.save(inputs / "levels.npy", np.linspace(-30, 0, 64 * 64).reshape(64, 64))
    [(_, image)] = predict.read(config, File(inputs / "levels.npy", "levels.npy"))
    assert len(np.unique(image)) > 256  # 16 bit
    config.data.kind = "images"
    with pytest.raises(Stop, match="none of its 1 files can be read"):
        predict.predict(config, ALIGN, build(config, file), str(walk.path), out)


@pytest.mark.parametrize(
    ("content", "word"), [(None, "nothing there that a run"), (b"x", "none of its 1 files can be read")]
)
def test_nothing_to_predict_is_one_sentence(file, tmp_path, content, word):
    (tmp_path / "in").mkdir()
    if content:
        (tmp_path / "in" / "a.png").write_bytes(content)
    with pytest.raises(Stop, match=word):
        predict.predict(configured(), ALIGN, build(configured(), file), str(tmp_path / "in"), tmp_path)


@pytest.mark.parametrize(("settings", "words"), [
    ({"low": 1.0, "high": 3.0, "verdict": "better"}, ["+2.00 dB [1.00, 3.00]: better", "base 20.00 dB", "-> else"]),
    ({"low": None, "high": None, "verdict": "no verdict"}, ["difference +2.00 dB: no verdict"]),
])  # fmt: skip
def test_few_recordings_have_no_interval(settings, words):
    scores = {"comparison": "base", "metrics": {"psnr": {"base": 20.0, "adapted": 22.0, "difference": 2.0} | settings}}
    assert all(word in describe(configured(), ALIGN, scores, [], []) for word in words)


def test_random_weights_have_no_place_in_the_decision_tree():
    psnr = {"base": 6.0, "adapted": 14.0, "difference": 8.0, "low": None, "high": None, "verdict": ""}
    said = describe(configured(), ALIGN, {"comparison": "random_init", "metrics": {"psnr": psnr}}, [], [])
    assert "untouched base" not in said and "PSNR: random init 6.00 dB" in said
