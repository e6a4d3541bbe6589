import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core import install
from lib.core.errors import Stop

REPOSITORY = Path(install.__file__).resolve().parents[2]


def requirements(*lines: str) -> list[install.Requirement]:
    return [install.parse_line(line) for line in lines]


@pytest.mark.parametrize(
    "version, wanted, good",
    [
        ("2.13.0+cu128", "torch>=2.10", True),
        ("2.9.1", "torch>=2.10", False),
        ("2.10", "torch>=2.10.0", True),
        ("3.0.0", "hub>=1.0,<3", False),
        ("2.99", "hub>=1.0,<3", True),
        ("1.5", "x!=1.5", False),
        ("1.5.0", "x==1.5", True),
        ("1.5.1", "x>1.5", True),
        ("1.6", "x<=1.5", False),
        ("26.1.0", "attrs", True),
    ],
)
def test_versions_are_compared_by_number(version, wanted, good):
    assert install.satisfies(version, install.parse_line(wanted)) is good


def test_missing_and_too_old_packages_are_found_under_any_spelling():
    have = {"huggingface-hub": "2.4.0", "torch": "2.9.0"}
    wanted = requirements("huggingface_hub>=1.0", "torch>=2.10", "peft>=0.18")
    assert [one.name for one in install.lacking(wanted, have)] == ["torch", "peft"]


def test_installed_packages_become_constraints_and_a_too_old_one_does_not():
    have = {"torch": "2.13.0+cu128", "torchvision": "0.28.0", "peft": "0.10"}
    kept = install.limits(requirements("torch>=2.10", "peft>=0.18", "scipy>=1.14"), have, Path("not read"))
    assert kept == ["torch==2.13.0+cu128", "torchvision==0.28.0"]


def test_empty_environment_gets_the_tested_versions():
    kept = install.limits(requirements("torch>=2.10"), {"pip": "26.0"}, REPOSITORY / "constraints.txt")
    assert "torch==2.13.0" in kept


def test_pip_is_asked_only_for_what_is_missing_under_the_constraints(tmp_path):
    asked = []

    def pip(command):
        file = Path(command[command.index("--constraint") + 1])
        asked.append((command[command.index("--constraint") + 2 :], file.read_text().split()))
        return 0

    install.install(requirements("scipy>=1.14", "hub>=1.0,<3"), ["torch==2.13.0"], tmp_path, None, pip)
    assert asked == [(["scipy>=1.14", "hub>=1.0,<3"], ["torch==2.13.0"])]


def test_pip_compiles_because_python_may_be_forbidden_to_keep_what_it_compiles(tmp_path):
    asked = []
    install.install(requirements("scipy>=1.14"), [], tmp_path, None, lambda command: asked.append(command) or 0)
    assert "install" in asked[0] and "--no-compile" not in asked[0]


def test_failing_pip_says_how_to_go_on_without_a_connection(tmp_path):
    with pytest.raises(Stop) as stopped:
        install.install(requirements("scipy>=1.14"), [], tmp_path, None, lambda command: 1)
    assert "scipy>=1.14" in stopped.value.cause
    assert "step1_setup.py --wheels FOLDER" in stopped.value.command and "-m venv" in stopped.value.command


def test_an_empty_folder_of_wheels_is_filled_and_a_full_one_is_all_that_pip_sees(tmp_path):
    asked = []

    def pip(command):
        asked.append(command[3:])
        if "--report" in command:
            chosen = [{"metadata": {"name": "scipy", "version": "1.16"}}]
            Path(command[command.index("--report") + 1]).write_text(json.dumps({"install": chosen}))
        return 0

    wheels, wanted = tmp_path / "wheels", requirements("scipy>=1.14")
    install.download(wanted, ["torch==2.13.0"], wheels, tmp_path, pip)
    assert asked[0][:2] == ["install", "--disable-pip-version-check"] and "--dry-run" in asked[0]
    assert asked[1][0] == "download" and str(wheels) in asked[1] and wheels.is_dir()
    assert asked[1][-1] == "scipy==1.16" and "--no-deps" in asked[1]  # not what is installed: torch has 3 GB
    install.install(wanted, ["torch==2.13.0"], tmp_path, wheels, pip)
    assert asked[2][0] == "install" and "--no-index" in asked[2]
    assert asked[2][asked[2].index("--find-links") + 1] == str(wheels)
    assert asked[0][-1] == asked[2][-1] == "scipy>=1.14" and all("--constraint" in words for words in asked)


def test_wheels_of_an_earlier_session_are_used_without_being_named(tmp_path, monkeypatch):
    """The mount is read-only: what is attached is never filled."""
    asked = []
    monkeypatch.setattr(install, "installed", dict)
    monkeypatch.setattr(install, "install", lambda needed, limits, place, wheels: asked.append(wheels))
    monkeypatch.setattr(install, "download", lambda *words: asked.append("download"))
    monkeypatch.setattr("os.execv", lambda *words: None)
    (tmp_path / "a.whl").touch()
    for words in ({"attached": lambda: tmp_path}, {"wheels": tmp_path / "new"}):
        monkeypatch.delenv(install.MARK, raising=False)
        install.ensure(REPOSITORY, **words)
    assert asked == [tmp_path, "download", tmp_path / "new"]


def test_installation_that_changed_nothing_does_not_start_over(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("a-package-that-nobody-has>=1\n")
    monkeypatch.setenv(install.MARK, "1")
    with pytest.raises(Stop, match="still missing after the installation: a-package-that-nobody-has>=1"):
        install.ensure(tmp_path)


def test_line_that_is_no_simple_requirement_is_refused():
    with pytest.raises(Stop, match="not a name with versions"):
        install.parse_line("package @ https://example.org/package.zip")


def test_installer_needs_the_standard_library_alone():
    code = "from lib.core import install; print('imported')"  # -S: without site-packages
    words = [sys.executable, "-S", "-c", code]
    said = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout
    assert said.strip() == "imported"


def test_missing_package_is_installed_and_the_program_starts_again(tmp_path):
    """A real pip, a real wheel from a folder, a fresh virtual environment without a connection."""
    wheel = write_wheel(tmp_path / "wheels", "tiny_package", "1.2")
    (tmp_path / "requirements.txt").write_text("tiny-package>=1.1\n")
    (tmp_path / "constraints.txt").write_text("tiny-package==1.2\n")
    (tmp_path / "step.py").write_text(
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from lib.core import install\ninstall.ensure(Path(__file__).parent)\n"
        "import tiny_package; print(tiny_package.WORD, sys.argv[1:])\n"
    )
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PATH": "/usr/bin:/bin"}
    command = [tmp_path / "venv" / "bin" / "python", tmp_path / "step.py", "--demo"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.stdout.splitlines()[-1] == "here ['--demo']", said.stderr


def write_wheel(folder: Path, name: str, version: str) -> Path:
    import zipfile

    folder.mkdir()
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "WORD = 'here'\n")
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", tags)
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return file


def test_every_requirement_is_pinned_in_constraints():
    pinned = {install.normal(one.name) for one in install.parse(REPOSITORY / "constraints.txt")}
    wanted = install.parse(REPOSITORY / "requirements.txt") + requirements(*install.DEV)
    assert [one.name for one in wanted if install.normal(one.name) not in pinned] == []


def test_the_kernel_of_a_virtual_environment_is_quiet_and_no_other(tmp_path):
    assert install.quiet_kernel(tmp_path) is None and not list(tmp_path.iterdir())
    (tmp_path / "pyvenv.cfg").touch()
    file = install.quiet_kernel(tmp_path)
    assert json.loads(file.read_text()) == {"Application": {"log_level": 50}}
    file.write_text("{}")
    assert install.quiet_kernel(tmp_path).read_text() == "{}"  # a user's own file stays
