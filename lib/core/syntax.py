"""What one file of Python says about itself, read off its syntax tree: nothing is imported or run."""

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.core.contract import Recipe

WHOLE = "*"  # stands for every field of a section
PRINTED = ("plan", "summarise_data", "describe", "modules")  # functions of a recipe whose answer is only shown


@dataclass(frozen=True)
class Source:
    """What one file says: what it imports and calls, which settings it reads, which files it names."""

    imports: tuple[str, ...]  # dotted names; some are attributes of a module rather than modules
    calls: frozenset[str]  # of the contract
    chains: frozenset[tuple[str, str]]  # (owner, attribute) of every `owner.attribute`
    # (local name, what it stands for: a section of the settings, or the name of its class)
    aliases: frozenset[tuple[str, str]]
    # methods of dataclasses, each with the chains that count once its name is read
    methods: tuple[tuple[str, frozenset[tuple[str, str]]], ...]
    words: frozenset[str]  # string constants that may name a file
    tree_hash: str  # of the syntax tree, without docstrings; comments and layout are not in it


def source(file: Path) -> Source:
    status = file.stat()
    return read(file, status.st_mtime_ns, status.st_size)


@functools.cache
def read(file: Path, changed_ns: int, size: int) -> Source:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = list(methods_of_dataclasses(tree))
    skipped = {id(part) for method, _ in inner for part in ast.walk(method)}
    outside = [node for node in ast.walk(tree) if id(node) not in skipped]
    checks = {id(part) for method, _ in inner if is_check(method) for part in ast.walk(method)}
    behind = [node for node in ast.walk(tree) if id(node) not in checks]
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return Source(
        imports=tuple(dict.fromkeys(imported(behind, package_of(file)))),
        calls=frozenset(calls(tree)),
        chains=frozenset(chains(outside)),
        aliases=frozenset(aliases(tree)),
        methods=tuple((method.name, found) for method, found in inner if not is_check(method)),
        words=frozenset(
            word for word in strings if re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)*", word) and ".." not in word
        ),
        tree_hash=tree_hash(tree),
    )


def package_of(file: Path) -> list[str]:
    """The dotted package that relative imports of the file start from; it ends at the top folder with a face."""
    names: list[str] = []
    folder = file.parent
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return names if names[:1] == ["lib"] else ["lib", "recipes", *names]


def imported(nodes: Iterable[ast.AST], package: list[str]) -> Iterator[str]:
    """Dotted names of everything that is imported anywhere in the file, by a statement or by import_module("…")."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                level = len(name.value) - len(name.value.lstrip("."))
                start = package[: len(package) - level + 1] if level else []
                yield ".".join([*start, name.value.lstrip(".")])


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def calls(tree: ast.Module) -> Iterator[str]:
    """The recipe's functions that the file names: `recipe.build`, `job.recipe.build`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and owner(node) == "recipe"
            and callable(getattr(Recipe, node.attr, None))
            and node.attr not in PRINTED
        ):
            yield node.attr


def chains(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """(owner, attribute) of every attribute, also of getattr(owner, "attribute"); vars(owner) and asdict(owner) read
    WHOLE.
    """
    for node in nodes:
        if isinstance(node, ast.Attribute):
            yield owner(node), node.attr
        elif isinstance(node, ast.Call) and called(node) == "getattr" and isinstance(node.args[1], ast.Constant):
            yield last_name(node.args[0]), str(node.args[1].value)
        elif isinstance(node, ast.Call) and called(node) in ("vars", "asdict") and node.args:
            yield last_name(node.args[0]), WHOLE


def owner(node: ast.Attribute) -> str:
    return last_name(node.value)


def last_name(node: ast.AST) -> str:
    """`data` of `data`, of `self.config.data` and of `data(config)`; "" of anything else."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Local names of sections.

    `settings = config.data`, `def f(settings: DataConfig)` and `def settings(config): return config.data` make some.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from pairs(target, node.value)
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else last_name(node.target)
            yield from ((name, last_name(part)) for part in ast.walk(node.annotation) if last_name(part))
        elif isinstance(node, ast.FunctionDef):
            given = [part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value]
            annotated = list(ast.walk(node.returns)) if node.returns else []
            yield from ((node.name, last_name(part)) for part in (*given, *annotated) if last_name(part))


def pairs(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=False):
            yield from pairs(one, other)
    elif last_name(target) and last_name(value):
        yield last_name(target), last_name(value)


def is_check(method: ast.FunctionDef) -> bool:
    """Refusing a setting moves no number, so what a check reads or imports does not count."""
    return method.name == "__post_init__" or method.name.startswith("check_")


def methods_of_dataclasses(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, frozenset[tuple[str, str]]]]:
    """Methods of dataclasses with what they read; `self` stands for the class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    found = chains(ast.walk(method))
                    yield method, frozenset((node.name if one == "self" else one, name) for one, name in found)


def tree_hash(tree: ast.Module) -> str:
    """The hash of a syntax tree, from which this takes the docstrings out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and has_docstring(node):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None
