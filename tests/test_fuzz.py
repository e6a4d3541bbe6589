"""Damaged files end in one sentence: some examples of every reader, and folders of inputs that once did not.

`python -m tests.fuzz` tries thousands, `python -m tests.fuzz_coverage` goes where the reached code leads. A folder of
inputs is called READER-anything; they lie in FUZZ_INPUTS, or in shared/cases/fuzz beside the repository, where somebody
keeps them.
"""

import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from lib.core.errors import LONGEST, Stop
from tests import fuzz, fuzz_coverage
from tests.fuzz_reader import ENDS, Reader
from tests.fuzz_readers import READERS

ROOT = Path(__file__).resolve().parent.parent
INPUTS = Path(os.environ.get("FUZZ_INPUTS", ROOT.parent / "shared" / "cases" / "fuzz"))
# Larger files, or slower readers.
EXAMPLES = {"mano_pickle": 8, "mano_npz": 8, "nuscenes_tables": 20, "dexycb": 20, "proposals": 20, "rigs_text": 20}
FROM, SOME = 1_000_000, 40  # seeds that no long run begins with


@pytest.fixture(scope="module", params=READERS)
def whole(request, tmp_path_factory):
    return request.param, fuzz.made(request.param, tmp_path_factory.mktemp(request.param))


def test_damaged_files_are_read_or_refused_in_a_sentence(whole):
    name, folder = whole
    found = [fuzz.example(name, FROM + number, folder) for number in range(EXAMPLES.get(name, SOME))]
    assert not [finding for finding, _ in found if finding]
    assert any(refused for _, refused in found)


# seeds of a long run that were findings once, and what they were
MENDED = {
    ("colmap_bin", 41): "an image without a name was a ValueError of pathlib",
    ("hands_npz", 4): "a header that is no Python was a TokenError",
    ("safetensors", 1_000_012): "half of a surrogate pair as a file's name was a UnicodeEncodeError",
    ("colmap_text", 1046): "a camera's number of forty digits was a TypeError of pycolmap",
    ("hands_npz", 1298): "letters beyond Unicode were a SystemError of Python",
    ("hands_npz", 1113): "the sentence quoted the whole file",
    ("hands_tar", 178): "a header of xz that asks for gigabytes was a MemoryError",
    ("mano_npz", 301): "the sentence quoted the whole file",
    ("zip", 12309): "the words of bz2 were an OSError",
    ("ply_mlp", 12): "a point at 1e38 m became infinite in float32",
}


@pytest.mark.parametrize(("name", "seed"), MENDED)
def test_what_was_found_once_ends_in_a_sentence(tmp_path, name, seed):
    assert fuzz.example(name, seed, fuzz.made(name, tmp_path)) == (None, True), MENDED[name, seed]


def readers_of(folder: Path) -> list[Reader]:
    """The readers whose files a folder holds, by its name."""
    return [
        reader
        for name, reader in READERS.items()
        if folder.name.startswith(tuple(f"{word}-" for word in (name, reader.shared) if word))
    ]


def folders() -> list[Path]:
    return sorted(path for path in INPUTS.iterdir() if path.is_dir()) if INPUTS.is_dir() else []


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_every_folder_of_inputs_ends_in_one_sentence(tmp_path, folder):
    reader = readers_of(folder)[0]
    said = sentence(reader, shutil.copytree(folder, tmp_path / "files"))
    assert 10 < len(said) < LONGEST and "Traceback" not in said, said


def sentence(reader: Reader, folder: Path) -> str:
    """What the reader stops with, or why it leaves out every record that it cannot use."""
    value, said = fuzz.outcome(reader, folder)
    return said or "; ".join(reason for reason in reader.reasons(value) if reason)


@pytest.mark.parametrize("end", [Stop("damaged"), *(kind("damaged") for kind in ENDS[1:])])
def test_a_reader_that_lets_something_else_through_is_found(tmp_path, monkeypatch, end):
    reads = iter([1, 2])

    def read(folder):
        if next(reads) > 1:
            raise KeyError("token")
        return []

    monkeypatch.setitem(READERS, "map_json", READERS["map_json"]._replace(read=read, wrong=lambda value: ""))
    finding, refused = fuzz.example("map_json", 3, fuzz.made("map_json", tmp_path))
    assert finding.kind == "KeyError" and finding.seed == 3 and not refused

    def stop(folder):
        raise end

    monkeypatch.setitem(READERS, "map_json", READERS["map_json"]._replace(read=stop))
    assert fuzz.example("map_json", 3, tmp_path / "whole") == (None, True)
    monkeypatch.setitem(READERS, "map_json", READERS["map_json"]._replace(read=lambda f: 0, wrong=lambda v: "no map"))
    assert fuzz.example("map_json", 3, tmp_path / "whole")[0].kind == "wrong"


def test_a_guided_run_counts_each_place_once_and_keeps_its_files(tmp_path, monkeypatch):
    whole = fuzz.made("map_json", tmp_path)

    def read(folder):
        content = (folder / "m.json").read_bytes()
        return {}[content] if content.startswith(b"{") else [][len(content)]

    monkeypatch.setitem(READERS, "map_json", READERS["map_json"]._replace(read=read))
    figures, args = [0.0] * len(fuzz_coverage.FIGURES), Namespace(out=tmp_path / "out", minutes=99.0)
    run = fuzz_coverage.example(fuzz, "map_json", whole, args, figures)
    for data in (b"\0{1", b"\7{2", b"\0x", b""):  # the first byte is the number of a file, of which there is one
        run(data)
    named = dict(zip(fuzz_coverage.FIGURES, figures, strict=True))
    assert (named["examples"], named["read"], named["refused"], named["findings"]) == (4, 4, 0, 2)
    kept = {path.parent.parent.name: path.read_bytes() for path in (tmp_path / "out").rglob("m.json")}
    assert kept == {"map_json-KeyError-1": b"{1", "map_json-IndexError-3": b"x"}


def test_a_guided_run_without_atheris_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_coverage, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["fuzz_coverage", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="error: atheris is not installed: python -m pip install atheris"):
        fuzz_coverage.main()
    assert not (tmp_path / "out").exists()


def test_depth_that_is_too_large_for_float32_is_unknown(tmp_path):
    """Seed 1965 of depth_scan: float64 turned into infinite depth."""
    whole = fuzz.made("depth_scan", tmp_path)
    assert fuzz.example("depth_scan", 1965, whole) == (None, False)


def test_a_cause_that_quotes_a_whole_file_is_cut():
    assert len(str(Stop("x" * 10_000))) == LONGEST + 2 and str(Stop("x" * LONGEST)) == "x" * LONGEST
