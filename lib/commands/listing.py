"""--list: recipes, presets with what they cost, and every setting with its meaning, unit, choices and default.

Nothing of it is written down a second time: a meaning is the comment beside the field, what is allowed is what the
section's own checks say when they run, a unit is how the name ends. Torch-free, half a second.
"""

import argparse
import ast
import dataclasses
import difflib
import functools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib import recipes
from lib.commands import cost
from lib.core import config as configuration
from lib.core.contract import Recipe
from lib.core.errors import Stop
from lib.core.footprint import card_bytes

WIDTH, INDENT = 118, 8
# How a name ends -> its unit.
UNITS = {
    "_m_s": "m/s", "_px": "px", "_m": "m", "_s": "s", "_hz": "Hz", "_db": "dB", "_deg": "degrees", "_gb": "GB",
    "_minutes": "minutes", "_seconds": "s", "_epochs": "epochs", "_steps": "steps", "epochs": "epochs",
}  # fmt: skip

Table = dict[str, Any]


def of_recipes(args: argparse.Namespace) -> Table:
    """recipe -> {about, presets, settings}, of which every word of the command line is part. Stop: nothing is."""
    names = [args.recipe] if args.recipe else list(recipes.RECIPES)
    found = [recipes.find(args.root, name) for name in names]
    table = {recipe.name: of_recipe(recipe, args.preset, args.overrides) for recipe in found}
    whole = {name: entry for name, entry in table.items() if entry["presets"] or entry["settings"]}
    if not whole:
        known = [*table, *(key for one in found for key in configuration.leaves(one.Config))]
        close = difflib.get_close_matches(args.overrides[0], known, n=1, cutoff=0.4)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        cause = f"no setting and no preset has {' '.join(args.overrides)!r} in its name or meaning{guess}"
        raise Stop(cause, "python step1_setup.py --list")
    return whole


def of_recipe(recipe: Recipe, preset: str | None, words: list[str]) -> Table:
    if preset:
        configuration.one_of("--preset", preset, tuple(recipe.PRESETS))
    presets = [preset] if preset else list(recipe.PRESETS)
    return {
        "about": about(recipe),
        "presets": {
            name: of_preset(recipe, name) for name in presets if has(words, recipe.name, name, *recipe.PRESETS[name])
        },
        "settings": {
            key: one for key, one in settings(recipe).items() if has(words, recipe.name, key, one["meaning"])
        },
    }  # fmt: skip


def has(words: list[str], *texts: str) -> bool:
    """Is every word part of one of the texts?"""
    return all(any(word.lower() in text.lower() for text in texts) for word in words)


def about(recipe: Recipe) -> str:
    """The first paragraph of the recipe's own docstring."""
    doc = sys.modules[f"{recipes.__name__}.{recipe.name}"].__doc__ or ""
    return " ".join(doc.partition("\n\n")[0].split())


# ---------------------------------------------------------------------------------------------- presets


def of_preset(recipe: Recipe, name: str) -> Table:
    """What a preset sets, needs, takes and should show. The needs are those of its full size, not of the demo."""
    config = with_settings(recipe.Config(), recipe.PRESETS[name])
    plan = recipe.plan(config)
    brought = [asset for asset in cost.assets_of(recipe, config) or () if asset.kind in ("hub", "licensed", "folder")]
    return {
        "sets": {key: value for key, value in recipe.PRESETS[name].items() if value != default_of(recipe, key)},
        "trains": plan.trainable,
        "parameters": plan.parameters,
        "peak_bytes": card_bytes(plan.footprint) if plan.footprint else None,
        "brings": [asset.name for asset in brought],
        "hours": cost.hours(plan.pace) if plan.pace else None,
        "shows": recipe.EXPECTED.get(name, ""),
    }


def with_settings(config: Any, values: dict[str, Any]) -> Any:
    """The settings of a preset, checked. The recipe's own table needs none of the typing that a person's words need
    (`compose` takes 0.1 s for each preset).
    """
    for key, value in values.items():
        *sections, name = key.split(".")
        setattr(functools.reduce(getattr, sections, config), name, value)
    for part in (*filter(dataclasses.is_dataclass, vars(config).values()), config):
        getattr(part, "__post_init__", bool)()
    return config


@functools.cache
def defaults(kind: Any) -> dict[str, Any]:
    return configuration.to_dotted(kind())


def default_of(recipe: Recipe, key: str) -> Any:
    return defaults(recipe.Config).get(key)


# ---------------------------------------------------------------------------------------------- settings


def settings(recipe: Recipe) -> dict[str, Table]:
    """Dotted key -> {type, default, unit, allowed, meaning}."""
    types = configuration.leaves(recipe.Config)
    meaning, values = meanings(recipe.Config), defaults(recipe.Config)
    with configuration.listening() as heard:
        recipe.Config()
    return {
        key: {
            "type": types[key],
            "default": values[key],
            "unit": unit(key),
            "allowed": heard.get(key, "true | false" if types[key] == "bool" else ""),
            "meaning": meaning[key],
        }
        for key in types
    }


def unit(key: str) -> str:
    return next((word for ending, word in UNITS.items() if key.endswith(ending)), "")


def meanings(kind: Any) -> dict[str, str]:
    """Dotted key -> the comment beside the field, or above it; of an inherited field that of the class it is from."""
    found = {}
    for key, section, _ in configuration.walk(kind):
        said = (comments(base).get(key.rpartition(".")[2], "") for base in section.__mro__[:-1])
        found[key] = next(filter(None, said), "")
    return found


@functools.cache
def comments(kind: type) -> dict[str, str]:
    """Field -> the comment of its lines and of the comment lines directly above."""
    file = sys.modules[kind.__module__].__file__
    lines = Path(str(file)).read_text(encoding="utf-8").split("\n")
    [made] = [node for node in ast.parse("\n".join(lines)).body if getattr(node, "name", "") == kind.__name__]
    return {
        node.target.id: beside(lines, node)
        for node in getattr(made, "body", ())
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def beside(lines: list[str], node: ast.AnnAssign) -> str:
    first, last = node.lineno - 1, node.end_lineno or node.lineno
    above = first
    while above and lines[above - 1].lstrip().startswith("# "):
        above -= 1
    words = [line.strip().removeprefix("# ") for line in lines[above:first]]
    return " ".join(words + [line.partition("  # ")[2] for line in lines[first:last] if "  # " in line])


# ---------------------------------------------------------------------------------------------- lines


def lines(table: Table) -> Iterator[str]:
    """What --list prints."""
    for name, entry in table.items():
        yield from wrapped(f"{name}: {entry['about']}", 0)
        for preset, one in entry["presets"].items():
            yield f"  --preset {preset}"
            yield from (line for words in in_words(one) for line in wrapped(words, INDENT))
        for key, one in entry["settings"].items():
            yield f"    {key}={cost.shown(one['default'])}"
            facts = ", ".join(filter(None, (one["type"], one["unit"], one["allowed"])))
            yield from wrapped(f"{one['meaning']} [{facts}]", INDENT)


def in_words(preset: Table) -> Iterator[str]:
    yield "sets " + (" ".join(f"{key}={cost.shown(value)}" for key, value in preset["sets"].items()) or "the defaults")
    if preset["peak_bytes"]:
        size, trained = (
            preset["peak_bytes"] / 1e9,
            f"{preset['trains'] / 1e6:.1f} M of {preset['parameters'] / 1e6:.0f} M",
        )
        yield f"trains {trained} parameters; needs about {size:.1f} GB on one card, and {', '.join(preset['brings'])}"
    time = preset["hours"]
    yield (
        f"takes about {time['hours']:.1f} hours on one {time['card']} for {time['of']}"
        if time
        else "takes: nobody has measured such a training; step 4 shows the time left from its first steps"
    )
    yield f"should show: {preset['shows'] or 'not stated'}"


def wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2 * (not indent)),
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def page_table(recipe: Recipe) -> list[str]:
    """The costs of every preset as Markdown, for the recipe's own page; a test compares them."""
    rows = ["| preset | trained, of all parameters | one card (estimate) | hours (estimate) |", "|---|---|---|---|"]
    for name in recipe.PRESETS:
        one = of_preset(recipe, name)
        trained = (
            f"{one['trains'] / 1e6:.1f} M of {one['parameters'] / 1e6:.0f} M" if one["peak_bytes"] else "not known yet"
        )
        card = f"{one['peak_bytes'] / 1e9:.1f} GB" if one["peak_bytes"] else "not known yet"
        time = one["hours"]
        hours = f"{time['hours']:.1f} on one {time['card']}, {time['of']}" if time else "nobody has measured it"
        rows.append(f"| `{name}` | {trained} | {card} | {hours} |")
    return rows
