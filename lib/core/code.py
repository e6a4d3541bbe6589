"""Which code and which settings an output was made from, read off the code itself.

The code of a step is what its script imports and the functions of the recipe that are called on the way, followed
through every form of import to the end. A module counts unless SILENT lists it, so a new one counts by itself. A
setting is read where these modules name it: `config.data.noise`, or `data.noise` where `data` is that section. Nothing
here is imported or run.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.contract import Recipe

REPOSITORY = Path(__file__).resolve().parents[2]
WHOLE = "*"  # stands for every field of a section
PRINTED = ("plan", "summarise_data", "describe", "modules")  # functions of a recipe whose answer is only shown

# Modules (or rooms) that move no number of a step's output, and why. Tests state for each module what it makes stale.
SILENT = {
    "lib/commands/": "flags, tables and the notebook's cells",
    "lib/core/code.py": "finds out what an output was made from",
    "lib/core/config.py": "the settings are compared one by one",
    "lib/core/errors.py": "words and exit codes",
    "lib/core/hashes.py": "a memo of hashes that are compared themselves",
    "lib/core/install.py": "packages; their versions are in run.json",
    "lib/core/job.py": "hands settings and clock to a step",
    "lib/core/machine.py": "what it chooses is in run.json",
    "lib/core/progress.py": "prints",
    "lib/core/run.py": "paths and atomic writes",
    "lib/core/session.py": "clock and signals; when a run pauses moves nothing",
    "lib/core/steps.py": "states and stamps",
    "lib/core/words.py": "counts with their nouns",
    "lib/data/archives.py": "every file that it unpacks is known by its hash",
    "lib/data/assets.py": "every file that it brings is known by its hash",
    "lib/data/find.py": "every file that it finds is known by its hash",
    "lib/data/hub.py": "every file that it fetches is known by its hash",
    "lib/data/places.py": "every file that it finds is known by its hash",
    "lib/data/recognise.py": "compares hashes",
    "lib/evaluation/deliver.py": "what --predict and --export write is not an output of step 5",
    "lib/evaluation/plots.py": "draws",
    "lib/evaluation/report.py": "lays out scores.json",
    "lib/network/anomaly.py": "names the module that made a bad number",
    "lib/recipes/__init__.py": "the table of recipes",
}


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


def of_step(step_script: Path, recipe: Recipe) -> list[Path]:
    """Every module behind a step, in the order of their names."""
    return closure(recipe, starts(recipe, source(step_script)))


def closure(recipe: Recipe, start: Iterable[Path]) -> list[Path]:
    """The files `start` and all that they import or call of the recipe, without what is SILENT."""
    found: set[Path] = set()
    waiting = list(start)
    while waiting:
        file = waiting.pop()
        if file not in found and not label(recipe, file).startswith(tuple(SILENT)):
            found.add(file)
            waiting += starts(recipe, source(file))
    return sorted(found)


def starts(recipe: Recipe, of: Source) -> Iterator[Path]:
    for dotted in of.imports:
        yield from files_of(recipe, dotted)
    for function in of.calls:
        for file in recipe.modules(function):
            yield from files_of(recipe, label(recipe, file).removesuffix(".py").replace("/", "."))


def files_of(recipe: Recipe, dotted: str) -> Iterator[Path]:
    """The file of a module and the faces (`__init__.py`) of the packages it lies in; nothing for a foreign module."""
    names = dotted.split(".")
    if names[0] != "lib":
        return
    for count in range(1, len(names) + 1):
        folder = place(recipe, names[:count])
        for file in (folder / "__init__.py", folder.with_name(folder.name + ".py")):
            if file.is_file():
                yield file


def place(recipe: Recipe, names: list[str]) -> Path:
    """Where a dotted name lies; a recipe that the user wrote lies in its own folder."""
    for home in (["lib", "recipes", recipe.name], package_of(recipe.folder / "__init__.py")):
        if names[: len(home)] == home:
            return recipe.folder.joinpath(*names[len(home) :])
    return REPOSITORY.joinpath(*names)


def label(recipe: Recipe, file: Path) -> str:
    """lib/recipes/<name>/model.py, also for a recipe that lies elsewhere: the same on every machine."""
    if file.is_relative_to(recipe.folder):
        return f"lib/recipes/{recipe.name}/{file.relative_to(recipe.folder).as_posix()}"
    return file.relative_to(REPOSITORY).as_posix()


# ---------------------------------------------------------------------------------------------- hashes


def hashes(recipe: Recipe, modules: Iterable[Path]) -> dict[str, str]:
    """Label -> hash of every module, and of every file (weights, templates) that the modules name."""
    found = {}
    for file in modules:
        found[label(recipe, file)] = source(file).tree_hash
        found |= {label(recipe, named): raw_hash(named) for named in named_files(recipe, file)}
    return dict(sorted(found.items()))


def raw_hashes(recipe: Recipe, labels: Iterable[str]) -> dict[str, str]:
    """Label -> hash of the file's bytes, "" where it is gone. While these stay, no syntax tree need be read."""
    files = {name: place(recipe, name.split("/")) for name in labels}
    return {name: raw_hash(file) if file.is_file() else "" for name, file in files.items()}


def named_files(recipe: Recipe, file: Path) -> Iterator[Path]:
    """Files beside a module, or below lib/, that a string constant of the module names."""
    home = recipe.folder if file.is_relative_to(recipe.folder) else file.parent
    for word in source(file).words:
        for folder in dict.fromkeys((file.parent, home, REPOSITORY)):
            named = folder / word
            inside = named.is_relative_to(REPOSITORY / "lib") or named.is_relative_to(recipe.folder)
            if inside and named.exists() and not (named / "__init__.py").exists():
                below = sorted(named.rglob("*")) if named.is_dir() else [named]
                yield from (one for one in below if one.is_file() and one.suffix not in (".py", ".pyc"))


def raw_hash(file: Path) -> str:
    status = file.stat()
    return hash_of_bytes(file, status.st_mtime_ns, status.st_size)


@functools.cache
def hash_of_bytes(file: Path, changed_ns: int, size: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- settings


def settings_read(modules: Iterable[Path], config: Any) -> set[str]:
    """The dotted keys of the settings that the modules name."""
    sources = [source(file) for file in modules]
    names: dict[str, set[str]] = {}
    for one in sources:
        for alias, meaning in one.aliases:
            names.setdefault(meaning, set()).add(alias)
    chains = frozenset().union(*(one.chains for one in sources))
    methods = [method for one in sources for method in one.methods]
    while True:
        used = {attribute for _, attribute in chains}
        more = chains.union(*(inner for name, inner in methods if name in used))
        if more == chains:
            break
        chains = more
    found = set()
    for key, owners in owners_of(config).items():
        called_so = {name for owner in owners for name in (owner, *names.get(owner, ()))}
        if any((name, attribute) in chains for name in called_so for attribute in (key.rpartition(".")[2], WHOLE)):
            found.add(key)
    return found


def owners_of(config: Any, path: str = "") -> dict[str, tuple[str, ...]]:
    """Every dotted key, and what its owner may be called: the section, its class and the bases of the class, or `self`
    there.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, value in vars(config).items():
        section = path.rstrip(".").rpartition(".")[2]
        classes = tuple(base.__name__ for base in type(config).__mro__[:-1])
        if hasattr(type(value), "__dataclass_fields__"):
            found |= owners_of(value, f"{path}{name}.")
        else:
            found[path + name] = (section, *classes)
    return found


# ---------------------------------------------------------------------------------------------- one file


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
