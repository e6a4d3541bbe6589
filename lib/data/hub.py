"""Files of a Hugging Face repository at one commit: what there is, one at a time, each checked by its hash; and back.

snapshot_download is not used: offline it reports a partly filled folder as success (huggingface_hub #4624), and between
its files a session could not pause. The hub client takes up a dropped connection where it broke; a file whose process
was killed starts from its first byte. It checks sizes only, so the hashes are checked here.
"""

import fnmatch
import os
import re
from pathlib import Path
from typing import Any

from lib.core.errors import Stop, first_line
from lib.core.hashes import Memo, git_blob_of
from lib.core.records import Asset
from lib.data.hub_refusals import origin, patiently, refusal


def client() -> tuple[Any, type[Exception]]:
    """The hub module and the transport's base error (httpx in hub 1, httpx2 in hub 2: never imported by name).

    A mirror serves plain HTTP only, while Xet transfers would go past it to the hub; the switch is read at import.
    """
    mirror = bool(os.environ.get("HF_ENDPOINT"))
    if mirror:
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if mirror and os.environ["HF_HUB_DISABLE_XET"] == "1":
        constants.HF_HUB_DISABLE_XET = True  # PEFT has imported the hub before an export is pushed
    return huggingface_hub, HfHubHTTPError.__bases__[0]


def commit(asset: Asset) -> str:
    """What the asset's revision, a branch or a tag, names now; 40 hex digits name themselves."""
    if re.fullmatch(r"[0-9a-f]{40}", asset.revision):
        return asset.revision
    hub, TransportError = client()
    try:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        found: str = patiently(lambda: api.model_info(asset.source, revision=asset.revision)).sha
    except (TransportError, OSError) as error:
        raise unreachable(asset, error) from error
    print(f"{asset.name}: {asset.source} at {asset.revision} is the commit {found}", flush=True)
    return found


def listing(asset: Asset) -> list[Any]:
    """The repository's files that the asset wants, with size and hash (hub RepoFile records)."""
    hub, TransportError = client()
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        tree = list(api.list_repo_tree(asset.source, revision=asset.revision, recursive=True))  # it is patient itself
    except (TransportError, OSError) as error:  # offline mode is a ConnectionError
        raise unreachable(asset, error) from error
    entries = [entry for entry in tree if isinstance(entry, hub.hf_api.RepoFile)]
    wanted = [entry for entry in entries if any(fnmatch.fnmatch(entry.path, pattern) for pattern in asset.files)]
    absent = [pattern for pattern in asset.files if not any(fnmatch.fnmatch(entry.path, pattern) for entry in wanted)]
    if absent:
        raise Stop(
            f"{asset.source} at {asset.revision[:12]} has no {', '.join(absent)}",
            "check the repository id and the revision",
        )
    return wanted


def fetch(asset: Asset, entry: Any, folder: Path, memo: Memo) -> None:
    """Brings one file and checks its bytes (the hub client checks the size only); a bad one is fetched once more."""
    hub, TransportError = client()
    for _ in range(2):
        (folder / entry.path).unlink(missing_ok=True)
        try:
            hub.hf_hub_download(
                asset.source,
                entry.path,
                revision=asset.revision,
                local_dir=folder,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        except (TransportError, OSError) as error:
            raise unreachable(asset, error) from error
        if is_whole(folder / entry.path, entry, asset, memo):
            return
    (folder / entry.path).unlink()
    cause = f"{entry.path} of {asset.source} arrived twice with another hash than the hub lists"
    raise Stop(cause, "python step2_download.py, later or with another HF_ENDPOINT")


def is_whole(file: Path, entry: Any, asset: Asset, memo: Memo) -> bool:
    """Does a file have the hash that the recipe or, failing that, the hub states?"""
    if not file.is_file() or file.stat().st_size != entry.size:
        return False
    wanted = asset.files.get(entry.path) or (entry.lfs.sha256 if entry.lfs else "")
    return memo.sha256(file) == wanted if wanted else git_blob_of(file) == entry.blob_id


def push(folder: Path, repository: str, public: bool, message: str, again: str) -> str:
    """Uploads a folder to a repository, which is made (private unless `public`) where there is none; its address.

    Whoever runs it again sends only what has not arrived. Stop: the hub refuses, or there is no connection.
    """
    hub, TransportError = client()
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        made = patiently(lambda: api.create_repo(repository, private=not public, exist_ok=True))
        patiently(lambda: api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message))
    except hub.errors.HFValidationError as error:
        raise Stop(
            f"--hub-repository {repository!r} is no name on the hub: {first_line(origin(error))}", "USER/NAME"
        ) from error
    except (TransportError, OSError, RuntimeError) as error:
        raise refusal(error, repository, "pushed", again) from error
    return str(made)


def unreachable(asset: Asset, error: Exception) -> Stop:
    files = ", ".join(asset.files)
    elsewhere = f"with --inputs DIR where a folder holds {files}"
    stop = refusal(error, asset.source, "fetched", "python step2_download.py", elsewhere)
    return Stop(f"{asset.name}: {stop.cause}", stop.command, stop.code)
