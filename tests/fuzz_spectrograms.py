"""Spectrograms: echoes and arrays in every format, the table of recordings, and somebody's split."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.records import Foreign
from lib.recipes.vavae_microdoppler import adopt, echo_files, echoes, level_arrays, recordings
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from tests.fuzz_reader import Reader, finite, save_picture


def make_echo(folder: Path) -> None:
    np.save(folder / "e.npy", np.exp(2j * np.pi * 0.05 * np.arange(400)).astype(np.complex64))


def read_echoes(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """The echoes, and the reasons of those that cannot be used."""
    found, reasons = [], []
    for path in sorted(folder.rglob("*.npy")):
        try:
            found.append(echoes.read(path, DataConfig()))
        except echo_files.Unusable as error:
            reasons.append(str(error))
    if not found:
        raise echo_files.Unusable(reasons[0])
    return found, reasons


def make_echo_table(folder: Path) -> None:
    rows = np.exp(2j * np.pi * 0.05 * np.arange(200))
    (folder / "e.csv").write_text("i,q\n" + "".join(f"{one.real:.5f},{one.imag:.5f}\n" for one in rows))


def make_echo_matlab(folder: Path) -> None:
    from scipy.io import savemat

    savemat(folder / "e.mat", {"echo": np.exp(2j * np.pi * 0.05 * np.arange(400))}, do_compression=False)


def make_echo_matlab_4(folder: Path) -> None:
    from scipy.io import savemat

    savemat(folder / "e.mat", {"echo": np.exp(2j * np.pi * 0.05 * np.arange(400))}, format="4")


def make_echo_hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "e.h5", "w") as file:
        file["echo"] = np.exp(2j * np.pi * 0.05 * np.arange(400))
        file["echo"].attrs["prf"], file["fc"] = 2000.0, 24e9


def read_echo(folder: Path) -> Any:
    """The last pulses, of which a damaged file may have fewer than its header says."""
    path = next(folder.iterdir())
    echo = echoes.echo_of(path, DataConfig())
    echo_files.stated(path)
    return echo.part(max(0, len(echo) - 300), len(echo))


def make_levels(folder: Path) -> None:
    """A band of velocities in decibels."""
    np.savez(folder / "s.npz", s=-np.abs(np.arange(32.0)[:, None] - 16 + np.sin(np.arange(40.0) / 6)))


def read_levels(folder: Path) -> Any:
    return level_arrays.levels(Config(), folder / "s.npz")


def make_table(folder: Path) -> None:
    with open(folder / "recordings.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "recording"), ("u1/a.png", "r1"), ("u1/b.png", "r2")])


def read_table(folder: Path) -> Any:
    return recordings.read_recordings(DataConfig(recordings_csv="recordings.csv"), folder)


def make_split(folder: Path) -> None:
    names = [f"ID_{user}/{number}.png" for user in (1, 2) for number in range(3)]
    for name in names:
        save_picture(folder / "data" / name, 8)
    paths = {user: [f"/elsewhere/{name}" for name in names if name.startswith(user)] for user in ("ID_1", "ID_2")}
    sides = {side: {user: mine[start:end] for user, mine in paths.items()}
             for side, start, end in (("train", 0, 1), ("val", 1, 2), ("test", 2, 3))}  # fmt: skip
    (folder / "dataset_split.json").write_text(json.dumps(sides))


def read_split(folder: Path) -> Any:
    """As --import does, which writes the split with the paths that the images have here."""

    def no_network() -> Any:
        raise AssertionError("a split needs no network")

    out = folder.parent / "split"
    out.mkdir(exist_ok=True)
    given = Foreign(folder / "dataset_split.json", out, lambda: {"data": folder / "data"}, no_network)
    adopt.adopt(Config(), given)
    return folder, json.loads((out / adopt.WRITTEN).read_text(encoding="utf-8"))


def wrong_split(found: Any) -> str:
    folder, sides = found
    if {*sides["train"]} & {*sides["val"]}:
        return "an image on both sides"
    return "" if all((folder / "data" / name).is_file() for side in sides.values() for name in side) else "no image"


SPECTROGRAMS = {
    "vavae_iq": Reader(make_echo, read_echoes, lambda read: finite(read[0]), reasons=lambda read: read[1]),
    "echo_csv": Reader(make_echo_table, read_echo, lambda rows: finite([rows])),
    "echo_mat": Reader(make_echo_matlab, read_echo, lambda rows: finite([rows])),
    "echo_mat_4": Reader(make_echo_matlab_4, read_echo, lambda rows: finite([rows])),
    "echo_h5": Reader(make_echo_hdf5, read_echo, lambda rows: finite([rows])),
    "levels_npz": Reader(make_levels, read_levels),
    "recordings_csv": Reader(make_table, read_table),
    "split": Reader(make_split, read_split, wrong_split, "*.json"),
}
