"""Kept tensors: what comes back is what was written, whoever wrote it and whatever happened to the files since."""

import errno
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from lib.network import units
from lib.network.units import Units
from tests import ranks

NAMES = ["a", "b", "c"]


def tensor(name, precision=torch.float32):
    return torch.full((2, 3), float(ord(name))).to(precision)


@pytest.fixture
def filled(tmp_path):
    """filled(folder) -> units of NAMES in it, opened again."""

    def make(folder="frozen-features-1", names=NAMES):
        kept = Units(tmp_path / folder, 1e9)
        for name in names:
            kept.put(name, tensor(name))
        return Units(tmp_path / folder, 1e9)

    return make


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_units_come_back_bit_for_bit_one_by_one_and_stacked(tmp_path, precision):
    kept = Units(tmp_path / "x", 1e9)
    for name in NAMES:
        kept.put(name, tensor(name, precision))
    assert len(list((tmp_path / "x").glob("*.units"))) == 1
    for one in (kept, Units(tmp_path / "x", 1e9)):
        assert all(torch.equal(one.get(name), tensor(name, precision)) for name in NAMES)
        assert torch.equal(one.stack(["c", "a"]), torch.stack([tensor("c", precision), tensor("a", precision)]))
        assert one.get("d") is None and one.stack(["a", "d"]) is None


def flip(folder):
    with open(folder / "0.units", "r+b") as file:
        file.seek(24 + 5)  # in the middle of b
        file.write(bytes([file.read(1)[0] ^ 16]))


def cut(folder):
    os.truncate(folder / "0.units", 30)


def delete(folder):
    (folder / "0.units").unlink()


def delete_lines(folder):
    (folder / "0.jsonl").unlink()


@pytest.mark.parametrize("damage, left", [(flip, "ac"), (cut, "a"), (delete, ""), (delete_lines, "")])
def test_damage_is_noticed_and_what_is_written_again_counts(filled, tmp_path, capsys, damage, left):
    filled()
    damage(tmp_path / "frozen-features-1")
    kept = Units(tmp_path / "frozen-features-1", 1e9)
    assert kept.stack(NAMES) is None
    assert "".join(name for name in NAMES if kept.get(name) is not None) == left
    if damage is not delete_lines:
        assert capsys.readouterr().out.count("is not as it was written; what is missing is computed again") == 1
    for name in set(NAMES) - set(left):
        kept.put(name, tensor(name))
    for one in (kept, Units(tmp_path / "frozen-features-1", 1e9)):
        assert torch.equal(one.stack(NAMES), torch.stack([tensor(name) for name in NAMES]))


def test_a_fill_that_was_killed_goes_on(filled, tmp_path):
    filled(names=["a", "b"])
    with open(tmp_path / "frozen-features-1" / "0.units", "ab") as file:
        file.write(b"half of c")
    with open(tmp_path / "frozen-features-1" / "0.jsonl", "ab") as file:
        file.write(b'{"name": "c", "at": 4')
    kept = Units(tmp_path / "frozen-features-1", 1e9)
    assert kept.get("c") is None
    kept.put("c", tensor("c"))
    assert torch.equal(Units(tmp_path / "frozen-features-1", 1e9).stack(NAMES), kept.stack(NAMES))
    assert len(list((tmp_path / "frozen-features-1").glob("*.units"))) == 1


def put_own(folder):
    """One of several processes that fill a folder at once; each then finds what all have put."""
    import torch.distributed as dist

    rank, kept = dist.get_rank(), Units(folder, 1e9)
    dist.barrier()
    for number in range(50):
        kept.put(f"{rank}/{number}", torch.full((100,), float(1000 * rank + number)))
    dist.barrier()
    found = [kept.get(f"{other}/{number}") for other in range(2) for number in range(50)]
    return [None if one is None else one.mean().item() for one in found]


def test_several_processes_fill_one_folder(tmp_path):
    for found in ranks.call(2, tmp_path, put_own, tmp_path / "frozen-features-1"):
        assert found == [1000.0 * rank + number for rank in range(2) for number in range(50)]


def test_the_quota_is_for_all_folders_and_the_oldest_that_is_not_open_goes_first(filled, tmp_path, capsys):
    for number in (1, 2, 3):
        filled(f"frozen-features-{number}")
        os.utime(tmp_path / f"frozen-features-{number}" / "used", (number, number))
    still_open = Units(tmp_path / "frozen-features-1", 1e9)
    os.utime(tmp_path / "frozen-features-1" / "used", (1, 1))
    held = units.held_bytes(tmp_path / "frozen-features-1")
    kept = Units(tmp_path / "frozen-features-4", 3.5 * held)
    for name in NAMES:
        kept.put(name, tensor(name))
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["1", "3", "4"]
    assert "removed frozen-features-2" in capsys.readouterr().out
    assert still_open.get("a") is not None and kept.stack(NAMES) is not None


def test_processes_that_make_room_at_once_do_not_stand_in_one_another_s_way(filled, tmp_path, monkeypatch):
    folder, gone, seen = tmp_path / "frozen-features-1", [], []
    filled()
    unlink = type(folder).unlink

    def watched(file):
        """Another process looks at the folder after every file."""
        unlink(file)
        gone.append(file.name)
        seen.append((folder / "used").exists() or not list(folder.iterdir()))
        assert units.removed(folder) == 0

    monkeypatch.setattr(type(folder), "unlink", watched)
    assert units.removed(folder) > 0 and not folder.exists()
    assert gone[-1] == "used" and len(gone) == 3 and all(seen)


def test_a_folder_that_is_removed_while_it_is_opened_is_made_again(filled, tmp_path, monkeypatch):
    filled()
    lock, folder = units.fcntl.flock, tmp_path / "frozen-features-1"

    def late(mark, kind):
        monkeypatch.setattr(units.fcntl, "flock", lock)
        shutil.rmtree(folder)
        lock(mark, kind)

    monkeypatch.setattr(units.fcntl, "flock", late)
    kept = Units(folder, 1e9)
    kept.put("a", tensor("a"))
    assert kept.get("a") is not None and (folder / "used").exists() and kept.get("b") is None


def test_what_is_beyond_the_quota_is_not_kept_and_that_is_said_once(tmp_path, capsys):
    kept = Units(tmp_path / "frozen-features-1", 60)
    for name in NAMES:
        kept.put(name, tensor(name))  # 24 bytes and a line of more than 60
    assert kept.get("a") is not None and kept.get("b") is None
    assert capsys.readouterr().out.count("takes no more (cache.quota_gb is 6e-08") == 1


def test_the_last_of_the_disk_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(units.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    kept = Units(tmp_path / "frozen-features-1", 1e9)
    kept.put("a", tensor("a"))
    assert kept.get("a") is None


def test_a_disk_that_fills_up_leaves_the_files_as_they_were(filled, tmp_path, capsys):
    filled(names=["a"])
    kept = Units(tmp_path / "frozen-features-1", 1e9)
    kept.put("b", tensor("b"))
    real = kept.writer.units

    def write_half(view):
        real.write(view[: len(view) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    kept.writer.units = SimpleNamespace(write=write_half, seek=real.seek, truncate=real.truncate)
    kept.put("c", tensor("c"))
    kept.put("c", tensor("c"))
    assert capsys.readouterr().out.count("No space left on device); the rest is computed each time") == 1
    assert (tmp_path / "frozen-features-1" / "0.units").stat().st_size == 48
    assert kept.get("c") is None and torch.equal(kept.stack(["a", "b"]), torch.stack([tensor("a"), tensor("b")]))
