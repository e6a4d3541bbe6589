"""Files are whole or not there."""

import contextlib
import json

import pytest

from lib.core import run
from lib.core.run import Run, append_line, atomic, atomic_folder, cut_log, read_json, read_log, sweep, write_json


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text('{"half')
        raise RuntimeError
    assert read_json(path) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "step-000001") as temporary:
        (temporary / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stands_until_the_new_one_is_whole(tmp_path):
    for content in ("old", "new"):
        with contextlib.suppress(RuntimeError), atomic_folder(tmp_path / "export") as temporary:
            (temporary / content).write_text(content)
        with contextlib.suppress(RuntimeError), atomic_folder(tmp_path / "export"):
            raise RuntimeError
        assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
            "export",
            f"export/{content}",
        ]


def test_what_a_killed_process_left_is_swept_at_any_depth(tmp_path):
    (tmp_path / "train" / "a" / ".step-000010.123.tmp" / "adapter").mkdir(parents=True)
    (tmp_path / "train" / "a" / ".step-000010.123.tmp" / ".state.json.123.tmp").write_text("")
    (tmp_path / ".run.json.77.tmp").write_text("")
    (tmp_path / "train" / "a" / "log.jsonl").write_text("")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "log.jsonl", "train"]


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    for step in (1, 2, 3):
        append_line(path, {"step": step, "loss": 0.1 * step})
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    cut_log(path, 2)
    append_line(path, {"step": 3, "loss": 0.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert read_log(path)[1] == {"step": 2, "loss": 0.2}


def test_a_missing_file_reads_as_none_and_a_broken_one_is_loud(tmp_path):
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        read_json(tmp_path / "broken.json")


def test_the_command_to_go_on_names_script_and_run_and_another_root(tmp_path, monkeypatch):
    elsewhere = Run(tmp_path, "mine")
    assert elsewhere.command(4, "--force") == f"python step4_train.py --run mine --root {tmp_path} --force"
    assert Run(tmp_path, "a b").portable_command(4) == "python step4_train.py --run 'a b'"
    monkeypatch.chdir(tmp_path)
    assert elsewhere.command(4, "--force") == "python step4_train.py --run mine --force"


def test_a_record_that_must_be_there_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(run.Damaged, match=r"split\.json is missing") as stopped:
        run.existing(tmp_path / "split.json", "python step3_prepare.py")
    assert stopped.value.command == "python step3_prepare.py"
    run.write_record(tmp_path / "split.json", {"by": "scene"})
    assert run.existing(tmp_path / "split.json") == {"by": "scene"}
    (tmp_path / "split.json").write_text((tmp_path / "split.json").read_text().replace("scene", "scena"))
    with pytest.raises(run.Damaged, match=r"split\.json does not hold what was written"):
        run.existing(tmp_path / "split.json")
    (tmp_path / "split.json").write_text('{"by": ')
    with pytest.raises(run.Damaged, match=r"split\.json is damaged"):
        run.existing(tmp_path / "split.json")
