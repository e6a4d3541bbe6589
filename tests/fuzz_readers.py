"""Every reader of files that come from somewhere else: how to make a small whole file, how to read it, what is right.

Hands, scenes and spectrograms have files of their own; here are maps, weights, pictures, archives and run records.
"""

import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.core import run
from lib.core.hashes import Memo
from lib.core.records import Asset
from lib.data import archives, pictures
from lib.network import weights
from lib.recipes.hamer import video
from lib.recipes.llava_map import fields, language_model, roadmap, stand_in, tables
from tests.fuzz_hands import HANDS
from tests.fuzz_reader import Reader, finite, save_picture
from tests.fuzz_scenes import SCENES
from tests.fuzz_spectrograms import SPECTROGRAMS

# ---------------------------------------------------------------------------------------------- maps


def make_map(folder: Path) -> None:
    corners = {"a": (0, 0), "b": (20, 0), "c": (20, 30), "d": (0, 30), "e": (10, 0), "f": (10, 30)}
    corners |= {"g": (5, 10), "h": (8, 10), "i": (5, 14)}
    content: dict[str, Any] = {name: [] for name in roadmap.KINDS}
    content["version"] = "1.3"
    content["node"] = [{"token": token, "x": float(x), "y": float(y)} for token, (x, y) in corners.items()]
    content["line"] = [{"token": "l", "node_tokens": ["e", "f"]}]
    content["polygon"] = [{"token": "p", "exterior_node_tokens": list("abcd"), "holes": [{"node_tokens": list("ghi")}]}]
    for layer, kinds in roadmap.KINDS.items():
        if "line_token" in kinds or "polygon_token" in kinds:
            content[layer] = [{"token": layer, "line_token": "l", "polygon_token": "p"}]
    arc = {"start_pose": [10.0, 0.0, 1.5], "shape": "LSR", "radius": 40.0, "segment_length": [9.0, 10.0, 8.0]}
    content["lane_connector"] = [{"token": "joint", "polygon_token": None}]
    content["arcline_path_3"] = {"lane": [arc]}
    content["connectivity"] = {"lane": {"incoming": [], "outgoing": ["joint"]}}
    (folder / "m.json").write_text(json.dumps(content))


def make_centrelines(folder: Path) -> None:
    """Two lanes of one area, of which one leads into the other, and nothing else."""
    corners = {"a": (0.0, 0.0), "b": (20.0, 0.0), "c": (20.0, 30.0), "d": (0.0, 30.0)}
    content: dict[str, Any] = {name: [] for name in (*roadmap.KINDS, *roadmap.LANE_LAYERS)} | {"version": "1.3"}
    content["node"] = [{"token": token, "x": x, "y": y} for token, (x, y) in corners.items()]
    content["polygon"] = [{"token": "p", "exterior_node_tokens": list("abcd"), "holes": []}]
    content["lane"] = [{"token": token, "polygon_token": "p"} for token in ("one", "two")]
    arc = {"start_pose": [10.0, 0.0, 1.5], "shape": "LSR", "radius": 40.0, "segment_length": [9.0, 2.0, 4.0]}
    content["arcline_path_3"] = {"one": [arc], "two": [arc | {"start_pose": [10.0, 15.0, 1.5]}]}
    content["connectivity"] = {
        "one": {"incoming": [], "outgoing": ["two"]}, "two": {"incoming": ["one"], "outgoing": []},
    }  # fmt: skip
    (folder / "m.json").write_text(json.dumps(content))


def read_map(folder: Path) -> Any:
    return roadmap.RoadMap.read(folder / "m.json", centreline=True).vectors(10, 15, 0.3, (15.0, 30.0))


def make_tables(folder: Path) -> None:
    stand_in.write(folder, stand_in.Size(train_scenes=1, val_scenes=0, frames=1))


def read_tables(folder: Path) -> Any:
    version = next(path.name for path in sorted(folder.glob("v1.0-*")))
    return tables.read_frames(folder, version)[0]


def wrong_frames(frames: list[Any]) -> str:
    if not all(fields.is_file_name(one) for frame in frames for one in (frame.token, frame.scene, frame.location)):
        return "a name that leads out of the run"
    return finite(array for frame in frames for array in (frame.world_from_bev, frame.bev_from_cam()))


def make_language_model(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"model.embed_tokens.weight": small_tensor()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4, "vocab_size": 8}))


def small_tensor() -> Any:
    import torch

    return torch.arange(32.0).reshape(8, 4)


def read_language_model(folder: Path) -> Any:
    return language_model.read_config(folder), language_model.stored_shapes(folder, ["model.safetensors"])


# ---------------------------------------------------------------------------------------------- weights


def make_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": small_tensor(), "b": small_tensor()[0].clone()}, folder / "m1.safetensors")
    places = {"a.weight": "m1.safetensors", "b": "m1.safetensors"}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def make_pth(folder: Path) -> None:
    import torch

    torch.save(
        {"state_dict": {"a.weight": small_tensor(), "b": small_tensor()[0].clone()}, "epoch": 3}, folder / "m.pt"
    )


def make_old_pth(folder: Path) -> None:
    import torch

    torch.save({"a.weight": small_tensor()}, folder / "m.pth", _use_new_zipfile_serialization=False)


def read_weights(folder: Path) -> Any:
    found = sorted(folder.glob("*.index.json")) or sorted(path for path in folder.iterdir() if path.is_file())
    return [(name, tensor.shape, float(tensor.double().sum())) for name, tensor in weights.tensors(found[0])]


def make_adapters(folder: Path) -> None:
    """Adapters that another program saved by themselves, without PEFT."""
    import torch

    one = {"0.lora.lora_A": (2, 8), "0.lora.lora_B": (4, 2)}
    sides = one | {"2.lora_A": (2, 4), "2.lora_B": (3, 2), "2.lora_bias": (3,)}
    torch.save({name: torch.ones(shape) for name, shape in sides.items()}, folder / "lora_weights_9.pth")


def make_adapted(folder: Path) -> None:
    """Adapters and the base under them, as PEFT names them."""
    from safetensors.torch import save_file

    state = {f"base_model.model.{name}": tensor.clone() for name, tensor in adapted().state_dict().items()}
    save_file(state, folder / "checkpoint.safetensors")


@cache
def adapted() -> Any:
    """Two layers with adapters, as PEFT attaches them: its import takes seconds."""
    import torch
    from torch.nn import Linear, ModuleDict

    from lib.network.adapters import ADAPTER

    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = Linear(8, 4), Linear(4, 3)
        for layer in layers:
            vars(layer)["scaling"] = {ADAPTER: 1.0}
            layer.lora_A = ModuleDict({ADAPTER: Linear(layer.in_features, 2, bias=False)})
            layer.lora_B = ModuleDict({ADAPTER: Linear(2, layer.out_features, bias=False)})
        return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])


def read_adapters(folder: Path) -> Any:
    from lib.network import foreign

    file = next(folder.iterdir())
    layers, others, same = foreign.read(file, adapted())
    rank = foreign.fill(adapted(), layers, file, "python step1_setup.py lora.rank=2")
    return rank, others, same, [tensor for name, tensor in adapted().state_dict().items() if ".lora_" in name]


def wrong_adapters(found: Any) -> str:
    return finite([tensor.numpy() for tensor in found[3]]) if found[0] == 2 else f"a rank of {found[0]}"


# ---------------------------------------------------------------------------------------------- pictures, archives


def make_picture(kind: str) -> Callable[[Path], None]:
    return lambda folder: save_picture(folder / f"p.{kind}")


def read_picture(folder: Path) -> Any:
    path = next(folder.iterdir())
    size = pictures.header(path, upright=True)
    return size, pictures.read(path, upright=True, at_least=(8, 8))


def wrong_picture(found: Any) -> str:
    return "" if found[1].mode == "RGB" else f"a picture in {found[1].mode}"


def make_video(folder: Path) -> None:
    """Three frames that differ."""
    frames = [Image.fromarray(np.full((16, 24, 3), level, np.uint8)) for level in (10, 90, 200)]
    frames[0].save(folder / "v.gif", save_all=True, append_images=frames[1:])


def read_video(folder: Path) -> Any:
    return video.extract(folder / "v.gif", folder, 1)


def make_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("facade/images/a.jpg", b"photograph" * 300)
        archive.writestr("facade/cameras.txt", b"1 PINHOLE")


def make_7z(folder: Path) -> None:
    import py7zr

    with py7zr.SevenZipFile(folder / "a.7z", "w") as archive:
        archive.writestr(b"photograph" * 300, "facade/images/a.jpg")


def read_archive(folder: Path) -> Any:
    file = next(path for path in folder.iterdir() if path.suffix in archives.SUFFIXES)
    wanted = archives.contents(file, Asset("s", "licensed", files={"facade/**/*": ""}).files)
    archives.unpack(file, wanted, folder / "out", Memo(folder.parent / "hashes.json"))
    return [path for path in folder.parent.rglob("*") if path.is_file()]


def make_records(folder: Path) -> None:
    run.write_record(folder / "run.json", {"recipe": "toy", "config": {"train.lr": 1e-4}, "steps": [1, 2]})
    for step in range(3):
        run.append_line(folder / "log.jsonl", {"step": step, "loss": 0.5 / (1 + step)})


def read_records(folder: Path) -> Any:
    for path in sorted(folder.rglob("*.json")):
        run.existing(path)
    return [record for path in folder.rglob("*.jsonl") for record in run.read_log(path)]


def wrong_records(log: list[Any]) -> str:
    whole = [{"step": step, "loss": 0.5 / (1 + step)} for step in range(3)]
    return "" if all(record in whole for record in log) else "a record that nobody wrote"


READERS = {
    **HANDS,
    "map_json": Reader(make_map, read_map, lambda found: finite(one.vertices for one in found)),
    "centrelines": Reader(make_centrelines, read_map, lambda found: finite(one.vertices for one in found)),
    "nuscenes_tables": Reader(make_tables, read_tables, wrong_frames, f"{stand_in.VERSION}/*.json"),
    "language_model": Reader(make_language_model, read_language_model),
    "safetensors": Reader(make_safetensors, read_weights, shared="weights"),
    "pth": Reader(make_pth, read_weights, shared="weights"),
    "old_pth": Reader(make_old_pth, read_weights, shared="weights"),
    "adapters": Reader(make_adapters, read_adapters, wrong_adapters),
    "adapted": Reader(make_adapted, read_adapters, wrong_adapters),
    **SCENES,
    **SPECTROGRAMS,
    **{kind: Reader(make_picture(kind), read_picture, wrong_picture) for kind in ("png", "jpg", "tif", "webp", "bmp")},
    "video": Reader(make_video, read_video),
    "zip": Reader(make_zip, read_archive),
    "7z": Reader(make_7z, read_archive),
    "run_records": Reader(make_records, read_records, wrong_records, shared="run_records_plan"),
}
