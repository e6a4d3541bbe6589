"""What a stranger brings and what would pass in silence: cut recordings, other units and radars, exchanged I and Q,
tables with a clock, users who differ in more than their walk.
"""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler import data, echo_files, echoes, level_arrays, membership, recordings
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.layout import same_person

PULSES, PRF_HZ = 5200, 2000.0
TIME = np.arange(PULSES) / PRF_HZ
HISS = 0.01 * np.random.default_rng(0).standard_normal((2, PULSES))
APPROACHING = np.exp(4j * np.pi / 0.01249 * np.cumsum(1.5 + 1.2 * np.sin(9 * TIME)) / PRF_HZ) + HISS[0] + 1j * HISS[1]


def configured(**settings) -> Config:
    iq = {"data.kind": "iq", "data.prf_hz": PRF_HZ, "model.image_px": 32}
    return from_dotted(Config, iq | {f"data.{name}": value for name, value in settings.items()})


def prepared(config: Config, root: Path, out: Path) -> list[data.Record]:
    records = list(data.prepare(config, {"data": root}, out))
    membership.split(config, records, out)
    return records


def recorded(root: Path, echo: np.ndarray, names=("u1/rec1", "u1/rec2", "u2/rec1", "u2/rec2")) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", np.roll(echo, 700 * number, axis=-1))
    return root


# ---------------------------------------------------------------------------------------------- recordings, users


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("walk_part1", "walk"), ("walk-2of3", "walk"), ("walk (1 of 3)", "walk"), ("seg001", ""), ("h/seg 3", "h/"),
        ("20240501.chunk-02", "20240501"), ("走路段2", "走路"), ("counterpart3", "counterpart3"), ("walk_3", "walk_3"),
        ("darwin3", "darwin3"), ("party_2", "party_2"),
    ],
)  # fmt: skip
def test_the_pieces_of_an_echo_are_one_recording(name, whole):
    file = recordings.File(Path(name), name, "u", name)
    [found] = recordings.recordings_of(configured().data, "u", [file], {}, 0.1)
    assert found.group == f"u/{whole or 'all of it'}"


def test_one_person_under_two_spellings_is_asked_about():
    for names in (("ID1", "ID_1"), ("ID_1", "ID_01"), ("Jose\u0301", "José"), ("it speaker", "it-speaker")):
        assert same_person([*names, "other"]) == [*names]
    assert not same_person(["p1", "p11", "p1_1", "Jose", "José", "张三", "张四"])


# ---------------------------------------------------------------------------------------------- tables of numbers


def table(folder: Path, text: str) -> np.ndarray:
    (folder / "e.csv").write_text(text)
    return np.asarray(echo_files.opened(folder / "e.csv"))


@pytest.mark.parametrize("text", [
    "I;Q\n0,5;-1,25\n2;0,125\n", "I\tQ\n0,5\t-1,25\n2\t0,125\n", "0.5,-1.25\n2,0.125\n", "0.5 -1.25\n2 0.125\n",
])  # fmt: skip
def test_decimal_commas_are_no_columns(tmp_path, text):
    assert table(tmp_path, text).tolist() == [[0.5, -1.25], [2, 0.125]]


def test_roots_of_minus_one_may_stand_apart(tmp_path):
    assert table(tmp_path, "0.5 - 1.25i\n-2.0 + 0.5i\n").ravel().tolist() == [0.5 - 1.25j, -2 + 0.5j]


@pytest.mark.parametrize("clock", ["{i}", "{t:.6g}", "{late:.3f}"])
@pytest.mark.parametrize("echo", ["{z.real:.4f},{z.imag:.4f}", "{z.real:.4f}", "({z:.4f})"])
def test_a_column_that_counts_is_no_echo(tmp_path, clock, echo):
    rows = [
        f"{clock},{echo}\n".format(i=i, t=i / 1600, late=1e3 + i / 50, z=z) for i, z in enumerate(APPROACHING[:300])
    ]
    with pytest.raises(Unusable, match="its first column rises in equal steps"):
        table(tmp_path, "t,echo\n".replace("echo", echo.count(",") * "I," + "Q") + "".join(rows))


# ---------------------------------------------------------------------------------------------- units and radars


LEVELS = np.clip(np.linspace(0.3, 0.9, 64)[:, None] + 0.1 * np.random.default_rng(1).random((64, 64)), 0, 1)


@pytest.mark.parametrize("array", [
    LEVELS, (LEVELS - LEVELS.mean()) / LEVELS.std(), np.round(255 * (LEVELS - LEVELS.min()) / np.ptp(LEVELS)),
])  # fmt: skip
def test_levels_of_a_picture_are_no_decibels(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(Unusable, match="these are levels of a picture, no decibels"):
        level_arrays.levels(configured(kind="arrays"), tmp_path / "a.npy")


def test_numbers_without_a_sign_have_no_silence(tmp_path):
    np.save(tmp_path / "e.npy", np.full((PULSES, 2), 128, np.uint8))
    with pytest.raises(Unusable, match=r"uint8 has no sign: subtract"):
        echoes.echo_of(tmp_path / "e.npy", configured().data)


@pytest.mark.parametrize(("said", "name", "value"), [
    ({"prf": 500.0}, "prf_hz", 500), ({"fc": 77e9}, "wavelength_m", 0.003893),
    ({"Carrier": 77.0}, "wavelength_m", 0.003893),
    ({"prf": 2000.0, "fs": 2e6, "fc": 24.0, "prf_table": np.ones(3)}, "", 0),
])  # fmt: skip
def test_a_file_that_states_another_radar_is_not_read_as_this_one(tmp_path, said, name, value):
    np.savez(tmp_path / "e.npz", echo=APPROACHING, **said)
    savemat(tmp_path / "e.mat", {"echo": APPROACHING, **said})
    with h5py.File(tmp_path / "e.h5", "w") as file:  # a number beside the echo, and what is said of the echo itself
        file["echo"] = APPROACHING
        file.attrs["site"] = "hall"
        for number, (word, one) in enumerate(said.items()):
            file.require_group("radar").update({word: one}) if number % 2 else file["echo"].attrs.update({word: one})
    with h5py.File(tmp_path / "e73.mat", "w", userblock_size=512) as file:
        file.update({"echo": APPROACHING[:, None]} | {word: np.atleast_2d(one) for word, one in said.items()})
    with (tmp_path / "e73.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    for file in ("e.npz", "e.mat", "e.h5", "e73.mat"):
        if not name:
            assert len(list(echoes.spectrograms(configured(variable="echo"), tmp_path / file))) == 1
            continue
        with pytest.raises(Unusable, match=rf"its {name} is {value:.4g}\d*, and data\.{name} is"):
            echoes.ready(configured(variable="echo"), tmp_path / file)


def test_a_wavelength_in_millimetres_is_refused():
    with pytest.raises(Stop, match=r"data\.wavelength_m=12\.49 is impossible"):
        configured(wavelength_m=12.49)


def test_exchanged_i_and_q_are_noticed(tmp_path):
    """The walker would be left out of every image, and noise be trained on."""
    config = configured()
    assert prepared(config, recorded(tmp_path / "right", APPROACHING), tmp_path / "out")[0].columns["unseen"] < 0.1
    root = recorded(tmp_path / "wrong", APPROACHING.conj())
    with pytest.raises(Stop, match=r"4 of 4 recordings are fast where images of -1\.5 to 5 m/s are empty") as stop:
        prepared(config, root, tmp_path / "other")
    assert "data.low_m_s=-5 data.high_m_s=1.5" in stop.value.command
    assert prepared(configured(low_m_s=-5, high_m_s=1.5), root, tmp_path / "third")[0].columns["unseen"] < 0.1
    assert prepared(configured(low_m_s=-3, high_m_s=3), root, tmp_path / "fourth")[0].columns["unseen"] == 0.5
    np.save(root / "u1" / "rec1.npy", APPROACHING)
    found = data.summarise_data(config, prepared(config, root, tmp_path / "fifth"))
    assert found["recordings that are fastest where images show nothing"] == "u1/rec2, u2/rec1, u2/rec2"


# ---------------------------------------------------------------------------------------------- what users differ in


def pictures_of(root: Path, user: str, count: int = 3, side: int = 32, dark=(0, 0, 131), mode: str = "RGB") -> None:
    (root / user).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((side, side, 3), dark, np.uint8)
        pixels[number * 5 : number * 5 + 4] = np.random.default_rng(number).integers(0, 255, (4, side, 3))
        Image.fromarray(pixels).convert(mode).save(root / user / f"rec{number}.png")


@pytest.mark.parametrize(("other", "said"), [
    ({"dark": (0, 0, 0)}, "the colour of their background"),
    ({"dark": (255, 255, 255)}, "the colour of their background"),
    ({"side": 64}, "size or kind of file"), ({"mode": "P"}, "size or kind of file"), ({}, ""),
])  # fmt: skip
def test_users_who_differ_in_more_than_their_walk_are_said(tmp_path, other, said):
    config = configured(kind="images")
    for user, looks in (("a", {}), ("b", {}), ("c", other)):
        pictures_of(tmp_path / "in", user, **looks)
    found = data.summarise_data(config, prepared(config, tmp_path / "in", tmp_path / "out"))
    warnings = {name: text for name, text in found.items() if "differ in" in name}
    assert all(text == "c: a network tells users by that, whoever walks" for text in warnings.values())
    assert [name.removeprefix("users' pictures differ in ") for name in warnings] == [said] * bool(said)


def test_plots_with_axes_are_said(tmp_path):
    config, root = configured(kind="images"), tmp_path / "in"
    for user in ("a", "b"):
        pictures_of(root, user)
    plot = Image.new("RGB", (48, 40), (255, 255, 255))
    plot.paste(Image.open(root / "a" / "rec1.png"), (8, 4))
    plot.save(root / "a" / "rec1.png")
    found = data.summarise_data(config, prepared(config, root, tmp_path / "out"))
    assert found["pictures with a light border, as of plots: cut it off"] == "a/rec1.png"


def test_arrays_of_other_lengths_are_said(tmp_path):
    velocity, time = np.mgrid[5:-1.5:64j, 0:2.4:64j]
    power = -30.0 * np.minimum(1, np.abs(velocity - 1.3 - 0.3 * np.sin(6 * time)))
    root = recorded(tmp_path / "in", power)
    np.save(root / "u1" / "rec1.npy", power[:, :20])
    config = configured(kind="arrays")
    found = data.summarise_data(config, prepared(config, root, tmp_path / "out"))
    assert found["sizes"] == {"64x64": 3, "20x64": 1}
    assert found["pictures of other proportions"].startswith("width to height from 0.31 to 1:")
