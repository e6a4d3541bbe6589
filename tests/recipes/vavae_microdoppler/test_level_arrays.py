"""Spectrograms as real numbers: 16 bit from file to network, and what other units and axes are called."""

import numpy as np
import pytest

from lib.core.config import from_dotted
from lib.core.records import Record
from lib.recipes.vavae_microdoppler import data, level_arrays
from lib.recipes.vavae_microdoppler.autoencoder.samples import sample
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.recordings import Recording
from lib.recipes.vavae_microdoppler.walk import File

VELOCITY, TIME = np.mgrid[5:-1.5:64j, 0:2.4:64j]
POWER = np.exp(-(((VELOCITY - 1.3 - 0.3 * np.sin(6 * TIME)) / 0.35) ** 2)) + 1e-4


def levels(folder, array, **settings):
    np.save(folder / "a.npy", array)
    return level_arrays.levels(configured(**settings), folder / "a.npy")


def configured(**settings) -> Config:
    given = {f"data.{name}": value for name, value in settings.items()}
    return from_dotted(Config, {"data.kind": "arrays", "model.image_px": 64, **given})


@pytest.mark.parametrize(("array", "settings"), [
    (POWER, {"values": "power"}), (np.sqrt(POWER), {"values": "amplitude"}), (10 * np.log10(POWER), {}),
    (10 * np.log10(POWER.T), {"array_layout": "time_velocity"}), (10 * np.log10(POWER[::-1]) + 30, {"low_first": True}),
])  # fmt: skip
def test_every_unit_and_axis_gives_the_same_levels(tmp_path, array, settings):
    found = levels(tmp_path, array, **settings).astype(float) / 65535
    expected = np.clip(1 + 10 * np.log10(POWER / POWER.max()) / 38, 0, 1)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_sixteen_bits_reach_the_network(tmp_path):
    np.save(tmp_path / "a.npy", 10 * np.log10(POWER))
    file = File(tmp_path / "a.npy", "x/a.npy", "x", "a")
    [record] = data.records_of(configured(), (file, Recording("x/a", "file")), tmp_path / "out")
    assert (record.status, record.columns["mode"]) == ("ok", "I;16") and record.perceptual_hash
    record.columns["label"] = "0"
    image = sample(tmp_path / "out", record)["image"]
    assert image.shape == (3, 64, 64) and image.dtype == np.float32 and len(np.unique(image)) > 1000
    expected = level_arrays.levels(configured(), tmp_path / "a.npy") / 32767.5 - 1
    np.testing.assert_allclose(image[1], expected, atol=1e-6)


@pytest.mark.parametrize(("array", "settings", "word"), [
    (np.zeros((0, 32, 40)), {}, "is no spectrogram of real numbers"),
    (POWER * 1e6, {}, r"no decibels \(data.values=power or amplitude\)"),
    (10 * np.log10(POWER), {"values": "power"}, r"no negative power \(decibels: data.values=db\)"),
    (10 * np.log10(POWER.T), {}, r"axes seem to be turned \(data.array_layout=time_velocity\)"),
    (10 * np.log10(POWER), {"array_layout": "time_velocity"}, r"data.array_layout=velocity_time"),
    (10 * np.log10(np.roll(POWER, -POWER.sum(1).argmax(), 0)), {}, "velocity 0 belongs in the middle"),
    (POWER * np.nan, {}, "NaN"), (POWER[0], {}, "no spectrogram"), (POWER * 1j, {}, "no spectrogram"),
])  # fmt: skip
def test_other_units_and_axes_are_said(tmp_path, array, settings, word):
    with pytest.raises(Unusable, match=word):
        levels(tmp_path, array, **settings)


def test_a_record_of_another_axis_is_skipped_with_the_reason(tmp_path):
    np.save(tmp_path / "a.npy", 10 * np.log10(POWER.T))
    file = File(tmp_path / "a.npy", "x/a.npy", "x", "a")
    [record] = data.records_of(configured(), (file, Recording("x/a", "file")), tmp_path / "out")
    assert isinstance(record, Record) and record.status == "skipped" and "turned" in record.reason
    assert not (tmp_path / "out").exists()
