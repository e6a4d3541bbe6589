"""Every answer of the hub becomes one sentence with the thing to do; what is pushed arrives, private and once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core.errors import Stop
from lib.core.hashes import Memo
from lib.data import assets, hub
from tests.data.hub_server import serve
from tests.data.test_assets import FILES, REVISION, hub_asset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve("someone/weights", REVISION, dict(FILES)) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        yield started


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "README.md").write_text("---\nlicense: mit\n---\nwords")
    (place / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 20)
    return place


def push(folder, **changes):
    return hub.push(
        folder, **({"repository": "someone/weights", "public": False, "message": "m", "again": "AGAIN"} | changes)
    )


REFUSALS = [  # status, code -> fetching, pushing
    (401, "", "HF_TOKEN is not set", "HF_TOKEN is not set"),
    (401, "RepoNotFound", "no such repository, or it is private", "no such repository, or it is private"),
    (403, "GatedRepo", "https://huggingface.co/someone/weights by the account of HF_TOKEN", "is gated"),
    (403, "", "may not do that", "may not do that"),
    (404, "RepoNotFound", "no such repository", "no such repository"),
    (404, "RevisionNotFound", "no such revision", "no such revision"),
    (409, "", "at the same moment", ""),
    (429, "", "too many requests", "too many requests"),
    (500, "", "the hub itself has failed (status 500)", "the hub itself has failed"),
    (503, "", "the hub itself has failed (status 503)", "the hub itself has failed"),
]  # fmt: skip


@pytest.mark.parametrize("status, code, fetching, pushing", REFUSALS)
def test_every_refusal_is_one_sentence_with_the_thing_to_do(server, folder, tmp_path, status, code, fetching, pushing):
    server.refusals = [(status, code, {})] * 99
    with pytest.raises(Stop) as stopped:
        assets.bring(hub_asset(), tmp_path / "base", Memo(tmp_path / "memo"))
    told = stopped.value
    assert "base: someone/weights" in told.cause and fetching in told.cause and "\n" not in told.cause
    assert told.command and "Traceback" not in told.text
    if pushing:
        with pytest.raises(Stop) as stopped:
            push(folder)
        assert pushing in stopped.value.cause and "\n" not in stopped.value.cause
        assert "AGAIN" in stopped.value.command or "revision" in stopped.value.command


def test_a_gated_repository_names_page_and_token(server, tmp_path):
    server.refusals = [(403, "GatedRepo", {})] * 99
    with pytest.raises(Stop) as stopped:
        hub.listing(hub_asset())
    assert "its licence must be accepted at https://huggingface.co/someone/weights" in stopped.value.cause
    assert "export HF_TOKEN=" in stopped.value.command and "step2_download.py" in stopped.value.command


def test_a_token_that_is_refused_is_not_called_missing(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    server.refusals = [(401, "", {})] * 99
    with pytest.raises(Stop, match="HF_TOKEN is not accepted"):
        hub.listing(hub_asset())


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(server, folder, status):
    server.branches["main"] = REVISION
    for answer in (lambda: hub.commit(hub_asset(revision="main")), lambda: hub.listing(hub_asset())):
        server.refusals = [(status, "", {})] * 2
        assert answer()
    server.refusals = [(status, "", {})]
    push(folder)
    assert "adapter_model.safetensors" in server.files


def test_the_hub_says_how_long_to_wait(server, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    server.branches["main"], server.refusals = REVISION, [(429, "", {"Retry-After": "7"})]
    hub.commit(hub_asset(revision="main"))
    assert waited == [7.0]


def test_what_is_refused_for_good_is_asked_once(server):
    server.refusals = [(403, "", {})]
    with pytest.raises(Stop):
        hub.listing(hub_asset())
    assert len(server.requests) == 1


def is_private(created: dict) -> bool:
    """Hub 1 sends `private`, hub 2 `visibility`."""
    return created.get("private") is True or created.get("visibility") == "private"


def test_pushed_files_arrive_in_a_private_repository_through_the_mirror(server, folder):
    assert push(folder).endswith("someone/weights")
    assert is_private(server.created)
    assert all(server.files[file.name] == file.read_bytes() for file in folder.iterdir())
    push(folder, public=True)
    assert not is_private(server.created)


def test_a_push_that_broke_sends_only_what_is_not_there(server, folder):
    """The commit fails after the large file has arrived; the same command sends no object twice."""
    kept = server.pushed

    def broken(path, content):
        server.refusals = [(400, "", {})] if "/objects/" in path else []
        return kept(path, content)

    server.pushed = broken
    with pytest.raises(Stop, match="cannot be pushed"):
        push(folder)
    server.pushed, sent = kept, [method for method, _, _ in server.requests].count("PUT")
    push(folder)
    assert [method for method, _, _ in server.requests].count("PUT") == sent == 1
    assert "README.md" in server.files


def test_a_name_that_is_none_is_refused(server, folder):
    with pytest.raises(Stop, match="is no name on the hub"):
        push(folder, repository="a/b/c")


def test_offline_is_said_as_what_it_is(server, folder):
    """In a process of its own: the client reads the switch when it is imported."""
    code = (
        "import sys; from pathlib import Path; from lib.data import hub; from lib.core.errors import Stop\n"
        "try: hub.push(Path(sys.argv[1]), 'a/b', False, 'm', 'AGAIN')\n"
        "except Stop as stop: print(stop.text)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, str(folder)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "a/b cannot be pushed: HF_HUB_OFFLINE forbids connections" in ended.stdout, ended.stderr
    assert "unset HF_HUB_OFFLINE; AGAIN" in ended.stdout
