"""A prepared array that changed is made again by step 3 and refused by steps 4 and 5; no score changes in silence."""

import os
import shutil
from pathlib import Path

import pytest

from lib.core import hashes
from lib.core.run import Damaged, existing
from lib.data import prepared as known


@pytest.fixture
def arrays(tmp_path):
    return lambda: next((tmp_path / "cache").glob("prepared-*"))


def flip(file: Path, place: int = -1) -> None:
    """One bit, with the size and the time of change kept."""
    content, status = bytearray(file.read_bytes()), file.stat()
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("number, done", [(4, 3), (5, 4)])
def test_a_flipped_bit_ends_the_step_that_reads_it_and_step_3_makes_it_again(
    step, folder, arrays, monkeypatch, prepared, capsys, number, done
):
    prepared(last=5)
    scores = existing(folder / "eval" / "scores.json")
    for later in range(done + 1, 6):
        (folder / f"{later}_{'train' if later == 4 else 'evaluate'}.json").unlink()
    if done == 3:
        shutil.rmtree(folder / "train")
    sample = arrays() / ("0.npy" if number == 4 else "39.npy")
    whole = sample.read_bytes()
    flip(sample)
    assert step(number) == 1
    said = capsys.readouterr().err
    assert f"{sample.name} does not hold what was written" in said and "step3_prepare.py --run r --force" in said
    assert step(3, "--force") == 0
    assert "all prepared arrays are made again" in capsys.readouterr().out and sample.read_bytes() == whole
    for later in range(done + 1, 6):
        assert step(later) == 0
    assert existing(folder / "eval" / "scores.json") == scores


def test_an_array_that_is_gone_makes_step_3_stale_and_the_next_step_makes_it_again(step, arrays, prepared, capsys):
    prepared()
    (arrays() / "3.npy").unlink()
    assert step(4, "--plan") == 0
    assert "1 of 45 files of prepared-" in capsys.readouterr().out
    assert step(4) == 0
    assert (arrays() / "3.npy").exists()


def test_arrays_whose_hashes_are_damaged_are_refused_and_made_again(step, arrays, prepared, capsys):
    prepared()
    flip(arrays() / known.FILE, 5)
    assert step(4) == 1
    assert known.FILE in capsys.readouterr().err
    assert step(3, "--force") == 0 and step(4) == 0


def test_a_file_is_hashed_once_per_process(tmp_path, monkeypatch):
    (tmp_path / "a.npy").write_bytes(b"1")
    known.note(tmp_path, lambda: None)
    known.expect_noted(tmp_path, "again")
    hashed, real = [], hashes.sha256_of
    monkeypatch.setattr(hashes, "sha256_of", lambda file: hashed.append(file) or real(file))
    for _ in range(3):
        assert hashes.checked(tmp_path / "a.npy").read_bytes() == b"1"
    assert len(hashed) == 1


def test_a_file_that_is_gone_is_named(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"1")
    known.note(tmp_path, lambda: None)
    known.expect_noted(tmp_path, "again")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(Damaged, match=r"a\.npy is missing"):
        hashes.checked(tmp_path / "a.npy")


@pytest.mark.parametrize("number, last", [(4, 3), (5, 4)])
def test_a_base_that_changed_under_the_same_size_and_time_is_noticed_before_it_is_used(
    step, tmp_path, prepared, capsys, number, last
):
    prepared(last=last)
    assert step(2, "--force") == 0  # the run was copied here: from now on its files are known by size and time
    flip(tmp_path / "data" / "toy" / "base" / "base.safetensors")
    assert step(number) == 1
    said = capsys.readouterr().err
    assert "base.safetensors does not hold what was written" in said and "step2_download.py --run r --force" in said
    assert step(2, "--force") == 0 and step(number) == 0


def test_what_a_stage_stands_on_is_made_again_where_it_changed(step, tmp_path, folder, prepared, capsys):
    prepared("train.epochs=1", "train.stages=2", "train.stand=true", last=5)
    [made] = tmp_path.glob("cache/stage_inputs-*/made.txt")
    log = (folder / "train" / "again" / "log.jsonl").read_bytes()
    whole = made.read_bytes()
    flip(made)
    assert step(4, "--force") == 0
    said = f"made.txt does not hold what was written: its sha256 is another; the files of {made.parent.name} are made"
    assert said in capsys.readouterr().out and made.read_bytes() == whole
    assert (folder / "train" / "again" / "log.jsonl").read_bytes() == log


def test_a_folder_of_somebody_else_is_neither_noted_nor_removed(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "latents.json").write_text("{}")
    assert known.whole_or_again(lambda: mine, tmp_path / "cache", lambda: None) == mine
    assert [path.name for path in mine.iterdir()] == ["latents.json"]
    assert known.whole_or_again(lambda: None, tmp_path / "cache", lambda: None) is None
