"""One walker in every layout and format that radars write: the same spectrogram from all of them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from lib.core.config import from_dotted
from lib.core.order import Key
from lib.recipes.vavae_microdoppler import echo_files, echoes, radar, stand_in
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.echo_files import Unusable

SIDE = 64
WALK = stand_in.recorded(stand_in.Walks(windows=1), 0, Key(0, 3, 0).generator(), radar.Spectrogram(side_px=SIDE))
GATED = np.zeros((8, len(WALK)), complex)  # range bins, the walker in one of them
GATED[3] = WALK
PAIRS = np.stack([WALK.real, WALK.imag], 1)
CUBE = np.stack([GATED, 1j * GATED])  # two receivers, of which the second one turns the phase


def images(path: Path, **settings) -> list[np.ndarray]:
    data = {f"data.{name}": value for name, value in settings.items()}
    config = from_dotted(Config, {"data.kind": "iq", "model.image_px": SIDE, **data})
    return [np.asarray(image) for image in echoes.spectrograms(config, path)]


def saved(folder: Path, name: str, array: np.ndarray) -> Path:
    path = folder / name
    if name.endswith(".npz"):
        np.savez(path, pulses=array)
    elif name.endswith(".mat"):
        savemat(path, {"pulses": array, "unit": "V"}, do_compression=True)
    elif name.endswith(".csv"):
        np.savetxt(path, array, delimiter=",", header="i,q", comments="")
    elif name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file["radar/pulses"] = array
    else:
        np.save(path, array)
    return path


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    how = radar.Spectrogram(side_px=SIDE)
    return radar.colour(radar.levels(radar.power(WALK, how)[:, :SIDE], how.range_db))


@pytest.mark.parametrize(("name", "array", "settings"), [
    ("e.npy", WALK, {}), ("e.npy", PAIRS, {}), ("e.npy", PAIRS.T, {}), ("e.npy", GATED, {}), ("e.npy", GATED.T, {}),
    ("e.npy", GATED.T, {"iq_layout": "time_range"}),
    ("e.npy", GATED, {"iq_layout": "range_time", "range_bins": [3, 3]}),
    ("e.npy", np.stack([GATED.real, GATED.imag], -1), {}), ("e.npy", CUBE, {}),
    ("e.npy", PAIRS.reshape(-1), {"iq_layout": "interleaved"}), ("e.npz", WALK, {}), ("e.mat", WALK, {}),
    ("e.mat", GATED, {}), ("e.csv", PAIRS, {}), ("e.h5", WALK, {}), ("e.h5", PAIRS, {"variable": "radar/pulses"}),
], ids=str)  # fmt: skip
def test_every_layout_gives_the_same_spectrogram(tmp_path, expected, name, array, settings):
    [image] = images(saved(tmp_path, name, array), **settings)
    assert np.abs(image.astype(int) - expected).max() <= 4  # one of 256 colours, where a level is rounded otherwise
    assert (image == expected).mean() > 0.999


def test_a_long_echo_is_read_one_image_at_a_time(tmp_path):
    long = np.tile(WALK, 20)
    path, parts = saved(tmp_path, "e.npy", long), []
    config = from_dotted(Config, {"data.kind": "iq", "model.image_px": SIDE})
    whole = echoes.Echo.part
    pulses = lambda self, start, stop: parts.append(stop - start) or whole(self, start, stop)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(echoes.Echo, "part", pulses)
        made = echoes.spectrograms(config, path)
        next(made), next(made)
    assert len(parts) == 3 + echoes.PLACES and max(parts) < len(WALK) + echoes.LOOKED_AT < len(long)


def test_time_that_is_taken_for_range_is_said(tmp_path):
    rng = np.random.default_rng(0)
    gates = WALK[None, 500:628] * np.exp(2j * np.pi * rng.random((6000, 1)))
    with pytest.raises(Unusable, match=r"time is taken for range \(data.iq_layout=range_time\)"):
        images(saved(tmp_path, "e.npy", gates), iq_layout="time_range")


@pytest.mark.parametrize(("array", "settings", "word"), [
    (np.zeros((40, 30), complex), {}, "which axis is time is not clear: data.iq_layout=range_time"),
    (WALK, {"iq_layout": "interleaved"}, "is not I, Q, I, Q"), (GATED, {"range_bins": [3, 8]}, "no range bins 3 to 8"),
    (WALK, {"range_bins": [0, 0]}, "no range bins"), (PAIRS[:, 0], {}, "I, Q, I, Q, ...: data.iq_layout=interleaved"),
    (np.where(np.arange(len(WALK)) == 4000, np.nan, WALK), {}, "NaN or infinity"),
])  # fmt: skip
def test_other_layouts_end_as_one_reason(tmp_path, array, settings, word):
    with pytest.raises(Unusable, match=word):
        images(saved(tmp_path, "e.npy", array), **settings)


def test_of_several_arrays_one_is_named(tmp_path):
    np.savez(tmp_path / "e.npz", a=WALK, b=WALK)
    with pytest.raises(Unusable, match=r"it holds 2 arrays, not one \(a, b\): name it, data.variable="):
        images(tmp_path / "e.npz")
    with pytest.raises(Unusable, match="it holds no array 'c'"):
        images(tmp_path / "e.npz", variable="c")
    assert len(images(tmp_path / "e.npz", variable="b")) == 1


@pytest.mark.parametrize("kind", [".npz", ".mat", ".csv"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.98])
def test_a_file_that_was_cut_is_one_reason(tmp_path, kind, share):
    path = saved(tmp_path, f"e{kind}", PAIRS)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)] + b"\xff" * (share > 0))
    with pytest.raises(Unusable):
        images(path)


def test_a_large_file_that_has_no_windows_says_which_formats_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr(echo_files, "MOST_WHOLE_BYTES", 1000)
    for name in ("e.mat", "e.npz", "e.csv"):
        with pytest.raises(Unusable, match=r"is read as a whole: save it as \.npy, \.h5 or \.mat of version 7\.3"):
            images(saved(tmp_path, name, PAIRS))
    assert len(images(saved(tmp_path, "e.npy", PAIRS))) == 1


def test_the_notch_leaves_slow_echoes_out(tmp_path):
    path = saved(tmp_path, "e.npy", WALK + 3.0)  # a wall
    [with_wall], [without] = images(path, colours="gray"), images(path, colours="gray", notch_m_s=0.2)
    velocity = np.linspace(5.0, -1.5, SIDE)
    slow = np.abs(velocity) < 0.2
    assert (without[slow] == 0).all() and with_wall[slow].mean() > 100
    assert without[(velocity > 0.8) & (velocity < 2)].mean() > 1.5 * with_wall[(velocity > 0.8) & (velocity < 2)].mean()


def test_a_hop_of_its_own_decides_how_long_an_image_lasts(tmp_path, expected):
    [image] = images(saved(tmp_path, "e.npy", WALK), hop_s=2.4 / SIDE, duration_s=1.0)
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("kind", [[("r", "f8"), ("i", "S8")], [("r", "f8")], [("r", "f8"), ("i", "f8", 0)]], ids=str)
def test_records_that_are_no_pairs_are_no_echo(tmp_path, kind):
    np.save(tmp_path / "e.npy", np.zeros(9000, kind))
    with pytest.raises(Unusable, match="is not an echo"):
        images(tmp_path / "e.npy")
