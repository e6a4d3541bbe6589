"""Names in any script are drawn, or it is said that they cannot be."""

import pytest

from lib.evaluation import fonts

CHINESE = "中文"


def test_matplotlibs_own_font_is_enough_for_latin_and_greek(capsys):
    import matplotlib

    with fonts.for_texts(["Außen δ scene_01"]):
        assert matplotlib.rcParams["font.family"] == [fonts.ALWAYS]
    assert not capsys.readouterr().out


def test_chinese_gets_an_installed_font_that_has_it(monkeypatch):
    import matplotlib

    monkeypatch.setattr(fonts, "has", lambda file, wanted: wanted if "STIXGeneral.ttf" in file else set())
    with fonts.for_texts([CHINESE]):
        assert matplotlib.rcParams["font.family"] == [fonts.ALWAYS, "STIXGeneral"]


@pytest.mark.filterwarnings("error")
def test_without_such_a_font_one_sentence_says_so_and_no_warning_does(monkeypatch, capsys, tmp_path):
    from matplotlib.figure import Figure

    monkeypatch.setattr(fonts, "family_with", lambda characters: "")
    with fonts.for_texts([CHINESE]):
        figure = Figure()
        figure.suptitle(CHINESE)
        figure.savefig(tmp_path / "a.png")
    assert capsys.readouterr().out.count("no installed font has") == 1
