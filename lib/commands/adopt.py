"""`step2_download.py --import FILE`: what another program left, as this project has it, in imported/ of the run.

Networks become a checkpoint, which step 4 goes on from with --checkpoint.
"""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.core.config import of_record
from lib.core.errors import Stop
from lib.core.hashes import sha256_of
from lib.core.job import Job
from lib.core.records import Foreign, Manifest, Parts, Stage

FOLDER = "imported"  # of the run
NOTHING = Manifest([], Path())


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imported",
        default="",
        metavar="FILE",
        help="what another program left: trained adapters, a split; the recipe's page says which",
    )


def run(job: Job, bring: Callable[[], object]) -> None:
    """The recipe takes the file; what it asks for (data, base, adapters) is brought then, or not at all."""
    file, out = Path(job.args.imported), job.run.folder / FOLDER
    if not file.is_file():
        raise Stop(f"--import {file}: there is no such file", job.run.command(2, "--import FILE"))
    # settings that are looked at here move nothing that step 2 leaves, so they are read from a copy
    apart = replace(job, config=of_record(job.recipe, job.record, job.record.get("decided", {})), read=set())
    opened: list[tuple[Stage, Parts, dict[str, Any]]] = []  # stage, networks, the wrapped ones

    def asset_dirs() -> dict[str, Path]:
        from lib.data import places

        bring()
        return places.asset_dirs(apart.run, apart.recipe, apart.config, apart.args.inputs)

    def attached() -> Parts:
        opened.append(attach(apart, asset_dirs()))
        return opened[-1][1]

    said, settings = job.recipe.adopt(apart.config, Foreign(file, out, asset_dirs, attached))
    print(f"  imported {file.name}: {said}", flush=True)
    how = [job.run.command(1, settings)]
    if opened:
        made = keep(job, file, out, *opened[-1])
        how += [job.run.command(4, "--checkpoint", shlex.quote(str(made)))]
        print(f"  in PEFT's layout: {made / 'adapter'}. Nobody can say what it has seen; to use it all the same")
        print("  (and with train.lr=0 train.epochs=1 on the first line, to score it as it is):")
    print("".join(f"    {line}\n" for line in how), end="", flush=True)


def attach(job: Job, asset_dirs: dict[str, Path]) -> tuple[Stage, Parts, dict[str, Any]]:
    """The last stage's networks on the host, strictly loaded, with new adapters."""
    from lib.network import adapters
    from lib.network.setup import make_stage_inputs, open_device

    accelerator, _ = open_device(job)
    stage = job.recipe.stages(job.config, NOTHING)[-1]
    asset_dirs, _ = make_stage_inputs(job, stage, NOTHING, asset_dirs, accelerator)
    parts = job.recipe.build(job.config, stage, asset_dirs)
    return stage, parts, adapters.attach(parts)


def keep(job: Job, file: Path, out: Path, stage: Stage, parts: Parts, wrapped: dict[str, Any]) -> Path:
    """A checkpoint without moments, of step 0. What it has seen is not known, and its lineage says so."""
    from lib.network import checkpoint
    from lib.network.lineage import Lineage

    state = {
        "step": 0,
        "stage": stage.name,
        "base": parts.base,
        "recipe": job.record["recipe"],
        "config": job.record["config"],
        "imported": {"file": file.name, "sha256": sha256_of(file)},
    }
    unknown = Lineage(unknown={file.name})
    return checkpoint.write(out, 0, state, checkpoint.content(parts, wrapped, {}), unknown)
