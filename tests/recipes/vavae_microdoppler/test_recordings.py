"""Which files belong together: the whole path counts, the largest unit first."""

from pathlib import Path

import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from lib.recipes.vavae_microdoppler.recordings import Recording, in_time, read_recordings, recordings_of
from lib.recipes.vavae_microdoppler.walk import File


def data(**settings) -> DataConfig:
    return from_dotted(Config, {f"data.{key}": value for key, value in settings.items()}).data


def of(*inner: str, **settings) -> list[Recording]:
    files = [File(Path(f"u/{name}.png"), f"u/{name}.png", "u", name) for name in inner]
    return recordings_of(data(**settings), "u", files, {}, 0.1)


def groups(*inner: str, **settings) -> list[str]:
    return [one.group.removeprefix("u/") for one in of(*inner, **settings)]


@pytest.mark.parametrize(("names", "by", "wanted"), [
    (("session_01/seg000", "session_01/seg001", "session_02/seg000", "session_02/seg001"), "session",
     ["session_01", "session_01", "session_02", "session_02"]),
    (("seg000_of_rec01", "seg001_of_rec01", "seg000_of_rec02"), "recording", ["rec01", "rec01", "rec02"]),
    (("session_1/rec00_w0", "session_1/rec01_w0", "session_2/rec00_w0"), "session",
     ["session_1", "session_1", "session_2"]),
    (("session_1/rec00_w0", "session_1/rec01_w0", "session_1/rec01_w1"), "recording", ["rec00", "rec01", "rec01"]),
    (("day1/session_1/0", "day2/session_1/0"), "session", ["day1-session_1", "day2-session_1"]),
    (("Rec01_w0", "rec01_w1", "rec02_w0"), "recording", ["rec01", "rec01", "rec02"]),
    (("WR14_seg004_00", "WR14_seg004_02", "WR14_seg005_00"), "segment", ["seg004", "seg004", "seg005"]),
    (("kitchen/0", "kitchen/1", "hall/0", "hall/1"), "folder", ["kitchen", "kitchen", "hall", "hall"]),
    (("walk_1_w0", "walk_1_w1", "walk_2_w0"), "name", ["walk_1", "walk_1", "walk_2"]),
    (("2024-05-01_0", "2024-05-01_1", "2024-05-02_0"), "date", ["2024-05-01", "2024-05-01", "2024-05-02"]),
    (("radar1/rec00", "radar2/rec00", "radar1/rec01"), "recording", ["rec00", "rec00", "rec01"]),
    (("S01_R01_w0", "S01_R02_w0", "S02_R01_w0"), "session", ["s01", "s01", "s02"]),
    (("x_s1r1_0", "x_s1r2_0", "x_s1r2_1"), "recording", ["s1r1", "s1r2", "s1r2"]),
    (("会话1/0", "会话2/0"), "session", ["会话1", "会话2"]),
    (("S01T01_w0", "S01T02_w0", "S01T02_w1"), "recording", ["s01t01", "s01t02", "s01t02"]),
    (("s1r1w0", "s1r2w0", "s2r1w0"), "session", ["s1", "s1", "s2"]),
    (("rec_A_w0", "rec_A_w1", "rec_B_w0"), "recording", ["rec_a", "rec_a", "rec_b"]),
    (("recA2_w0", "recB2_w0", "recB2_w1"), "recording", ["reca2", "recb2", "recb2"]),
    (("recording (1) w0", "recording (1) w1", "recording (2) w0"), "recording",
     ["recording (1", "recording (1", "recording (2"]),
    (("session.1/rec.1.0", "session.2/rec.1.0"), "session", ["session.1", "session.2"]),
    (("clip1_0", "clip1_1", "clip2_0"), "name", ["clip1", "clip1", "clip2"]),
    (("rec01_w0", "rec_1_w1", "Rec-01 w2", "rec10_w0"), "recording", ["rec01", "rec01", "rec01", "rec10"]),
    (("records_1", "records_1x", "records_2"), "time", ["early", "gap", "late"]),
])  # fmt: skip
def test_the_largest_unit_of_which_there_are_two_is_the_group(names, by, wanted):
    found = of(*names)
    assert {one.by for one in found} == {by}
    assert [one.group.removeprefix("u/") for one in found] == wanted and not any(one.problem for one in found)


@pytest.mark.parametrize("names", [
    ("seg000", "seg001", "seg002", "seg003"), ("walk_001", "walk_002", "walk_003", "walk_004"),
    ("session_1/seg0", "session_1/seg1", "session_1/seg2", "session_1/seg3"), ("w0", "w1", "w2", "w3"),
    ("direct12", "direct13", "direct14", "direct15"), ("rec0_0", "rec0_1", "rec0_2", "rec0_3"),
    ("wr14_s0", "wr14_s1", "wr14_s2", "wr14_s3"), ("20240501", "20240502", "20240503", "20240504"),
    ("f0/w", "f1/w", "f2/w", "f3/w"),
])  # fmt: skip
def test_numbers_that_every_file_has_another_of_count_windows_so_the_split_is_in_time(names):
    assert {one.by for one in of(*names)} == {"time"}


def test_a_file_whose_name_tells_nothing_is_left_out_and_the_others_stay_whole():
    found = of("rec00_w0", "rec00_w1", "rec01_w0", "overview")
    assert [one.group for one in found[:3]] == ["u/rec00", "u/rec00", "u/rec01"]
    assert "tells no recording, as 3 other files of u do" in found[3].problem and found[3].by == "recording"


def test_names_of_fewer_than_half_of_the_files_are_not_used():
    assert {one.by for one in of("rec00", "rec01", "a", "b", "c")} == {"time"}


def test_an_echo_without_a_name_is_a_recording_by_itself():
    assert groups("a", "b", "c", kind="iq") == ["a", "b", "c"]
    assert groups("rec0_rx1", "rec0_rx2", "rec1_rx1", "other", kind="iq") == ["rec0", "rec0", "rec1", "other"]


def test_a_pattern_of_a_persons_own_is_searched_in_the_name_and_then_in_the_path():
    assert groups("A/x_1", "A/x_2", "B/x_1", recording_pattern=r"(?P<recording>[AB])") == ["A", "A", "B"]
    assert groups("7/x_1", "7/x_2", "7/x_1", recording_pattern=r"(?P<recording>\d)") == ["1", "2", "1"]
    assert {one.by for one in of("rec0", "rec1", recording_pattern="")} == {"time"}


def test_blocks_in_time_leave_gaps_and_keep_half_for_training():
    assert in_time(20, 0.2, 0.1, 3) == ["early"] * 13 + ["gap"] * 3 + ["late"] * 4  # a third block would leave 8
    assert in_time(100, 0.2, 0.1, 4) == ["early"] * 62 + ["gap"] * 4 + ["middle"] * 10 + ["gap"] * 4 + ["late"] * 20
    assert in_time(100, 0.2, 0.0, 4) == ["early"] * 76 + ["gap"] * 4 + ["late"] * 20
    assert in_time(1, 0.2, 0.1, 4) == ["early"] and in_time(2, 0.2, 0.1, 4) == ["early", "late"]


@pytest.mark.parametrize(("content", "found"), [
    ("file,recording\nu/a.png,one\nu/b.png,two\n", {"u/a.png": "one", "u/b.png": "two"}),
    ("\ufefffile;recording\r\nu\\a.png;one\r\n", {"u/a.png": "one"}),
    ("file,recording,note\n./u/a.png, one ,x\n", {"u/a.png": "one"}),
], ids=["plain", "as a spreadsheet saves it", "with another column"])  # fmt: skip
def test_a_table_of_recordings_is_read(tmp_path, content, found):
    (tmp_path / "r.csv").write_text(content, encoding="utf-8", newline="")
    assert read_recordings(data(recordings_csv="r.csv"), tmp_path) == found


@pytest.mark.parametrize(("content", "word"), [
    (b"file,group\na,b\n", "columns file and recording"), (b"", "columns file and recording"),
    (b"\xff\xfe\x00f", "cannot be read"), (b"file,recording\na\n", "line 2: a needs one recording"),
    (b"file,recording\na,1\na,2\n", "line 3: a needs one recording"),
    (b"file,recording\na,1.0\nb,nan\n", "line 3: b needs one recording"),
    (b"file,recording\na,1\nb,-1\n", "line 3: b needs one recording"),
])  # fmt: skip
def test_a_table_that_cannot_be_used_says_why(tmp_path, content, word):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(Stop, match=word):
        read_recordings(data(recordings_csv="r.csv"), tmp_path)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Stop, match=r"data\.recordings_csv: there is no file .*r\.csv"):
        read_recordings(data(recordings_csv="r.csv"), tmp_path)


def test_a_file_that_the_table_does_not_name_stops():
    with pytest.raises(Stop, match=r"r\.csv does not name u/b\.png"):
        files = [File(Path("u/b.png"), "u/b.png", "u", "b")]
        recordings_of(data(recordings_csv="r.csv"), "u", files, {"u/a.png": "one"}, 0.1)
