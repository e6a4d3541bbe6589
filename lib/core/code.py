"""Which code and which settings an output was made from, read off the code itself.

The code of a step is what its script imports and the functions of the recipe that are called on the way, followed
through every form of import to the end. A module counts unless SILENT lists it, so a new one counts by itself. A
setting is read where these modules name it: `config.data.noise`, or `data.noise` where `data` is that section. Nothing
here is imported or run.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lib.core.contract import Recipe
from lib.core.syntax import WHOLE, Source, package_of, source

REPOSITORY = Path(__file__).resolve().parents[2]

# Modules (or rooms) that move no number of a step's output, and why. Tests state for each module what it makes stale.
SILENT = {
    "lib/commands/": "flags, tables and the notebook's cells",
    "lib/core/ahead.py": "when something is made moves nothing",
    "lib/core/code.py": "finds out what an output was made from",
    "lib/core/config.py": "the settings are compared one by one",
    "lib/core/errors.py": "words and exit codes",
    "lib/core/group.py": "refuses, and says who is gone",
    "lib/core/hashes.py": "a memo of hashes that are compared themselves",
    "lib/core/install.py": "packages; their versions are in run.json",
    "lib/core/job.py": "hands settings and clock to a step",
    "lib/core/machine.py": "what it chooses is in run.json",
    "lib/core/names_elsewhere.py": "words of error messages",
    "lib/core/progress.py": "prints",
    "lib/core/run.py": "paths and atomic writes",
    "lib/core/shared.py": "one process after another",
    "lib/core/session.py": "clock and signals; when a run pauses moves nothing",
    "lib/core/steps.py": "states and stamps",
    "lib/core/syntax.py": "finds out what an output was made from",
    "lib/core/words.py": "counts with their nouns",
    "lib/data/archives.py": "every file that it unpacks is known by its hash",
    "lib/data/assets.py": "every file that it brings is known by its hash",
    "lib/data/find.py": "every file that it finds is known by its hash",
    "lib/data/hub.py": "every file that it fetches is known by its hash",
    "lib/data/hub_refusals.py": "words of error messages",
    "lib/data/places.py": "every file that it finds is known by its hash",
    "lib/data/prepared.py": "compares hashes",
    "lib/data/recognise.py": "compares hashes",
    "lib/evaluation/board.py": "shows scores.json in TensorBoard",
    "lib/evaluation/card.py": "words beside an export",
    "lib/evaluation/curves.py": "draws",
    "lib/evaluation/deliver.py": "what --predict and --export write is not an output of step 5",
    "lib/evaluation/experiment.py": "lays out scores.json",
    "lib/evaluation/fonts.py": "in which type figures are drawn",
    "lib/evaluation/origin.py": "date, commit and licences move nothing",
    "lib/evaluation/plots.py": "draws",
    "lib/evaluation/report.py": "lays out scores.json",
    "lib/network/layers.py": "lays out what is trained",
    "lib/network/anomaly.py": "names the module that made a bad number",
    "lib/recipes/__init__.py": "the table of recipes",
    "lib/core/footprint.py": "estimates memory",
}


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
