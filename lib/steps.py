"""The four states of a step (absent, stale, paused, complete), fingerprints and stamps.

A stamp stores what a step was made from: the hashes of its inputs, the settings it reads, and the code that shapes its
output (syntax trees without comments and docstrings, so that a comment changes nothing). A step is stale when one of
these differs, and the state says which. Nothing here imports torch: `--plan` reads the states of all five steps.
"""
import ast
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lib import config as configuration
from lib.run import STEPS, Run, read_json, write_json

REPOSITORY = Path(__file__).resolve().parent.parent

# What each step reads of the settings and of lib's own code; a recipe adds its READS and CODE.
SETTINGS = {1: ("train.precision",), 2: (), 3: (), 4: ("model.", "data.", "loss.", "lora.", "train.", "eval.select_samples"), 5: ("eval.",)}
MODULES = {
    1: (), 2: (), 3: ("split",), 4: ("train", "state", "order", "adapters", "gradients", "prefix"), 5: ("score",),
}  # fmt: skip

# Settings that may change in the middle of a run: they move no sample and no noise.
FREE_SETTINGS = (
    "eval.checkpoint", "eval.resamples", "eval.figures", "eval.batch", "session.", "cache.", "train.epochs", "train.log_seconds", "train.workers",
    "train.checkpoint_", "train.keep_", "train.patience_evaluations", "train.stop_after_bad_steps",
)  # fmt: skip
# Of these, the ones that no step's output depends on.
SILENT_SETTINGS = ("session.", "cache.", "train.log_seconds", "train.workers", "train.checkpoint_", "train.keep_", "eval.batch")


@dataclass(frozen=True)
class State:
    """`word` is absent, stale, paused or complete; `reasons` say what changed; `progress` is {done, total, unit}."""

    word: str
    reasons: tuple[str, ...] = ()
    progress: dict[str, Any] | None = None

    def __str__(self) -> str:
        done = where(self.progress) if self.word == "paused" else ""
        return self.word + done + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def where(progress: dict[str, Any] | None) -> str:
    """' at 120 of 400 steps', for messages; a total of 0 is one that is not known yet."""
    if not progress:
        return ""
    total = f" of {progress['total']}" if progress["total"] else ""
    return f" at {progress['done']}{total} {progress['unit']}"


def state(run: Run, step: int, recipe: ModuleType, config: Any) -> State:
    """The state of one step under a configuration, with the reason where it is stale."""
    stamp = read_json(run.stamp(step))
    if stamp is None:
        return State("absent")
    reasons = differences(stamp["fingerprint"], fingerprint(run, step, recipe, config)) + lost_outputs(run, step, stamp)
    if reasons:
        return State("stale", tuple(reasons), stamp.get("progress"))
    return State(stamp["state"], (), stamp.get("progress"))


def fingerprint(run: Run, step: int, recipe: ModuleType, config: Any) -> dict[str, dict[str, Any]]:
    """What the step would be made from now: {inputs, config, code}."""
    reads = SETTINGS[step] + tuple(recipe.READS.get(step, ()))
    settings = {key: value for key, value in configuration.to_dotted(config).items() if key.startswith(reads) and not key.startswith(SILENT_SETTINGS)}
    return {"inputs": inputs(run, step, recipe, config), "config": settings, "code": code(step, recipe)}


def inputs(run: Run, step: int, recipe: ModuleType, config: Any) -> dict[str, str]:
    """Content hashes of what the step reads from disk."""
    if step == 1:
        return {"requirements.txt": file_hash(REPOSITORY / "requirements.txt")}
    if step == 2:
        return {asset.name: asset_hash(asset) for asset in recipe.assets(config)}
    files = {3: [run.assets], 4: [run.assets, run.manifest, run.split], 5: [run.manifest, *checkpoints(run)]}[step]
    return {str(file.relative_to(run.folder)): file_hash(file) for file in files}


def asset_hash(asset: Any) -> str:
    wanted = {key: value for key, value in vars(asset).items() if key not in ("stand_in", "how_to_get", "licence")}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True, default=str).encode()).hexdigest()


def checkpoints(run: Run) -> list[Path]:
    """The hash lists of the checkpoints that step 5 may score: the best and the last of each stage."""
    return sorted(run.folder.glob("train/*/step-*/sha256.json"))


def lost_outputs(run: Run, step: int, stamp: dict[str, Any]) -> list[str]:
    """Outputs that are gone: a deleted cache, a moved run folder. Rebuilding them is what makes a run portable."""
    lost = [f"{name} is missing" for name in stamp.get("outputs", []) if not (run.folder / name).exists() and not (run.root / name).exists()]
    return lost + (unplaced_assets(run) if step == 2 else [])


def unplaced_assets(run: Run) -> list[str]:
    """Assets that are not on this machine, because the run came from another one or a mount is gone."""
    recipe, known = (read_json(run.record) or {}).get("recipe", ""), read_json(run.places) or {}
    names = [made["name"] for made in read_json(run.assets) or []]
    where = {name: Path(known.get(f"{recipe}/{name}", run.data(recipe, name))) for name in names}
    return [f"the asset {name} is missing" for name, path in where.items() if not path.exists()]


def differences(old: dict[str, dict], new: dict[str, dict]) -> list[str]:
    """What changed, in words: the input, the setting with both values, or the file."""
    found = []
    for key in sorted(old["inputs"].keys() | new["inputs"].keys()):
        if old["inputs"].get(key) != new["inputs"].get(key):
            found.append(f"the input {key} changed")
    for key in sorted(old["config"].keys() | new["config"].keys()):
        if old["config"].get(key) != new["config"].get(key):
            found.append(f"{key} was {old['config'].get(key)!r}, is {new['config'].get(key)!r}")
    for key in sorted(old["code"].keys() | new["code"].keys()):
        if old["code"].get(key) != new["code"].get(key):
            found.append(f"the code of {key} changed")
    return found


def only_code(reasons: tuple[str, ...]) -> bool:
    return all(reason.startswith("the code of") for reason in reasons)


def harmless(reasons: tuple[str, ...]) -> bool:
    """A training may go on: only settings changed that move no sample and no noise, or an output is gone."""
    return all(reason.startswith(FREE_SETTINGS) or reason.endswith("is missing") for reason in reasons)


def write_stamp(run: Run, step: int, word: str, made_from: dict, progress: dict | None, outputs: list[str], seconds: float) -> None:
    """The stamp is written last: a step without one never happened."""
    following = step if word == "paused" else step + 1
    write_json(run.stamp(step), {
        "state": word, "fingerprint": made_from, "progress": progress, "outputs": outputs, "seconds": round(seconds, 1),
        "next": run.command(following) if following in STEPS else "",
    })  # fmt: skip


def code(step: int, recipe: ModuleType) -> dict[str, str]:
    """The hash of every module that shapes the step's output, by its path in the repository."""
    package = Path(recipe.__file__).parent
    wanted = [REPOSITORY / "lib" / f"{name}.py" for name in MODULES[step]]
    for name in recipe.CODE.get(step, ()):
        wanted += imported(package / f"{name}.py")
    return {str(path.relative_to(REPOSITORY)): tree_hash(path) for path in sorted(set(wanted))}


def imported(path: Path) -> list[Path]:
    """The module and what it imports from its own package, followed to the end."""
    found, waiting = [], [path]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.append(module)
        prefix = ".".join(module.parent.relative_to(REPOSITORY).parts)
        for node in ast.walk(syntax_tree(module)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(prefix):
                inner = node.module.removeprefix(prefix).lstrip(".")
                names = [inner] if inner else [alias.name for alias in node.names]
                waiting += [module.parent / f"{name}.py" for name in names if (module.parent / f"{name}.py").exists()]
    return found


def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def tree_hash(path: Path) -> str:
    """The hash of a module's syntax tree without docstrings; comments and layout are not in it."""
    tree = syntax_tree(path)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The sha256 of a small file; "" where there is none. Large files are hashed by lib.assets, with a memo."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
