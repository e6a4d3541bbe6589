"""Every reader of files that come from somewhere else: how to make a small whole file, how to read it, what is right.

`read` is the project's own reader. It may end with one of ENDS (one sentence) and with nothing else; where it gives a
value, `wrong` says what cannot be true of it. `damaged` names the files that the fuzzer changes, by a pattern.
"""

import csv
import io
import json
import pickle
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lib.core import run
from lib.core.errors import Stop
from lib.core.hashes import Memo
from lib.core.records import Asset
from lib.data import archives, pictures
from lib.network import weights
from lib.recipes.hamer import formats, mano_file
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.llava_map import fields, language_model, roadmap, stand_in, tables
from lib.recipes.vavae_microdoppler import echo_files, echoes, recordings
from lib.recipes.vavae_microdoppler.config import DataConfig as RadarData
from lib.scenes import colmap, depth, lens, scans

ENDS = (Stop, pictures.Unreadable, echo_files.Unusable)  # a sentence: of the step, or of one record


class Reader(NamedTuple):
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    wrong: Callable[[Any], str] = lambda value: ""
    damaged: str = "**/*"  # which of the files
    shared: str = ""  # the beginning of the names of folders with inputs for this reader, where it is another name
    reasons: Callable[[Any], list[str]] = lambda value: []  # why single records of a value are left out


def finite(arrays: Iterable[np.ndarray]) -> str:
    return next((f"numbers that are not finite: {one.shape}" for one in arrays if not np.isfinite(one).all()), "")


# ---------------------------------------------------------------------------------------------- hands

HAND = stand_in_hand()


class Ch:
    """Pickles as chumpy.ch.Ch does."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


def make_mano_pickle(folder: Path) -> None:
    import scipy.sparse

    content = {name: getattr(HAND, name) for name in mano_file.SHAPES if name != "kintree_table"}
    content |= {"kintree_table": np.array([[4294967295, *mano_file.PARENTS[1:]], range(16)], np.int64)}
    content |= {"J_regressor": scipy.sparse.csc_matrix(HAND.J_regressor), "shapedirs": Ch(x=HAND.shapedirs)}
    fake = types.ModuleType("chumpy.ch")
    fake.__dict__["Ch"], Ch.__module__ = Ch, "chumpy.ch"
    sys.modules["chumpy"], sys.modules["chumpy.ch"] = types.ModuleType("chumpy"), fake
    try:
        (folder / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(content, protocol=2))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def make_mano_npz(folder: Path) -> None:
    content = {name: getattr(HAND, name) for name in mano_file.SHAPES if name != "kintree_table"}
    np.savez(folder / "MANO_RIGHT.npz", kintree_table=np.array([[-1, *mano_file.PARENTS[1:]], range(16)]), **content)


def read_mano(folder: Path) -> Any:
    return mano_file.read(next(folder.glob("MANO_RIGHT.*")))


def wrong_mano(hand: Any) -> str:
    shapes = {name: shape for name, shape in mano_file.SHAPES.items() if name != "kintree_table"}
    odd = [name for name, shape in shapes.items() if getattr(hand, name).shape != shape]
    return f"{odd[0]} has another shape" if odd else finite(getattr(hand, name) for name in shapes)


def hands(form: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        return list(formats.hands(DataConfig(format=form), folder, HAND))

    return read


def wrong_hands(found: list[Any]) -> str:
    for hand in found:
        labels, shapes = hand.labels, ((21, 3), (21, 4), (48,), (10,))
        arrays = (labels.keypoints_2d, labels.keypoints_3d, labels.hand_pose, labels.betas)
        if not hand.fault and tuple(one.shape for one in arrays) != shapes:
            return f"labels of the shapes {[one.shape for one in arrays]}"
        weights_of = np.concatenate([one[:, -1] for one in arrays[:2]]) if not hand.fault else np.zeros(1)
        if not ((weights_of >= 0) & (weights_of <= 1) | np.isnan(weights_of)).all():  # NaN is skipped by name later
            return "a weight outside [0, 1]"
    return ""


def faults_of(found: list[Any]) -> list[str]:
    return [hand.fault for hand in found]


def save_picture(path: Path, side_px: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (side_px, side_px, 3), np.uint8)).save(path)


def points(columns: int) -> np.ndarray:
    return np.cumsum(np.full((21, columns), 0.01), 0)


def make_hands_json(folder: Path) -> None:
    flat, bone = (20 + 300 * points(2)).tolist(), points(3).tolist()
    entry = {"file": "0.png", "hand": "right", "box": [2, 3, 30, 28], "group": "p0", "keypoints_2d": flat}
    entry |= {"keypoints_3d": bone, "hand_pose": [0.0] * 48, "betas": [0.0] * 10}
    save_picture(folder / "0.png")
    (folder / "hands.json").write_text(json.dumps([entry, {"file": "0.png", "hand": "left"}]))


def make_hands_csv(folder: Path) -> None:
    save_picture(folder / "0.png")
    (folder / "hands.csv").write_text("file,hand,x0,y0,x1,y1,group\n0.png,right,1,2,30,29,a\n0.png,left,,,,,b\n")


def make_freihand(folder: Path) -> None:
    joints = points(3) + np.array([0, 0, 0.8])
    content = {"xyz": [joints.tolist()], "K": [[[500.0, 0, 112], [0, 500, 112], [0, 0, 1]]], "mano": [[[0.1] * 61]]}
    for name, value in content.items():
        (folder / f"training_{name}.json").write_text(json.dumps(value))
    for number in range(4):
        save_picture(folder / "training" / "rgb" / f"{number:08d}.jpg")


def make_hands_npz(folder: Path) -> None:
    np.savez(
        folder / "eval.npz", imgname=np.array(["a/1.jpg", "b/1.jpg"]), center=np.full((2, 2), 20.0),
        scale=np.full((2, 2), 30.0), right=np.array([1, 0]), betas=np.zeros((2, 10)), has_betas=np.array([1, 0]),
        hand_pose=np.zeros((2, 48)), has_hand_pose=np.array([1, 1]),
        hand_keypoints_2d=np.concatenate([20 + np.stack([points(2)] * 2), np.ones((2, 21, 1))], 2),
        hand_keypoints_3d=np.concatenate([np.stack([points(3)] * 2), np.ones((2, 21, 1))], 2),
    )  # fmt: skip


def make_hands_tar(folder: Path) -> None:
    one = np.ones((21, 1))
    labels = {
        "keypoints_2d": np.concatenate([points(2), one], 1), "keypoints_3d": np.concatenate([points(3), one], 1),
        "center": np.zeros(2), "scale": np.ones(2), "right": 1.0, "betas": np.zeros(10), "has_betas": 1.0,
        "hand_pose": np.zeros(48), "has_hand_pose": 1.0, "extra_info": {},
    }  # fmt: skip
    save_picture(folder / "x.jpg", 16)
    members = {"0.jpg": (folder / "x.jpg").read_bytes(), "0.data.pyd": pickle.dumps([labels])}
    (folder / "x.jpg").unlink()
    with tarfile.open(folder / "000.tar", "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


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


# ---------------------------------------------------------------------------------------------- scenes

CAMERAS = "1 PINHOLE 40 30 30 30 20 15\n2 OPENCV 40 30 30 31 20 15 0.1 0.01 0.001 0.001\n"
IMAGES = "1 1 0 0 0 0 0 0 1 b.jpg\n1 2 7 3 4 -1 5 6 9\n2 0.5 0.5 0.5 0.5 1 2 3 2 a.jpg\n5 5 9\n"
POINTS = "7 0 0 1 10 20 30 0.5 1 0\n9 0.5 0 2 10 20 30 0.5 1 2 2 0\n"


def make_colmap_text(folder: Path) -> None:
    (folder / "sparse" / "0").mkdir(parents=True)
    for name, text in (("cameras", CAMERAS), ("images", IMAGES), ("points3D", POINTS)):
        (folder / "sparse" / "0" / f"{name}.txt").write_text(text)


def make_colmap_binary(folder: Path) -> None:
    make_colmap_text(folder)
    model = folder / "sparse" / "0"
    reconstruction = lens.pycolmap().Reconstruction(model)
    for file in model.iterdir():
        file.unlink()
    reconstruction.write_binary(model)
    for file in model.iterdir():
        if file.stem not in ("cameras", "images", "points3D"):
            file.unlink()


def read_colmap(folder: Path) -> Any:
    return colmap.read(folder)


def wrong_scene(scene: Any) -> str:
    if any(len(view.seen) and view.seen.max() >= len(scene.points) for view in scene.views):
        return "a view that sees a point that is not there"
    return finite([scene.points, *(view.cam_from_world for view in scene.views)])


def make_depth(folder: Path) -> None:
    np.save(folder / "d.npy", np.linspace(1, 9, 30 * 40, dtype=np.float32).reshape(30, 40))


def make_depth_png(folder: Path) -> None:
    Image.fromarray(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)).save(folder / "d.png")


def make_depth_raw(folder: Path) -> None:
    np.linspace(1, 9, 30 * 40, dtype="<f4").tofile(folder / "d.JPG")


def read_depth(folder: Path) -> Any:
    camera = lens.camera("PINHOLE", 40, 30, [30.0, 30, 20, 15])
    return depth.read_depth(depth.DepthMap(next(folder.iterdir()), camera))


def wrong_depth(found: np.ndarray) -> str:
    odd = found.ndim != 2 or found.dtype != np.float32 or (found < 0).any()
    return f"a map of {found.shape} {found.dtype}" if odd else finite([found])


def make_scans(folder: Path) -> None:
    kind = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1")]
    vertices = np.zeros(9, kind)
    vertices["x"], vertices["z"] = np.arange(9), 4
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\nproperty float y\n"
    (folder / "dslr_scan_eval").mkdir()
    content = (header + "property float z\nproperty uchar red\nend_header\n").encode() + vertices.tobytes()
    (folder / "dslr_scan_eval" / "scan1.ply").write_bytes(content)
    matrix = " ".join(map(str, np.eye(4).ravel()))
    mesh = f'<MLMesh filename="scan1.ply"><MLMatrix44>{matrix}</MLMatrix44></MLMesh>'
    text = f"<!DOCTYPE MeshLabDocument>\n<MeshLabProject><MeshGroup>{mesh}</MeshGroup></MeshLabProject>"
    (folder / "dslr_scan_eval" / "scan_alignment.mlp").write_text(text)


def read_scans(folder: Path) -> Any:
    scans.read.cache_clear()
    return scans.read(folder)


# ---------------------------------------------------------------------------------------------- echoes, pictures, …


def make_echo(folder: Path) -> None:
    np.save(folder / "e.npy", np.exp(2j * np.pi * 0.05 * np.arange(400)).astype(np.complex64))


def read_echoes(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """The echoes, and the reasons of those that cannot be used."""
    found, reasons = [], []
    for path in sorted(folder.rglob("*.npy")):
        try:
            found.append(echoes.read(path, RadarData()))
        except echo_files.Unusable as error:
            reasons.append(str(error))
    if not found:
        raise echo_files.Unusable(reasons[0])
    return found, reasons


def make_table(folder: Path) -> None:
    with open(folder / "recordings.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "recording"), ("u1/a.png", "r1"), ("u1/b.png", "r2")])


def read_table(folder: Path) -> Any:
    return recordings.read_recordings(RadarData(recordings_csv="recordings.csv"), folder)


def make_picture(kind: str) -> Callable[[Path], None]:
    return lambda folder: save_picture(folder / f"p.{kind}")


def read_picture(folder: Path) -> Any:
    path = next(folder.iterdir())
    size = pictures.header(path, upright=True)
    return size, pictures.read(path, upright=True, at_least=(8, 8))


def wrong_picture(found: Any) -> str:
    return "" if found[1].mode == "RGB" else f"a picture in {found[1].mode}"


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
    "mano_pickle": Reader(make_mano_pickle, read_mano, wrong_mano, shared="mano"),
    "mano_npz": Reader(make_mano_npz, read_mano, wrong_mano, shared="mano"),
    "hands_json": Reader(make_hands_json, hands("folder"), wrong_hands, "*.json", "hamer_folder", faults_of),
    "hands_csv": Reader(make_hands_csv, hands("folder"), wrong_hands, "*.csv", "hamer_folder", faults_of),
    "hands_npz": Reader(make_hands_npz, hands("hamer_npz"), wrong_hands, "*.npz", "hamer_npz", faults_of),
    "hands_tar": Reader(make_hands_tar, hands("hamer_tar"), wrong_hands, "*.tar", "hamer_tar", faults_of),
    "freihand": Reader(make_freihand, hands("freihand"), wrong_hands, "*.json", "hamer_freihand", faults_of),
    "map_json": Reader(make_map, read_map, lambda found: finite(one.vertices for one in found)),
    "nuscenes_tables": Reader(make_tables, read_tables, wrong_frames, f"{stand_in.VERSION}/*.json"),
    "language_model": Reader(make_language_model, read_language_model),
    "safetensors": Reader(make_safetensors, read_weights, shared="weights"),
    "pth": Reader(make_pth, read_weights, shared="weights"),
    "old_pth": Reader(make_old_pth, read_weights, shared="weights"),
    "colmap_text": Reader(make_colmap_text, read_colmap, wrong_scene),
    "colmap_bin": Reader(make_colmap_binary, read_colmap, wrong_scene),
    "depth_scan": Reader(make_depth, read_depth, wrong_depth),
    "depth_png": Reader(make_depth_png, read_depth, wrong_depth),
    "depth_raw": Reader(make_depth_raw, read_depth, wrong_depth),
    "ply_mlp": Reader(make_scans, read_scans, lambda cloud: finite([cloud.points, cloud.spacing_m])),
    "vavae_iq": Reader(make_echo, read_echoes, lambda read: finite(read[0]), reasons=lambda read: read[1]),
    "recordings_csv": Reader(make_table, read_table),
    **{kind: Reader(make_picture(kind), read_picture, wrong_picture) for kind in ("png", "jpg", "tif", "webp", "bmp")},
    "zip": Reader(make_zip, read_archive),
    "7z": Reader(make_7z, read_archive),
    "run_records": Reader(make_records, read_records, wrong_records, shared="run_records_plan"),
}
