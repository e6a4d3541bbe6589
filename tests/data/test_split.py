"""The split is by group, its proof counts what both sides share, and the counts are zero or the run stops."""

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.core.records import Record, Split
from lib.data import split


def records(groups="aabbcc", **columns):
    return [
        Record(f"{group}{i}", group, f"asset:x/{i}", f"hash{i}", columns=dict(columns))
        for i, group in enumerate(groups)
    ]


def test_whole_groups_are_held_out_and_the_proof_says_so():
    made = records()
    proof = split.apply(made, Split("scene", ("b",)), 42)
    assert [r.split for r in made] == ["train", "train", "test", "test", "train", "train"]
    assert proof["groups"] == {"train": ["a", "c"], "select": [], "test": ["b"]}
    assert proof["overlap"] == {"groups": 0, "files": 0, "near_duplicates": 0}


def test_the_same_file_on_both_sides_stops():
    made = records()
    made[2].sha256 = made[0].sha256
    with pytest.raises(Stop, match=r"1 file and 0 near-.*; the first file: asset:x/0 of a and asset:x/2 of b"):
        split.apply(made, Split("scene", ("b",)), 42)


def test_a_near_duplicate_of_a_held_out_picture_leaves_training_and_is_named():
    noise = np.random.Generator(np.random.Philox(key=1)).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    pictures = [noise[0], noise[1], noise[2], noise[3]]
    pictures[1] = pictures[2].copy()
    pictures[1][:8, :8] += 1  # re-encoded, say
    made = records("aabb")
    for record, picture in zip(made, pictures, strict=True):
        record.perceptual_hash = split.perceptual_hash(picture)
    proof = split.apply(made, Split("scene", ("b",)), 42)
    assert made[1].status == "skipped" and "near-duplicate of the held-out b2" in made[1].reason
    assert [r.status for r in made] == ["ok", "skipped", "ok", "ok"]
    assert proof["near_duplicates_removed"] == 1 and proof["overlap"]["near_duplicates"] == 0


def test_pairs_of_pictures_that_differ_in_six_bits_at_most_are_found_and_no_others():
    """600 x 150 hashes with pairs that differ in 0 to 9 bits, in one piece or scattered, against all comparisons."""
    draw = np.random.Generator(np.random.Philox(key=2))
    left = draw.integers(0, 256, (600, 32), dtype=np.uint8)
    right = draw.integers(0, 256, (150, 32), dtype=np.uint8)
    for row in range(100):
        places = draw.choice(256 if row % 2 else 32, row % 10, replace=False)
        flipped = np.zeros(256, np.uint8)
        flipped[places] = 1
        left[row] = right[row % 30] ^ np.packbits(flipped)
    bits = np.unpackbits(left[:, None] ^ right[None], axis=2).sum(2)
    expected = {(int(i), int(j)) for i, j in np.argwhere(bits <= split.NEAR_DUPLICATE_BITS)}
    assert len(expected) >= 70
    assert split.close_pairs(left.view(np.uint32), right.view(np.uint32)) == expected


def test_an_empty_side_stops():
    for held in ((), ("a", "b", "c")):
        with pytest.raises(Stop, match="side of the split is empty"):
            split.apply(records(), Split("scene", held), 42)


def test_dropped_samples_are_on_no_side():
    made = records()
    split.apply(made, Split("view", ("b",), {"a0": "in the gap"}), 42)
    assert made[0].status == "skipped" and made[0].reason == "in the gap"
    assert [r.sample_id for r in split.usable(made, "train")] == ["a1", "c4", "c5"]


def test_by_share_holds_out_whole_groups_and_always_leaves_one():
    wish = split.by_share(records("aabbccddee"), "scene", 0.2, 42)
    assert len(wish.val_groups) == 1
    assert len(split.by_share(records("abc"), "scene", 0.99, 42).val_groups) == 2
    assert wish == split.by_share(records("aabbccddee"), "scene", 0.2, 42)


def test_one_group_cannot_be_split():
    with pytest.raises(Stop, match="the only scene is a: nothing can be held out"):
        split.by_share(records("aaa"), "scene", 0.2, 42)
    with pytest.raises(Stop, match="there is no scene with a usable record"):
        split.by_share([], "scene", 0.2, 42)


def test_the_manifest_reads_back_what_was_written(tmp_path):
    made = records(frames="1;2", note='a "quoted", one')
    made[1].status, made[1].reason = "skipped", "cannot be decoded"
    split.apply(made, Split("scene", ("b",)), 42)
    split.write_manifest(tmp_path / "manifest.csv", made)
    read = split.read_manifest(tmp_path / "manifest.csv", tmp_path)
    assert read.records == made
    assert [r.sample_id for r in read.side("train")] == ["a0", "c4", "c5"]
    header = (tmp_path / "manifest.csv").read_text().splitlines()[0]
    assert header.startswith("sample_id,group,split,source,sha256,status,reason")


def test_some_training_groups_choose_the_checkpoint_and_never_the_last_ones():
    made = records("aabbccddeeff")
    proof = split.apply(made, Split("scene", ("a",)), 42, 0.3)
    assert len(proof["groups"]["select"]) == 2 and len(proof["groups"]["train"]) == 3
    assert proof["groups"]["test"] == ["a"] and proof["overlap"]["groups"] == 0
    assert split.apply(records("aabbcc"), Split("scene", ("a",)), 42, 0.3)["groups"]["select"] == []
    named = split.apply(records("aabbcc"), Split("scene", ("a",), select_groups=("c",)), 42, 0.3)["groups"]
    assert named == {"train": ["b"], "select": ["c"], "test": ["a"]}


def test_two_samples_of_one_id_stop():
    made = records()
    made[3].sample_id = made[0].sample_id.upper()
    with pytest.raises(Stop, match=r"A0 is there twice: asset:x/0 and asset:x/3"):
        split.apply(made, Split("scene", ("b",)), 42)


def test_the_commonest_reason_is_quoted():
    made = records("aab")
    for record, reason in zip(made, ("too short", "too short", "not a picture"), strict=True):
        record.status, record.reason = "skipped", reason
    assert split.commonest_reason(made) == "; 3 of 3 records were skipped, 2 of them: too short"
    assert split.commonest_reason(records()) == ""
