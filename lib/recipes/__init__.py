"""The table of recipes, and how one is loaded.

A recipe is a package here or anywhere on disk (`--recipe path/to/folder`). What it must hold is stated in
lib.core.contract; README.md beside this file shows how to write one. Nothing here imports torch: `--plan` must answer
in half a second.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from lib.core import code
from lib.core.contract import FACE, Recipe
from lib.core.errors import Stop, nearest
from lib.core.run import read_record

RECIPES = ("vggt_eth3d", "da3_eth3d", "hamer", "vavae_microdoppler", "llava_map")  # the first one is the default

STATED = {
    name: tuple(inspect.signature(member).parameters)[1:]
    for name, member in vars(Recipe).items()
    if callable(member) and not name.startswith("_") and name != "modules"
}
# The functions that a recipe need not have, and what answers for it.
DEFAULTS: dict[str, Callable[..., Any]] = {
    "comparison": lambda config, stage: "base",
    "stage_inputs": lambda config, stage, manifest, asset_dirs, earlier, cache, pause: None,
    "decide": lambda config, score: {},
    "base_limits": lambda config, stage, manifest: {},
    "propose": lambda config, parts, inputs, out, wishes: no_drafts(),
    "predict_scaled": lambda config, stage, parts, inputs, out, scale: no_scale(),
    "adopt": lambda config, given: no_imports(),
    "network": lambda config, stage, parts: next(iter(parts.modules.values())),
    "read_export": lambda config, stage, parts, folder: None,  # lib.api reads the one file itself
}


def no_drafts() -> None:
    raise Stop("this recipe drafts no labels", "leave --propose out")


def no_scale() -> None:
    raise Stop("predictions of this recipe have no free unit", "leave --scale out")


def no_imports() -> None:
    raise Stop("this recipe imports nothing that other programs made", "leave --import out")


def load(name: str) -> Recipe:
    """The recipe of this name, or of this folder, compared with the contract.

    Stop: no such recipe (the nearest name is given), or what of the contract is missing, misspelt or has other
    parameters.
    """
    package = import_folder(Path(name)) if is_folder(name) else import_listed(name)
    return cast(Recipe, Loaded(package))


def find(root: Path, name: str) -> Recipe:
    """`load` for someone who works below `root`: a recipe of their own is known there by name since its first run."""
    if name in RECIPES or is_folder(name):
        return load(name)
    again = "say where the recipe lies: python step1_setup.py --recipe path/to/folder --run NAME"
    own = read_record(root / "places.json", again) or {}
    return load(own.get(f"recipe/{name}", name))


def is_folder(name: str) -> bool:
    return "/" in name or (name not in RECIPES and (Path(name) / "__init__.py").is_file())


def import_listed(name: str) -> ModuleType:
    if name not in RECIPES:
        raise Stop(f"unknown recipe {name!r}: {nearest(name, RECIPES)}", "python step1_setup.py --list")
    return importlib.import_module(f"{__name__}.{name}")


def import_folder(folder: Path) -> ModuleType:
    """A recipe outside this tree, as lib.recipes.<name of the folder>: its relative imports work wherever it lies."""
    face, name = folder.resolve() / "__init__.py", folder.resolve().name
    if not face.is_file():
        raise Stop(f"{folder} is not a recipe: it has no __init__.py", "see lib/recipes/README.md")
    if not name.isidentifier() or name in RECIPES:
        raise Stop(
            f"{name!r} cannot be the name of a recipe of your own",
            "rename the folder: letters, digits and _, and no name of --list",
        )
    full = f"{__name__}.{name}"
    if full in sys.modules and Path(str(sys.modules[full].__file__)) != face:
        for module in [module for module in sys.modules if f"{module}.".startswith(f"{full}.")]:
            del sys.modules[module]
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, face, submodule_search_locations=[str(face.parent)])
        assert spec and spec.loader
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
        setattr(sys.modules[__name__], name, sys.modules[full])
    return sys.modules[full]


class Loaded:
    """A recipe whose functions import their module when they are called.

    `FUNCTIONS` of the package is {module: "function function"}; a module "dit.samples" lies in a sub-folder. Where
    stages differ in kind it is {kind: {module: …}}, with what belongs to no stage under the kind "". A module
    "lib.scenes.samples" lies where it says, for what several recipes have in common.
    """

    def __init__(self, package: ModuleType):
        self.name = package.__name__.rpartition(".")[2]
        self.package, self.folder = package, Path(str(package.__file__)).parent
        for word in FACE:
            if not hasattr(package, word):
                raise Stop(f"the recipe {self.name} has no {word} ({self.where('')})", "see lib/recipes/README.md")
        self.where_of = locations(package.FUNCTIONS)
        self.refuse_other_than_stated()
        for word in FACE:
            setattr(self, word, getattr(package, word))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in STATED:
            raise AttributeError(name)
        return lambda *arguments: self.function(name, arguments)(*arguments)

    def function(self, name: str, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        """The recipe's own function for these arguments: of the kind of the stage among them."""
        kind = arguments[1].kind if "stage" in STATED[name] else ""
        module = self.where_of[name].get(kind) or self.where_of[name].get("")
        if module is None:
            if name in DEFAULTS:
                return DEFAULTS[name]
            raise Stop(
                f"the recipe {self.name} has no {name} for stages of kind {kind!r} ({self.where('')})",
                "see lib/recipes/README.md",
            )
        full = module if is_common(module) else f"{self.package.__name__}.{module}"
        return getattr(importlib.import_module(full), name)

    def modules(self, function: str) -> list[Path]:
        return [self.file(module) for module in self.where_of[function].values()]

    def file(self, module: str) -> Path:
        home = code.REPOSITORY if is_common(module) else self.folder
        return home / (module.replace(".", "/") + ".py")

    def where(self, module: str) -> str:
        return f"{'' if is_common(module) else f'{self.name}/'}{module.replace('.', '/') or '__init__'}.py"

    def refuse_other_than_stated(self) -> None:
        """Every function of the contract is in the table and defined where it says, with the stated parameters."""
        table = f"FUNCTIONS of the recipe {self.name}"
        for name in self.where_of:
            if name not in STATED:
                raise other(f"{table} names {name!r}, which is not in the contract: {nearest(name, STATED)}")
        for name in STATED:
            if name not in self.where_of and name not in DEFAULTS:
                raise other(f"{table} does not say where {name} is ({self.where('')})")
            for module in self.where_of.get(name, {}).values():
                self.refuse_other_parameters(name, module)
        for name in DEFAULTS:
            self.where_of.setdefault(name, {})

    def refuse_other_parameters(self, name: str, module: str) -> None:
        found, stated = parameters_of(self.file(module), name), STATED[name]
        if found is None:
            raise other(f"the recipe {self.name} has no {name}: {self.where(module)} does not define it")
        if found != stated:
            taken = f"{name} in {self.where(module)} takes ({', '.join(found)})"
            raise other(f"{taken}, and the contract says ({', '.join(stated)})")


def is_common(module: str) -> bool:
    return module.startswith("lib.")


def other(cause: str) -> Stop:
    """A package that is not what the contract says."""
    return Stop(cause, "see lib/core/contract.py")


def locations(functions: dict[str, Any]) -> dict[str, dict[str, str]]:
    """function -> {kind: module}, from the table of a package's face."""
    tables = functions if all(isinstance(table, dict) for table in functions.values()) else {"": functions}
    found: dict[str, dict[str, str]] = {}
    for kind, table in tables.items():
        for module, names in table.items():
            for name in names.split():
                found.setdefault(name, {})[kind] = module
    return found


def parameters_of(file: Path, function: str) -> tuple[str, ...] | None:
    """The names of a function's parameters, from the source alone; None where the file does not define it."""
    source = file.read_text(encoding="utf-8") if file.is_file() else ""
    head = re.search(rf"^def {function}\((.*?)\)(?: *->[^:]+)?:\s", source, re.MULTILINE | re.DOTALL)
    if not head:
        return None
    [made] = ast.parse(f"def {function}({head[1]}): ...").body
    assert isinstance(made, ast.FunctionDef)
    return tuple(argument.arg for argument in (*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs))
