"""What the user takes home: predictions on their own inputs, and exports. No output of step 5 depends on it."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.core.errors import Stop
from lib.core.hashes import write_hashes
from lib.core.job import Job
from lib.core.processes import is_first_rank
from lib.core.records import Parts, Stage
from lib.core.run import atomic_folder, files_below, folder_unless_stopped
from lib.core.words import counted
from lib.evaluation import card, evaluate
from lib.evaluation.evaluate import Session
from lib.network import adapters, checkpoint, lineage

FULLY_TRAINED = "fully_trained.safetensors"  # "<module>.<tensor>": what was trained without an adapter
LOAD_FULL = (
    f'for name, tensor in safetensors.torch.load_file("adapter/{FULLY_TRAINED}").items():',
    '    network, _, key = name.partition(".")',
    "    networks[network].state_dict()[key].copy_(tensor)",
)


def predict(job: Job, session: Session) -> None:
    """The adapted model on the user's own inputs. The first process writes; where the network is spread, the others go
    through the same forwards with it.
    """
    if not job.shard and not is_first_rank():
        return
    parts, _ = evaluate.network(job, "adapted", session, chosen(job, session.stage))
    assert parts is not None
    adapters.set_mode(parts, training=False)
    with torch.no_grad(), session.accelerator.autocast(), silent_copy(job.args.out) as out:
        write_predictions(job, session.stage, parts, job.args.predict, out, job.args.scale)
    if is_first_rank():
        print(f"predictions are in {job.args.out}")


def write_predictions(job: Job, stage: Stage, parts: Parts, inputs: str, out: Path, scale: Sequence[str]) -> None:
    """By the recipe, in its own unit or in the one that `scale` states. Stop leaves no folder that was not there."""
    given, before = (job.config, stage, parts, inputs, out), written_at(out)
    with folder_unless_stopped(out):
        job.recipe.predict_scaled(*given, scale) if scale else job.recipe.predict(*given)
    now = written_at(out)
    if left := sorted(name for name, time_ns in before.items() if now.get(name) == time_ns):
        print(f"{counted(len(left), 'file')} of {out} there before and not of {inputs}, first {out / left[0]}")


def written_at(folder: Path) -> dict[str, int]:
    return {name: (folder / name).lstat().st_mtime_ns for name in files_below(folder)}


@contextlib.contextmanager
def silent_copy(out: Path) -> Iterator[Path]:
    """Where this process writes predictions: `out` for the first one, else a folder that is thrown away."""
    if is_first_rank():
        yield out
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        yield Path(folder)


def chosen(job: Job, stage: Stage) -> Path:
    return checkpoint.choose(job.run.stage(stage.name), job.args.checkpoint or job.config.eval.checkpoint)


def export(job: Job) -> None:
    """export/adapter: PEFT's layout. export/merged: what the recipe's `export` makes of the merged modules."""
    with evaluate.opened(job) as session:
        stage, source = session.stage, chosen(job, session.stage)
        parts = job.recipe.build(job.config, stage, session.asset_dirs)
    wrapped = adapters.attach(parts)
    checkpoint.load(source, parts, wrapped, parts.base)
    folder = job.run.folder / "export"
    if job.args.export in ("adapter", "hub"):
        if not wrapped:
            raise Stop(
                f"the preset {job.record['preset']} has no adapters to export", job.run.command(5, "--export", "merged")
            )
        with atomic_folder(folder / "adapter") as temporary:
            export_adapter(job, parts, wrapped, source, temporary)
            write_hashes(temporary)
        print(f"adapter in {folder / 'adapter'}")
    if job.args.export == "hub":
        push(job, folder / "adapter")
    if job.args.export == "merged":
        parts.modules |= adapters.merge(wrapped)
        with atomic_folder(folder / "merged") as temporary:
            job.recipe.export(job.config, stage, parts, temporary)
            for place in (temporary, *filter(Path.is_dir, temporary.rglob("*"))):
                lineage.read(source).write(place)  # each of them may become the start of another run
            write_hashes(temporary)
        print(f"merged model in {folder / 'merged'}")


def export_adapter(job: Job, parts: Parts, wrapped: dict[str, Any], source: Path, folder: Path) -> None:
    """PEFT's layout, and beside it what PEFT has no place for: fully trained tensors, lineage, and how to load them."""
    from safetensors.torch import save_file

    adapters.save(wrapped, folder, parts.base)
    full = checkpoint.full_tensors(parts)
    if full:
        save_file(checkpoint.contiguous(full), folder / FULLY_TRAINED, metadata={"base": parts.base})
    lineage.read(source).write(folder)
    card.write(job.run, job.record, loading(parts, wrapped, bool(full)), folder, source)


def loading(parts: Parts, wrapped: dict[str, Any], full: bool) -> list[str]:
    """Lines of Python that make the scored model of the base with plain PEFT. Fully trained tensors come first, while
    layers still have their own names.
    """
    places = {name: "adapter" if len(wrapped) == 1 else f"adapter/{name}" for name in wrapped}
    return [
        "import peft, safetensors.torch" if full else "import peft",
        "",
        f"# networks: those of the base by name ({', '.join(parts.modules)}), with its weights",
        *(LOAD_FULL if full else ()),
        *(f'peft.PeftModel.from_pretrained(networks["{name}"], "{place}")' for name, place in places.items()),
    ]


def push(job: Job, folder: Path) -> None:
    """Upload the adapter with its card (lib.evaluation.card)."""
    from lib.data import hub

    args = job.args
    again = job.run.command(5, f"--export hub --hub-repository {args.hub_repository or 'USER/NAME'}")
    if not args.hub_repository:
        raise Stop("--export hub needs --hub-repository USER/NAME", again)
    address = hub.push(folder, args.hub_repository, args.public, f"run {job.run.name}", again)
    print(f"pushed to {address}" + ("" if args.public else ", which is private unless you changed that"))
