"""Flags in every spelling that argparse takes: none is taken and then left out in silence."""

import pytest

import step5_evaluate
from lib.commands import cli, compare, sweep
from lib.core.errors import Stop


@pytest.mark.parametrize(
    "number, words, room",
    [
        (4, ("--sweep=lora.rank=2,3",), sweep),
        (5, ("--compare=r",), compare),
    ],
)
def test_a_flag_with_its_value_behind_an_equals_sign_is_the_same_flag(step, prepared, monkeypatch, number, words, room):
    """The step ran as if the flag were not there."""
    prepared("train.epochs=1", last=4)
    monkeypatch.setattr(room, "main", lambda given: 7)
    assert step(number, "--run", "r", *words) == 7


@pytest.mark.parametrize("number, short", [(4, "--swee"), (4, "--forc"), (5, "--compar")])
def test_flags_are_written_out(step, prepared, capsys, number, short):
    """Some are looked for among the words themselves, where a short form was not seen."""
    prepared("train.epochs=1", last=4)
    assert step(number, "--run", "r", short, *(() if short == "--forc" else ("r",))) == 2
    assert f"unrecognized arguments: {short}" in capsys.readouterr().err


def test_a_root_behind_an_equals_sign_is_in_the_command_to_go_on(monkeypatch):
    monkeypatch.setattr("sys.argv", ["step4_train.py", "--root=a b"])
    assert cli.of_this_run(Stop("gone", "python step2_download.py"), "r").command.endswith("--run r --root 'a b'")


def test_the_command_to_go_on_with_a_sweep_can_be_typed(monkeypatch, capsys, tmp_path):
    words = ["--sweep", "lora.full=['a b'],[c]", "--run", "r", "--root", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["step4_train.py", *words])
    monkeypatch.setattr(sweep, "run_child", lambda command, clock: 75)
    assert sweep.main(words) == 75
    assert "python step4_train.py --sweep 'lora.full=['\"'\"'a b'\"'\"'],[c]' --run r" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--root", "--inputs", "--out"])
def test_the_tilde_of_a_folder_is_the_users_home(flag, monkeypatch, tmp_path):
    """Behind an equals sign no shell replaces it, and a folder called ~ was made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["step5_evaluate.py", f"{flag}=~/there", *(["--predict", "x"] * (flag == "--out"))])
    found = getattr(cli.parse(5, step5_evaluate.add_flags), flag.lstrip("-"))
    assert found in (tmp_path / "there", [tmp_path / "there"])
