"""Checkpoints that cannot be half-written and cannot be the only one.

    train/<stage>/step-000450/
        adapter/               PEFT layout, bound to its base      (adapted modules)
        weights.safetensors    tensors trained fully, moved running statistics
        optim.safetensors      moments of the optimisers, averaged weights
        pieces/                of both, what is spread over processes (lib.network.sharding), each file some rows
        state.json             step, best, counters, what the training was made from
        lineage.json           groups and files that it and its ancestors were trained on
        sha256.json            hash of every file above, written last

A folder is written under a temporary name, flushed, renamed, read back, and only then is an older one removed. A newest
one that does not verify is passed over with a message.
"""

import errno
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.core.errors import FAILED, Stop
from lib.core.hashes import folder_fault, write_hashes
from lib.core.records import Parts
from lib.core.run import atomic_folder, files_below, read_json, read_record, write_json
from lib.core.words import counted
from lib.network import adapters, pieces, running, sharding
from lib.network.lineage import Lineage, misplaced, misplaced_checkpoint


def folder_name(step: int) -> str:
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The inverse of `folder_name`; -1 for any other name."""
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() and folder.name == folder_name(int(digits)) else -1


class DiskFull(OSError):
    """ENOSPC that says how much room the checkpoint needs."""

    def __init__(self, needed_bytes: int):
        super().__init__(errno.ENOSPC, "no space for the checkpoint")
        self.needed_bytes = needed_bytes


class Content(NamedTuple):
    """The tensors of a checkpoint as they were at one moment: copies on the host, so a training may go on meanwhile."""

    wrapped: dict[str, Any]  # PEFT's wrappers by module
    adapters: dict[str, dict[str, torch.Tensor]]
    full: dict[str, torch.Tensor]
    optim: dict[str, torch.Tensor]


def content(parts: Parts, wrapped: dict[str, Any], optim: dict[str, torch.Tensor]) -> Content:
    """Of what is not spread over processes. optim: moments of the optimisers, averaged weights."""
    full, optim = contiguous(whole_only(full_tensors(parts))), contiguous(whole_only(optim))
    return Content(wrapped, adapters.copied(wrapped), full, optim)


def write(
    stage: Path, step: int, state: dict[str, Any], held: Content, lineage: Lineage, cut: pieces.Written | None = None
) -> Path:
    """Save, flush, rename, verify; returns the folder. Any thread may do it. DiskFull: as a rule before a byte is
    written.

    cut: the tensors that are spread, as all processes wrote them (`write_pieces`).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = stage / folder_name(step)
    needed = refuse_full_disk(stage, held)
    if target.exists():  # written before, found broken, computed again
        shutil.rmtree(target)
    try:
        with atomic_folder(target) as folder:
            adapters.save(held.wrapped, folder / "adapter", state["base"], held.adapters)
            if held.full:
                save_file(held.full, folder / "weights.safetensors")
            save_file(held.optim, folder / "optim.safetensors")
            if cut:
                cut.folder.rename(folder / pieces.FOLDER)
            write_json(folder / "state.json", state)
            lineage.write(folder)
            known = {f"{pieces.FOLDER}/{name}": value for name, value in cut.hashes.items()} if cut else {}
            write_hashes(folder, known)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
            raise DiskFull(needed) from error
        raise
    problem = folder_fault(target, read_back=known)
    if problem:
        raise Stop(f"the checkpoint {target.name} could not be read back: {problem}", "check the disk", FAILED)
    return target


def write_pieces(stage: Path, parts: Parts, optim: dict[str, torch.Tensor]) -> pieces.Written | None:
    """What of a checkpoint is spread over the processes, which all call this; None where nothing is.

    DiskFull, on all of them: before a byte is written.
    """
    spread = {name: t for name, t in (full_tensors(parts) | optim).items() if sharding.is_spread(t)}
    if not spread:
        return None
    needed = sum(t.numel() * t.element_size() for t in spread.values())
    stage.mkdir(parents=True, exist_ok=True)
    if any(sharding.gathered(shutil.disk_usage(stage).free < needed)):
        raise DiskFull(needed)
    return pieces.write(stage, spread)


def whole_only(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not sharding.is_spread(tensor)}


def contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the host."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def full_tensors(parts: Parts) -> dict[str, torch.Tensor]:
    """What weights.safetensors holds: trained tensors outside of adapters, and buffers that training moves."""
    found = {name: p for name, p in adapters.trainable(parts).items() if ".lora_" not in name}
    return dict(sorted((found | running.buffers(parts)).items()))


def refuse_full_disk(stage: Path, held: Content) -> int:
    """The bytes that a checkpoint needs. DiskFull: they are not free."""
    tensors = [t for named in (held.full, held.optim, *held.adapters.values()) for t in named.values()]
    needed = sum(t.nbytes for t in tensors) + 200_000
    stage.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(stage).free < needed:
        raise DiskFull(needed)
    return needed


def all_of(stage: Path) -> list[Path]:
    """The stage's checkpoint folders, newest first; anything else in the folder is left alone."""
    return sorted((p for p in stage.glob("step-*") if step_of(p) >= 0), key=step_of, reverse=True)


def newest(stage: Path, notify: Callable[[str], None] = print) -> Path | None:
    """The newest checkpoint that verifies; `notify` hears what is passed over. None where there is none yet.

    Stop: there are checkpoints, and none of them verifies, or the newest that does is not of this training.
    """
    folders = all_of(stage)
    for folder in folders:
        problem = folder_fault(folder)
        if not problem:
            return refuse_misplaced(folder)
        notify(f"checkpoint {folder.name} is broken ({problem}); falling back to the one before")
    if folders:
        raise Stop(
            f"no checkpoint in {stage.name} can be read ({len(folders)} tried)",
            "python step4_train.py --run NAME --force   (retrains from scratch)",
            FAILED,
        )
    return None


def refuse_misplaced(folder: Path) -> Path:
    """The checkpoint. Stop: it was made elsewhere, as its whole state.json says; nobody but a person may remove it.

    `load` compares the gigabytes beside it.
    """
    if not folder_fault(folder, set(files_below(folder)) - {"state.json"}) and (why := misplaced_checkpoint(folder)):
        raise Stop(f"{folder} does not belong there: {why}", "move it away, then run the same command", FAILED)
    return folder


def load(folder: Path, parts: Parts, wrapped: dict[str, Any], base: str, grown: bool = False) -> dict[str, Any]:
    """Put a checkpoint's trained tensors into `parts`; returns its state.

    grown: the checkpoint is of an earlier stage; what this stage trains and that one did not (adapters, tensors) keeps
    its start. Stop: the checkpoint is broken, of another base, or of other tensors.
    """
    from safetensors.torch import load_file

    problem = folder_fault(folder)
    if problem:
        raise Stop(f"the checkpoint {folder.name} is broken: {problem}", "choose another with --checkpoint", FAILED)
    state = read_json(folder / "state.json")
    if state["base"] != base:
        raise Stop(
            f"the checkpoint {folder.name} was trained on another base ({state['base'][:12]}, loaded is {base[:12]})",
            "bring the base that it was trained on (python step2_download.py)",
        )
    if not grown or (folder / "adapter").exists():
        adapters.load(wrapped, folder / "adapter", base)
    wanted, file = full_tensors(parts), folder / "weights.safetensors"
    stored = load_file(file) if wanted and file.is_file() else {}
    cut = {name: shape for name, shape in pieces.shapes(folder).items() if not is_moment(name)}
    held = {name: tensor.shape for name, tensor in stored.items()} | cut
    if grown:
        wanted = {name: tensor for name, tensor in wanted.items() if name in held}
    refuse_other_tensors(wanted, held, folder.name)
    for name in wanted.keys() & stored.keys():
        sharding.put(wanted[name], stored[name])
    if cut:
        pieces.read(folder, {name: wanted[name] for name in cut})
    return state


def moments(folder: Path, parts: Parts) -> dict[str, torch.Tensor]:
    """The optimiser tensors of a checkpoint that was loaded into `parts`; spread where what they belong to is."""
    from safetensors.torch import load_file

    found, tensors = load_file(folder / "optim.safetensors"), adapters.trainable(parts)
    owners = {key: next((part for part in key.split("/") if part in tensors), "") for key in pieces.shapes(folder)}
    cut = {key: torch.empty_like(tensors[name].detach()) for key, name in owners.items() if name and is_moment(key)}
    if cut:
        pieces.read(folder, cut)
    return found | cut


def is_moment(name: str) -> bool:
    """Among pieces: "<objective>/<group>/<tensor>/<moment>" or "raw/<tensor>" is the optimiser's, "<tensor>" is not."""
    return "/" in name


def refuse_other_tensors(wanted: dict[str, torch.Tensor], held: dict[str, torch.Size], where: str) -> None:
    """A missing, unknown or mis-shaped tensor stops, with the count."""
    wrong = sorted(wanted.keys() ^ held.keys()) + [n for n in wanted.keys() & held.keys() if wanted[n].shape != held[n]]
    if wrong:
        tensors = counted(len(wrong), "tensor")
        raise Stop(f"{where} does not fit: {tensors} missing, unknown or mis-shaped, e.g. {wrong[0]}")


def rotate(stage: Path, keep: int, best: Iterable[int]) -> None:
    """Remove all but the newest `keep` and the steps `best`; the newest was verified when it was written."""
    kept = {folder_name(step) for step in best}
    for folder in all_of(stage)[keep:]:
        if folder.name not in kept:
            shutil.rmtree(folder)


def drop_newer(stage: Path, step: int) -> None:
    """After falling back to `step`: what was passed over as broken will be written again."""
    for folder in all_of(stage):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def noted_best(stage: Path) -> dict[str, Any] | None:
    """What best.json said, from the newest checkpoint; None where nothing chose or none was kept (keep_best=0)."""
    found = newest(stage) if stage.exists() else None
    state = read_json(found / "state.json") if found else {}
    best: dict[str, Any] | None = state.get("best") if state.get("leaders") else None
    return best


def choose(stage: Path, which: str) -> Path:
    """`best`, `last` or `step-N` -> the folder, or an error that names what there is."""
    if which == "best":
        another = "say which one: --checkpoint last, or --checkpoint step-N"
        best = read_record(stage / "best.json", another)
        if best and (why := misplaced(best, stage)):
            raise Stop(f"{stage / 'best.json'} does not belong there: {why}", another, FAILED)
        best = best or noted_best(stage)
        which = folder_name(best["step"]) if best else "last"
    if which == "last":
        found = newest(stage)
        if found:
            return found
    match = re.fullmatch(r"step-0*(\d+)", which)
    if match and (stage / folder_name(int(match[1]))).exists():
        return refuse_misplaced(stage / folder_name(int(match[1])))
    there = ", ".join(p.name for p in all_of(stage)) or "none"
    raise Stop(f"there is no checkpoint {which!r} in stage {stage.name}; there are: {there}")
