"""Raw echoes: what is read as one row of complex numbers, and what a damaged file says."""

from pathlib import Path

import numpy as np
import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler import echoes
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.echoes import spectrograms

SIGNAL = np.exp(2j * np.pi * 0.05 * np.arange(40))
PAIRS = np.stack([SIGNAL.real, SIGNAL.imag], 1)


def read(path: Path, **settings) -> np.ndarray:
    return echoes.read(path, DataConfig(**settings))


def written(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "e.npy", array)
    return folder / "e.npy"


@pytest.mark.parametrize("array", [
    SIGNAL, SIGNAL[:, None], SIGNAL[None], PAIRS, PAIRS.T, np.asfortranarray(PAIRS), SIGNAL.astype(">c16"),
], ids=["row", "column", "(1, t)", "(t, 2)", "(2, t)", "by columns", "big-endian"])  # fmt: skip
def test_rows_columns_and_pairs_are_the_same_echo(tmp_path, array):
    found = read(written(tmp_path, array))
    assert found.dtype == np.complex128 and np.array_equal(found, SIGNAL[None])


def test_whole_numbers_of_a_receiver_are_read_as_they_are(tmp_path):
    counts = np.array([[3, -4], [0, 5], [1, 1]], np.int16)
    assert read(written(tmp_path, counts)).tolist() == [[3 - 4j, 5j, 1 + 1j]]


@pytest.mark.parametrize(("array", "word"), [
    (np.zeros(40), r"shape \(40,\) of float64 is not one row"), (np.zeros((5, 8), complex), r"shape \(5, 8\)"),
    (np.zeros((40, 3)), r"shape \(40, 3\)"), (np.zeros((40, 2), bool), "of bool"), (np.array(1j), "not one row"),
    (np.full(40, np.nan + 0j), "NaN or infinity"), (np.zeros(0, complex), "no numbers"),
    (np.full(4, 1e200 + 0j), "1e\\+200"),
    (np.array([{}]), "not a NumPy array"),
])  # fmt: skip
def test_what_is_no_echo_says_what_it_is(tmp_path, array, word):
    np.save(tmp_path / "e.npy", array, allow_pickle=True)
    with pytest.raises(Unusable, match=word):
        read(tmp_path / "e.npy")


def damaged() -> list[bytes]:
    whole = b"\x93NUMPY\x01\x00v\x00"
    head = b"{'descr': '<c8', 'fortran_order': False, 'shape': (3000,), }".ljust(117) + b"\n"
    changed = [
        (b"'<c8'", b"'<c#,"), (b"False", b"Falsy"), (b"(3000,)", b"(3e9,)"), (b"(3000,)", b"(9**99"), (b"{", b"["),
        (b"3000", b"-300"), (b"'<c8'", b"'<V0'"), (b"'<c8'", b"'O'  "), (b"'shape'", b"'shap' "),
    ]  # fmt: skip
    bodies = [whole + head.replace(*pair) + b"\0" * 64 for pair in changed]
    huge = whole + head.replace(b"(3000,)", b"(999999999999999,)")
    return [b"", b"x", whole, whole + head[:30], whole + head, huge, b"PK\x03\x04" + b"\0" * 40, b"\x80\x04N.", *bodies]


@pytest.mark.parametrize("content", damaged(), ids=range(len(damaged())))
def test_a_damaged_file_ends_as_one_reason(tmp_path, content):
    (tmp_path / "e.npy").write_bytes(content)
    with pytest.raises(Unusable, match=r"^(?!.*trust)"):  # NumPy's advice on pickles is none for a cut file
        read(tmp_path / "e.npy")


def test_an_archive_that_is_called_an_array_is_no_echo(tmp_path):
    np.savez(tmp_path / "e.npz", a=SIGNAL)
    with pytest.raises(Unusable, match=r"not a NumPy array, or damaged \(it does not begin as one\)"):
        read((tmp_path / "e.npz").rename(tmp_path / "e.npy"))


def test_a_short_echo_says_how_many_pulses_it_needs(tmp_path):
    with pytest.raises(Unusable, match="40 pulses are too few"):
        list(spectrograms(from_dotted(Config, {"data.kind": "iq"}), written(tmp_path, PAIRS)))


def walker() -> np.ndarray:
    """3 s of a body and a leg at 1600 pulses a second, with noise."""
    t, generator = np.arange(4800) / 1600, np.random.default_rng(0)
    ways_m = (1.5 * t, 1.5 * t + 0.15 * np.sin(11 * t))
    noise = generator.normal(0, 0.05, (2, len(t)))
    return sum(np.exp(4j * np.pi * way_m / 0.01249) for way_m in ways_m) + noise[0] + 1j * noise[1]


WALK = walker()
TIME = np.arange(len(WALK)) / 1600


@pytest.mark.parametrize(("array", "word"), [
    (WALK.real + 0j, "one of them is 0"), (1j * WALK.real, "one of them is 0"),
    (np.stack([WALK.real] * 2, 1), "I and Q are one signal"), (np.stack([WALK.real, -WALK.real]), "one signal"),
    (np.stack([TIME, WALK.real], 1), "its I rises in equal steps"),
    (np.stack([WALK.real, TIME[::-1]], 1), "its Q rises in equal steps"),
    (np.stack([np.abs(WALK), np.angle(WALK)], 1), "amplitude and phase"),
    (np.stack([np.angle(WALK) % (2 * np.pi), np.abs(WALK)], 1), "amplitude and phase"),
    (np.stack([np.abs(WALK), np.degrees(np.angle(WALK))]), "amplitude and phase"),
])  # fmt: skip
def test_two_columns_that_are_no_i_and_q_are_no_echo(tmp_path, array, word):
    """Each makes pictures in which the walker goes both ways at once, or none."""
    config = from_dotted(Config, {"data.kind": "iq"})
    with pytest.raises(Unusable, match=word):
        echoes.ready(config, written(tmp_path, array))


@pytest.mark.parametrize("array", [
    WALK, np.conj(WALK), WALK + 9 + 5j, np.stack([WALK, 1e-9 * WALK]), np.where(TIME > 2, WALK, 0),
    np.round(100 * np.stack([WALK.real, WALK.imag])).astype(np.int8),
], ids=["plain", "conjugate", "beside a wall", "two receivers", "silent first", "8 bits"])  # fmt: skip
def test_what_receivers_write_is_an_echo(tmp_path, array):
    echo, _ = echoes.ready(from_dotted(Config, {"data.kind": "iq"}), written(tmp_path, array))
    assert len(echo) == len(WALK)


def test_velocities_that_fold_are_refused_where_an_echo_is_read_too(tmp_path):
    config = from_dotted(Config, {"data.kind": "iq"})
    config.data.high_m_s = 1e6
    with pytest.raises(Stop, match="fold"):
        list(spectrograms(config, written(tmp_path, SIGNAL)))


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "e.npy").write_bytes(b"")
    with pytest.raises(Unusable, match="the file is empty"):
        read(tmp_path / "e.npy")
