"""What an output was made from is read off the code: every import, every setting, every file that code names."""

import re
import shutil
from pathlib import Path

import pytest

from lib import recipes
from lib.core import code, syntax
from lib.core import config as configuration
from lib.core.run import SCRIPTS, STEPS, read_json
from tests.conftest import TOY

pytestmark = pytest.mark.long

STALE = Path(__file__).with_name("stale_steps.txt")  # module by module: the steps that a change of it makes stale


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository; write(path, text) puts a file there, below lib."""
    monkeypatch.setattr(code, "REPOSITORY", tmp_path)

    def write(path: str, text: str = "") -> Path:
        file = tmp_path / "lib" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for folder in file.relative_to(tmp_path).parents[:-1]:
            (tmp_path / folder / "__init__.py").touch()
        return file

    return write


class Some:
    """A recipe in the repository of a test; `build` is in its model.py."""

    name = "some"

    def __init__(self, root: Path):
        self.folder = root / "lib" / "recipes" / "some"

    def modules(self, function: str) -> list[Path]:
        return [self.folder / "model.py"]


@pytest.mark.parametrize(
    "line",
    [
        "import lib.recipes.some.crop",
        "import lib.recipes.some.crop as c",
        "from lib.recipes.some import crop",
        "from lib.recipes.some.crop import f",
        "from lib.recipes.some import crop as c",
        "from . import crop",
        "from .crop import f",
        "from ..some import crop",
        "from ..some.crop import f as g",
        "def f():\n    from lib.recipes.some import crop",
        "def f():\n    def g():\n        from . import crop\n    return g",
        "if True:\n    from .crop import f",
        "import importlib\ncrop = importlib.import_module('lib.recipes.some.crop')",
        "from importlib import import_module\ncrop = import_module('.crop', __package__)",
    ],
)
def test_every_form_of_import_is_followed(repository, tmp_path, line):
    start = repository("recipes/some/data.py", line)
    repository("recipes/some/crop.py")
    repository("recipes/some/unused.py")
    names = [code.label(Some(tmp_path), file) for file in code.closure(Some(tmp_path), [start])]
    assert "lib/recipes/some/crop.py" in names and "lib/recipes/some/unused.py" not in names


def test_imports_are_followed_into_folders_and_in_circles(repository, tmp_path):
    start = repository("recipes/some/data.py", "from .inner import deep\nfrom lib.shared.room import f")
    repository("recipes/some/inner/deep.py", "from ..data import g\nfrom .deeper import h")
    repository("recipes/some/inner/deeper.py")
    repository("shared/room.py", "from . import other")
    repository("shared/other.py")
    names = {code.label(Some(tmp_path), file) for file in code.closure(Some(tmp_path), [start])}
    modules = {
        "recipes/some/data",
        "recipes/some/inner/deep",
        "recipes/some/inner/deeper",
        "shared/room",
        "shared/other",
    }
    assert names >= {f"lib/{name}.py" for name in modules}
    assert names >= {"lib/recipes/some/__init__.py", "lib/recipes/some/inner/__init__.py", "lib/shared/__init__.py"}


def test_a_function_of_the_recipe_that_is_called_brings_its_module(repository, tmp_path):
    start = repository("training/loop.py", "def f(job):\n    job.recipe.build(1)\n")
    repository("recipes/some/model.py", "from . import layers")
    repository("recipes/some/layers.py")
    names = {code.label(Some(tmp_path), file) for file in code.closure(Some(tmp_path), [start])}
    assert {"lib/recipes/some/model.py", "lib/recipes/some/layers.py", "lib/recipes/some/__init__.py"} <= names


def test_the_hash_of_a_module_sees_code_and_nothing_else(repository):
    def hash_of(text):
        return syntax.source(repository(f"m{len(text)}_{abs(hash(text))}.py", text)).tree_hash

    plain = hash_of("def f(x):\n    return x + 1\n")
    assert plain == hash_of('"""Doc."""\n# comment\ndef f(x):\n    """Why."""\n\n    return (x + 1)  # sum\n')
    assert plain != hash_of("def f(x):\n    return x + 2\n")
    assert hash_of('X = "a"\n') != hash_of('X = "b"\n')


def test_files_that_code_names_count_by_their_bytes(repository, tmp_path):
    start = repository("recipes/some/model.py", 'from pathlib import Path\nP = Path(__file__).parent / "demo"\n')
    weights = repository("recipes/some/demo/base.bin", "1")
    (weights.parent / "__init__.py").unlink()
    before = code.hashes(Some(tmp_path), [start])
    weights.write_text("22")
    after = code.hashes(Some(tmp_path), [start])
    assert before.keys() == after.keys() == {"lib/recipes/some/model.py", "lib/recipes/some/demo/base.bin"}
    assert {name for name in before if before[name] != after[name]} == {"lib/recipes/some/demo/base.bin"}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("def f(config):\n    return config.data.noise", "data.noise"),
        ("def f(config):\n    data = config.data\n    return data.noise", "data.noise"),
        ("def f(config):\n    settings = config.data\n    return settings.noise", "data.noise"),
        ("def f(settings: DataConfig):\n    return settings.noise", "data.noise"),
        ("def f(config):\n    a, b = config.train, config.data\n    return b.noise", "data.noise"),
        ("def s(config):\n    return config.data\ndef f(config):\n    return s(config).noise", "data.noise"),
        ("def f(config):\n    return getattr(config.data, 'noise')", "data.noise"),
        ("def f(config):\n    return vars(config.data)", "data.noise"),
    ],
)
def test_a_setting_is_read_where_code_names_it(repository, text, key):
    config = recipes.load(str(TOY)).Config()
    assert key in code.settings_read([repository("m.py", text)], config)
    assert "model.width" not in code.settings_read([repository("m.py", text)], config)


def test_what_a_property_reads_counts_where_the_property_is_read(repository):
    config = recipes.load(str(TOY)).Config()
    inner = "from dataclasses import dataclass\n@dataclass\nclass DataConfig:\n    noise: float = 0\n"
    inner += "    def __post_init__(self):\n        check(self.augment)\n"
    inner += "    @property\n    def loud(self):\n        return self.noise\n"
    settings = repository("config.py", inner)
    assert code.settings_read([settings], config) == set()
    assert code.settings_read([settings, repository("n.py", "def f(c):\n    return c.data.loud\n")], config) == {
        "data.noise"
    }


def test_the_stamps_of_a_run_name_no_setting_that_the_code_does_not_show(prepared, folder):
    prepared("train.epochs=1", "train.plan=auto", last=5)
    refuse_hidden_reads(folder)


def refuse_hidden_reads(run_folder: Path) -> None:
    """A stamp holds what the code shows and what the step was seen reading: the second must be a part of the first."""
    record = read_json(run_folder / "run.json")
    recipe = recipes.find(run_folder.parent.parent, record["recipe"])
    for step, word in STEPS.items():
        script = code.REPOSITORY / SCRIPTS[step]
        shown = code.settings_read([script, *code.of_step(script, recipe)], recipe.Config())
        seen = set(read_json(run_folder / f"{step}_{word}.json")["fingerprint"]["config"])
        assert seen <= shown, (step, seen - shown)


# Settings that no step is made from, and who reads them.
READ_ELSEWHERE = {"session.reserve_seconds": "lib/commands/cli.py hands it to the clock"}


@pytest.mark.parametrize("name", [*recipes.RECIPES, str(code.REPOSITORY / "lib" / "recipes" / "template")])
def test_every_setting_is_read_by_the_code_of_some_step(name):
    """Checks of a setting do not count, so one that is accepted and then used nowhere is found."""
    recipe = recipes.load(name)
    config, read = recipe.Config(), set()
    for script in (code.REPOSITORY / script for script in SCRIPTS.values()):
        read |= code.settings_read([script, *code.of_step(script, recipe)], config)
    unread = configuration.leaves(recipe.Config).keys() - read
    assert unread == READ_ELSEWHERE.keys()
    for key, where in READ_ELSEWHERE.items():
        assert key in code.settings_read([code.REPOSITORY / where.split()[0]], config)


# ---------------------------------------------------------------------------------------------- the table of modules


def stale_table() -> dict[str, set[int]]:
    lines = [line.split() for line in STALE.read_text().splitlines() if line and not line.startswith("#")]
    return {name: {int(step) for step in steps if step != "-"} for name, *steps in lines}


def library() -> list[str]:
    files = [file for file in (code.REPOSITORY / "lib").rglob("*.py") if "template" not in file.parts]
    return sorted(file.relative_to(code.REPOSITORY).as_posix() for file in files if file.read_text().strip())


def test_the_table_of_stale_steps_lists_every_module():
    assert list(stale_table()) == library()


def test_one_changed_number_makes_stale_what_the_table_says(tmp_path, monkeypatch):
    """In a copy of lib, module by module: the first number of the module becomes another one (or a new one appears)."""
    copy_repository(tmp_path)
    stale: dict[str, set[int]] = {module: set() for module in library()}
    for name in recipes.RECIPES:
        for module, steps in stale_in(name, tmp_path, monkeypatch).items():
            stale[module] |= steps
    assert stale == stale_table()


def stale_in(name: str, root: Path, monkeypatch) -> dict[str, set[int]]:
    """Module -> the steps of this recipe that a change of the module makes stale."""
    recipe = recipes.load(name)
    scripts = {step: root / SCRIPTS[step] for step in STEPS}
    found = {}
    with monkeypatch.context() as patched:
        patched.setattr(code, "REPOSITORY", root)
        patched.setattr(recipe, "folder", root / "lib" / "recipes" / name)
        closures = {step: code.of_step(script, recipe) for step, script in scripts.items()}
        for module in library():
            file = root / module
            if not is_of_another(module, name):
                before, text = code.hashes(recipe, [file]), file.read_text()
                file.write_text(changed(text))
                assert code.hashes(recipe, [file]) != before
                found[module] = {step for step in STEPS if file in closures[step]}
                file.write_text(text)
    return found


def is_of_another(module: str, name: str) -> bool:
    return any(module.startswith(f"lib/recipes/{other}/") for other in recipes.RECIPES if other != name)


def changed(text: str) -> str:
    """Another number where one stands outside of words, comments and docstrings; a further line where none does."""
    return (
        text + "\nADDED = 1\n"
        if (match := re.search(r"(?m)^[A-Z_]+ = (\d+)$", text)) is None
        else (text[: match.start(1)] + str(int(match[1]) + 1) + text[match.end(1) :])
    )


def copy_repository(root: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(code.REPOSITORY / "lib", root / "lib", ignore=ignored)
    for script in code.REPOSITORY.glob("step*.py"):
        shutil.copy(script, root)
