"""Every sentence that the code can stop with is found by its words, whatever values stand in it."""

import ast

from lib.commands import messages


def test_every_message_is_found_as_it_is_printed():
    known = messages.everything()
    assert len(known) > 300
    for one in known:
        printed = one.cause.replace(messages.GAP, "x7")
        if one.fragments:
            assert any(other.cause == one.cause for other in messages.found(printed)), one


def test_no_stop_of_the_code_is_left_out():
    """A Stop whose sentence is made elsewhere (stop.cause, a function) is the only kind without a text."""
    calls = texts = 0
    for file in (messages.REPOSITORY / "lib").rglob("*.py"):
        found = {message.place for message in messages.messages_of(file)}
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and messages.called(node) in messages.STOPS and node.args:
                calls += 1
                place = f"{file.relative_to(messages.REPOSITORY).as_posix()}:{node.lineno}"
                texts += place in found
                said = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
                if any(isinstance(part, ast.Constant) and part.value.strip() for part in said):
                    assert place in found, place
    assert texts > 0.95 * calls


def test_a_printed_message_shows_what_to_do(capsys):
    assert messages.main(["error: --predict needs --out DIR"]) == 0
    assert "step5_evaluate.py" in capsys.readouterr().out
    assert messages.main(["qqqq zzzz"]) == 2


def test_advice_is_that_of_the_sentence_where_a_function_has_several(tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "REPOSITORY", tmp_path)
    lines = (
        "def f(a):", "    if a:", "        cause = 'the first'", "        raise Stop(cause, 'one')",
        "    cause = 'the second'", "    if not a:", "        cause = 'the third'", "    raise Stop(cause, 'two')",
    )  # fmt: skip
    (tmp_path / "f.py").write_text("\n".join(lines))
    found = {(one.cause, one.advice) for one in messages.messages_of(tmp_path / "f.py")}
    assert found == {("the first", "one"), ("the second", "two"), ("the third", "two")}


def test_a_few_words_find_what_shares_them():
    assert any("gated" in one.cause for one in messages.found("gated licence accepted"))
