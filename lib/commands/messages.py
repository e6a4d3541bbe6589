"""What a message means: every sentence that the code can stop with, found by its words.

    python -m lib.commands.messages "the run mine was made with other settings"

The list is read off the code when it is asked for, so that no page of it can be out of date.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.core.code import REPOSITORY
from lib.core.errors import DONE, USAGE

STOPS = ("Stop", "Damaged", "Unreadable")
GAP = "…"  # what is filled in when the message is printed
SHOWN = 5
BLOCKS = ("body", "orelse", "finalbody")
LEAST_LETTERS = 4  # of a fragment that says something


class Message(NamedTuple):
    """A sentence and what it advises, with GAP where values go; the file and line that say it."""

    cause: str
    advice: str
    place: str

    @property
    def fragments(self) -> list[str]:
        return [part.strip() for part in self.cause.split(GAP) if len(part.strip()) >= LEAST_LETTERS]


def main(words: list[str]) -> int:
    """Prints the messages that fit best. Exit code 2 where none does."""
    asked = " ".join(words).removeprefix("error:").strip()
    best = found(asked)[:SHOWN]
    for one in best:
        print(f"{one.cause}\n   go on with: {one.advice or 'what the message names'}\n   said in {one.place}")
    if not best:
        print("no message of this program has these words", file=sys.stderr)
    return DONE if best else USAGE


def found(asked: str) -> list[Message]:
    """The messages that could have been printed as `asked`, the longest first; else those that share words with it."""
    known = everything()
    fitting = [one for one in known if fits(one, asked)]
    if fitting:
        return sorted(fitting, key=lambda one: -sum(map(len, one.fragments)))
    wanted = set(re.findall(r"\w{3,}", asked.lower()))
    shared = {one: len(wanted & set(re.findall(r"\w{3,}", one.cause.lower()))) for one in known}
    return sorted((one for one in known if wanted and shared[one] * 2 >= len(wanted)), key=lambda one: -shared[one])


def fits(message: Message, asked: str) -> bool:
    """Do the fragments stand in the text, in their order?"""
    at = 0
    for part in message.fragments:
        at = asked.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at > 0


@functools.cache
def everything() -> tuple[Message, ...]:
    return tuple(dict.fromkeys(read_off_the_code()))


def read_off_the_code() -> Iterator[Message]:
    for file in [*sorted((REPOSITORY / "lib").rglob("*.py")), *sorted(REPOSITORY.glob("step*.py"))]:
        yield from messages_of(file)


def messages_of(file: Path) -> Iterator[Message]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    name = file.relative_to(REPOSITORY).as_posix()
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)]:
        inside = list(own_nodes(function))
        for call in inside:
            if isinstance(call, ast.Call) and called(call) in STOPS and call.args:
                there = seen_from(call, [function, *inside])
                advice = next(iter(texts(call.args[1], there)), "") if len(call.args) > 1 else ""
                for cause in texts(call.args[0], there):
                    if cause.replace(GAP, "").strip():
                        yield Message(cause, advice, f"{name}:{call.lineno}")


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What lies in a function and not in one inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child
            yield from own_nodes(child)


def seen_from(call: ast.Call, nodes: list[ast.AST]) -> list[ast.AST]:
    """The nodes of a function without assignments that one right before the call, in its own block, makes void."""
    blocks = [block for node in nodes for name in BLOCKS if isinstance(block := getattr(node, name, None), list)]
    around = [block for block in blocks if block and block[0].lineno <= call.lineno <= block[-1].end_lineno]
    block = min(around, key=lambda block: block[-1].end_lineno - block[0].lineno, default=[])
    last = {names_of(one)[0]: one.lineno for one in block if isinstance(one, ast.Assign) and one.lineno < call.lineno}

    def counts(one: ast.Assign) -> bool:
        name = names_of(one)[0]
        return name not in last or last[name] <= one.lineno <= call.lineno

    return [node for node in nodes if not isinstance(node, ast.Assign) or counts(node)]


def called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def texts(node: ast.AST, inside: list[ast.AST], deep: int = 0) -> list[str]:
    """The texts that an expression may be, with GAP for what only a running program knows."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            more = texts(part.value if isinstance(part, ast.FormattedValue) else part, inside, deep + 1)
            found = [before + after for before in found for after in more][:8]
        return found
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        ends = texts(node.right, inside, deep)
        return [before + after for before in texts(node.left, inside, deep) for after in ends][:8]
    if isinstance(node, ast.IfExp):
        return texts(node.body, inside, deep) + texts(node.orelse, inside, deep)
    if isinstance(node, ast.Name) and deep < 3:
        said = [one.value for one in inside if isinstance(one, ast.Assign) and names_of(one) == [node.id]]
        return [text for value in said for text in texts(value, inside, deep + 1)] or [GAP]
    return [GAP]


def names_of(assignment: ast.Assign) -> list[str]:
    return [getattr(target, "id", "") for target in assignment.targets]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
