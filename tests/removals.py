"""Where a guard stands in the code, and the code without it: its body or one of its calls, found by `ast`.

A guard is named as lib.network.audit:refuse_moved, or lib.core.session:Clock.__init__. What is removed:

- body: the body of a guard that returns nothing becomes `pass`;
- refusal: a guard that also computes something must go on computing, so each `raise` in it becomes `pass`, one at a
  time;
- untouched: a guard without a `raise` that returns what one of its parameters is returns that argument as it came;
- always True, always False: a guard that answers yes or no, both ways;
- call: a call that is a statement becomes `pass`; a context manager becomes one that does nothing; within an expression
  stands the argument that has the type of the answer, None where the guard returns nothing, True and False for yes or
  no.

A call whose value is needed and cannot be replaced so is no removal: without the value the code breaks by itself, which
would prove nothing of the guard. A guard that is handed on as a value (to `map`, say) is replaced by one that returns
its first argument.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Removal(NamedTuple):
    """`file` with the bytes from `start` to `end` replaced by `text`."""

    guard: str
    what: str
    file: str  # relative to the repository
    line: int
    edits: tuple[tuple[int, int, str], ...]

    @property
    def name(self) -> str:
        return f"{self.guard} {self.what} {self.file}:{self.line}"

    def applied(self, content: bytes) -> bytes:
        for start, end, text in sorted(self.edits, reverse=True):
            content = content[:start] + text.encode() + content[end:]
        return content


def removals(guard: str) -> list[Removal]:
    """Every removal of a guard. LookupError: there is no such function."""
    module, _, path = guard.partition(":")
    file = file_of(module)
    function = find(tree(file), path)
    found = list(of_body(guard, file, function))
    for caller in sources(ROOT):
        found += of_calls(guard, caller, function, names_of(caller, module, path))
    return found


@functools.cache
def sources(root: Path) -> list[Path]:
    return [*sorted((root / "lib").rglob("*.py")), *sorted(root.glob("step*.py"))]


def file_of(module: str) -> Path:
    below = ROOT.joinpath(*module.split("."))
    file = below / "__init__.py" if below.is_dir() else below.with_name(below.name + ".py")
    if not file.is_file():
        raise LookupError(f"there is no module {module}")
    return file


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


@functools.cache
def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(tree(file)))


@functools.cache
def owners(file: Path) -> dict[ast.AST, ast.AST]:
    """Node -> the node that it stands in."""
    return {child: node for node in nodes(file) for child in ast.iter_child_nodes(node)}


@functools.cache
def words(file: Path) -> dict[str, list[ast.Name | ast.Attribute]]:
    """Last name -> the places where it is written, in the order of the file."""
    found: dict[str, list[ast.Name | ast.Attribute]] = {}
    for node in nodes(file):
        if isinstance(node, ast.Name | ast.Attribute):
            found.setdefault(node.id if isinstance(node, ast.Name) else node.attr, []).append(node)
    return found


def find(module: ast.Module, path: str) -> Function:
    body: list[ast.stmt] = module.body
    for name in path.split("."):
        node = next((one for one in body if getattr(one, "name", "") == name), None)
        if node is None:
            raise LookupError(f"there is no {path}")
        body = getattr(node, "body", [])
    if not isinstance(node, Function):
        raise LookupError(f"{path} is no function")
    return node


# ---------------------------------------------------------------------------------------------- the body


def of_body(guard: str, file: Path, function: Function) -> Iterator[Removal]:
    first = function.body[1] if ast.get_docstring(function) is not None else function.body[0]
    whole = (*span(file, first), *span(file, function.body[-1]))
    raised = [node for node in within(function) if isinstance(node, ast.Raise) and node.exc]

    def removal(what: str, text: str) -> Removal:
        return Removal(guard, what, label(file), first.lineno, ((whole[0], whole[3], text),))

    if answers(function) == "bool":
        yield from (removal(f"always {value}", f"return {value}") for value in (True, False))
    elif returns_nothing(function):
        yield removal("body", "pass")
    elif raised:
        for node in raised:
            yield Removal(guard, "refusal", label(file), node.lineno, ((*span(file, node), "pass"),))
    elif same := same_parameter(function):
        yield removal("untouched", f"return {same[1]}")
    else:
        raise LookupError(f"{guard} refuses nothing and returns what none of its parameters is")


def within(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function and of the functions in it."""
    return (node for statement in function.body for node in ast.walk(statement))


def answers(function: Function) -> str:
    return ast.unparse(function.returns) if function.returns else "None"


def returns_nothing(function: Function) -> bool:
    generates = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in within(function))
    return answers(function) == "None" and not generates


def same_parameter(function: Function) -> tuple[int, str] | None:
    """Place and name of the first parameter that has the type of the answer."""
    for place, one in enumerate(parameters(function)):
        if one.annotation is not None and ast.unparse(one.annotation) == answers(function):
            return place, one.arg
    return None


def parameters(function: Function) -> list[ast.arg]:
    return [one for one in function.args.args if one.arg not in ("self", "cls")]


# ---------------------------------------------------------------------------------------------- the calls


def names_of(file: Path, module: str, path: str) -> set[str]:
    """How a file may write the guard: its own name, an imported one, module.name.

    A method is known by its last name, where its class may be known; __init__ and the like are called by Python.
    """
    if "." in path:
        method = path.rpartition(".")[2]
        known = file == file_of(module) or module in dict(imports(file))
        return {f".{method}"} if known and not method.startswith("__") else set()
    names = {path} if file == file_of(module) else set()
    for imported, written in imports(file):
        if imported == module:
            names.add(f"{written}.{path}")
        elif imported == f"{module}.{path}":
            names.add(written)
    return names


@functools.cache
def imports(file: Path) -> set[tuple[str, str]]:
    """(full name, how the file calls it) of what it imports."""
    found = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {(one.name, one.asname or one.name) for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = absolute(file, node)
            found |= {(home, home)} | {(f"{home}.{one.name}", one.asname or one.name) for one in node.names}
    return found


def absolute(file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = file.relative_to(ROOT).parent.parts
    home = package[: len(package) - node.level + 1]
    return ".".join((*home, *((node.module,) if node.module else ())))


def of_calls(guard: str, file: Path, function: Function, names: set[str]) -> Iterator[Removal]:
    above, last = owners(file), {name.rpartition(".")[2] for name in names}
    for node in (node for name in sorted(last) for node in words(file).get(name, ())):
        if not is_guard(node, names) or is_local(node, above):
            continue
        parent = above.get(node)
        if isinstance(parent, ast.Call) and parent.func is node:
            for replaced, text in without_call(parent, above[parent], function):
                what = f"call {text}" if text in ("True", "False") else "call"
                yield Removal(guard, what, label(file), node.lineno, ((*span(file, replaced), text),))
        elif isinstance(node.ctx, ast.Load) and not isinstance(parent, ast.Attribute):
            passed = "(lambda *given, **named: given[0] if given else None)"
            yield Removal(guard, "handed on", label(file), node.lineno, ((*span(file, node), passed),))


def is_guard(node: ast.Name | ast.Attribute, names: set[str]) -> bool:
    written = ast.unparse(node)
    return written in names or (isinstance(node, ast.Attribute) and f".{node.attr}" in names)


def is_local(node: ast.AST, above: dict[ast.AST, ast.AST]) -> bool:
    """Does a function round it bind the same name to something else?"""
    around: ast.AST | None = node
    while around is not None:
        if isinstance(around, Function) and isinstance(node, ast.Name) and node.id in bound(around):
            return True
        around = above.get(around)
    return False


@functools.cache
def bound(function: Function) -> set[str]:
    """The names of a function's parameters and of what it assigns."""
    stored = {one.id for one in ast.walk(function) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return stored | {one.arg for one in ast.walk(function) if isinstance(one, ast.arg)}


def without_call(call: ast.Call, parent: ast.AST, function: Function) -> Iterator[tuple[ast.AST, str]]:
    if isinstance(parent, ast.Expr):
        yield parent, "pass"
    elif isinstance(parent, ast.withitem):
        if parent.optional_vars is None:
            yield call, "__import__('contextlib').nullcontext()"
    elif answers(function) == "bool":
        yield from ((call, str(value)) for value in (True, False))
    elif returns_nothing(function):
        yield call, "None"
    elif same := same_parameter(function):
        given = {one.arg: one.value for one in call.keywords}
        argument = call.args[same[0]] if same[0] < len(call.args) else given.get(same[1])
        if argument is not None and not isinstance(argument, ast.Starred):
            yield call, f"({ast.unparse(argument)})"


# ---------------------------------------------------------------------------------------------- places in a file


def label(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def span(file: Path, node: ast.AST) -> tuple[int, int]:
    """First byte of a node, and the one after its last."""
    starts = line_starts(file)
    assert isinstance(node, ast.stmt | ast.expr) and node.end_lineno and node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


@functools.cache
def line_starts(file: Path) -> list[int]:
    starts = [0]
    for line in file.read_bytes().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts
