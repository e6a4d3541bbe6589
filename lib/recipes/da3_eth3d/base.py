"""The published files: which are taken and which refused, and how their tensors are matched.

The official loader leaves out what does not fit, so that a file of another size gives a network of random weights
without a word. Here every tensor is matched, or the run stops. config.json, which names Python objects to be called, is
never opened: sizes are read off the tensors.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.recipes.da3_eth3d.size import BASE, NAMES, RAY_LEVELS, SMALL, TRUNK, ModelSize, size_of

OWNER = "depth-anything"
FILE_BYTES = {f"{OWNER}/DA3-SMALL": 137_248_940, f"{OWNER}/DA3-BASE": 541_518_028}
LICENCE = "Apache-2.0"
INSTEAD = f"model.weights={OWNER}/DA3-BASE or {OWNER}/DA3-SMALL, which are {LICENCE} (code and weights)"

# The other variants by the words in their names, the most special first: what is said of them, before anything is
# fetched. Of LARGE-1.1 the model's page and the table of the code's README say different licences.
NON_COMMERCIAL = "is CC BY-NC 4.0, not for commercial use"
OTHERS = {
    "NESTED": f"{NON_COMMERCIAL}, and joins two networks into a metric one",
    "METRIC": "sees one picture at a time: it has no cameras and no attention over views",
    "MONO": "sees one picture at a time: it has no cameras and no attention over views",
    "GIANT": f"{NON_COMMERCIAL}, and has Gaussians that this recipe does not know",
    "LARGE": f"{NON_COMMERCIAL}, as the authors' table has it",
    "1.1": "does not exist: SMALL and BASE were not published again",
}

# The norm that the four ray levels share is stored once, as level 0's. A file that lists the others too must agree.
NORM = "head.scratch.output_conv2_aux.{}.2.{}"
SHARED = {
    NORM.format(level, part): NORM.format(0, part) for level in range(1, RAY_LEVELS) for part in ("weight", "bias")
}
ALIASES = {f"model.{name}": f"model.{kept}" for name, kept in SHARED.items()}  # metadata of a published file


def refuse_other_variant(weights: str) -> None:
    """Stop: `weights` names a variant of the series that this recipe does not adapt."""
    words = re.search(r"(?i)da3[-_]?(.*)", weights.rpartition("/")[2])
    if weights in NAMES or not words or Path(weights).exists():
        return
    for word, said in OTHERS.items():
        if word in words[1].upper():
            raise Stop(f"{weights} {said}", INSTEAD)


def load(network: Any, file: Path, shard: tuple[str, ...] = ()) -> Any:
    """`weights.load_strict` of a published file, a training's export, or a file of ones own of the same names, in fp32.

    Stop: it is another variant, another size than the network, or lacks a tensor; the sentence says which size it is.
    """
    import torch

    from lib.network import weights

    refuse_other_size(network.size, shapes_in(file), file)
    aliases = tuple(map(re.escape, SHARED))
    refuse_split_norm(file)
    return weights.load_strict(network, file, ignore=aliases, dtype=torch.float32, shard=shard)


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Name (without "model.") -> shape; of a safetensors file no number is read."""
    from lib.network import weights

    return {name: tuple(tensor.shape) for name, tensor in weights.tensors(file)}


def refuse_other_size(wanted: ModelSize, shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Stop: the shapes are those of another variant, or of a network of another width or depth."""
    said = other_variant(shapes)
    if said:
        raise Stop(f"{file} {said}", INSTEAD)
    try:
        found = size_of(shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise Stop(f"{file} is no Depth Anything 3 of the any-view series: it has no {error}", INSTEAD) from error
    if (found.embed_dim, found.depth) != (wanted.embed_dim, wanted.depth):
        asked, got = (f"{named(one)} (width {one.embed_dim}, {one.depth} blocks)" for one in (wanted, found))
        raise Stop(f"{file} holds {got}, and {asked} is asked for", "name the file that belongs to the preset")


def other_variant(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a file is, where its names or its width are those of a variant that is not adapted; else ""."""
    if any(name.startswith(("da3.", "da3_metric.")) for name in shapes):
        return OTHERS["NESTED"]
    if any(name.startswith("gs_") for name in shapes):
        return OTHERS["GIANT"]
    if f"{TRUNK}pos_embed" in shapes and f"{TRUNK}camera_token" not in shapes:
        return OTHERS["METRIC"]
    width = shapes.get(f"{TRUNK}pos_embed", (0,))[-1]
    return {1024: f"is a LARGE: it {OTHERS['LARGE']}", 1536: f"is a GIANT: it {OTHERS['GIANT']}"}.get(width, "")


def named(size: ModelSize) -> str:
    known = {BASE.embed_dim: "BASE", SMALL.embed_dim: "SMALL"}
    return known.get(size.embed_dim, "a network of ones own")


def refuse_split_norm(file: Path) -> None:
    """Stop: a file that stores the shared norm several times, with different numbers.

    The level that is used is the last one, which such a file might mean by either.
    """
    from lib.network import weights

    kept: dict[str, Any] = {}
    for name, tensor in weights.tensors(file):
        if name in SHARED.values():
            kept[name] = tensor.clone()
        elif name in SHARED and not bool((tensor == kept.get(SHARED[name], tensor)).all()):
            raise Stop(f"{file}: {name} is not {SHARED[name]}, and the ray levels share one norm", INSTEAD)
