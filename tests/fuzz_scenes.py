"""Scenes: COLMAP's models with and without rigs, nerfstudio's cameras, depth maps, laser scans."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.scenes import colmap, depth, depth_files, lens, nerfstudio, scans
from tests.fuzz_reader import Reader, finite

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


def make_rigs(form: str) -> Callable[[Path], None]:
    """Two cameras on a rig at two moments, as the installed COLMAP writes them."""

    def make(folder: Path) -> None:
        options = lens.pycolmap().SyntheticDatasetOptions()
        options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 2, 2
        options.num_points3D = 5
        (folder / "sparse" / "0").mkdir(parents=True)
        getattr(lens.pycolmap().synthesize_dataset(options), f"write_{form}")(folder / "sparse" / "0")

    return make


def make_nerfstudio(folder: Path) -> None:
    poses = [np.eye(4), np.diag([1.0, -1, -1, 1])]
    frames: list[dict[str, Any]] = [
        {
            "file_path": f"./images/{number}.jpg",
            "transform_matrix": pose.tolist(),
            "depth_file_path": f"lidar/{number}.png",
        }
        for number, pose in enumerate(poses)
    ]
    frames[1] |= {"w": 20, "camera_model": "PINHOLE", "k1": 0}
    said = {"camera_model": "OPENCV", "fl_x": 30, "fl_y": 31, "cx": 20, "cy": 15, "w": 40, "h": 30, "k1": 0.1}
    content = said | {"depth_unit_scale_factor": 0.001, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    (folder / "lidar").mkdir()
    for number, shape in enumerate([(30, 40), (30, 20)]):
        Image.fromarray(np.full(shape, 2500, np.uint16)).save(folder / "lidar" / f"{number}.png")


def make_nerfstudio_beside(folder: Path) -> None:
    """The cameras are COLMAP's, and transforms.json says where depth lies."""
    make_nerfstudio(folder)
    make_colmap_text(folder)
    frames = [{"file_path": f"images/{name}", "depth_file_path": "lidar/0.png"} for name in ("a.jpg", "b.jpg")]
    (folder / "transforms.json").write_text(json.dumps({"depth_unit_scale_factor": 0.001, "frames": frames}))


def make_depth_scale(folder: Path) -> None:
    """summary.json beside the scene, as the plain layout of 16-bit depth has it."""
    make_colmap_text(folder / "yard")
    make_nerfstudio(folder / "yard")
    (folder / "yard" / "transforms.json").unlink()
    (folder / "yard" / "lidar").rename(folder / "yard" / "depth")
    for name in ("a.png", "b.png"):
        shutil.copy(folder / "yard" / "depth" / "0.png", folder / "yard" / "depth" / name)
    (folder / "summary.json").write_text(json.dumps({"yard": {"depth_scale": 1000}}))


def read_nerfstudio(folder: Path) -> Any:
    """The cameras, and the depth of the frames that name one."""
    nerfstudio.content.cache_clear()
    nerfstudio.depth_files.cache_clear()
    scene = colmap.read(folder)
    maps = [depth_files.find_depth_map(scene, view, 0.0) for view in scene.views]
    return scene, [depth.read_depth(one) for one in maps if one]


def wrong_nerfstudio(found: Any) -> str:
    return wrong_scene(found[0]) or next((problem for one in found[1] if (problem := wrong_depth(one))), "")


def make_depth(folder: Path) -> None:
    np.save(folder / "d.npy", np.linspace(1, 9, 30 * 40, dtype=np.float32).reshape(30, 40))


def make_depth_png(folder: Path) -> None:
    Image.fromarray(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)).save(folder / "d.png")


def make_depth_raw(folder: Path) -> None:
    np.linspace(1, 9, 30 * 40, dtype="<f4").tofile(folder / "d.JPG")


def make_depth_dense(folder: Path) -> None:
    """COLMAP's patch_match_stereo: sizes in ASCII, then float32 row by row."""
    values = np.linspace(0, 9, 30 * 40, dtype="<f4")
    (folder / "d.jpg.geometric.bin").write_bytes(b"40&30&1&" + values.tobytes())


def read_depth(folder: Path) -> Any:
    camera = lens.camera("PINHOLE", 40, 30, [30.0, 30, 20, 15])
    return depth.read_depth(depth_files.DepthMap(next(folder.iterdir()), camera))


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


SCENES = {
    "colmap_text": Reader(make_colmap_text, read_colmap, wrong_scene),
    "colmap_bin": Reader(make_colmap_binary, read_colmap, wrong_scene),
    "rigs_text": Reader(make_rigs("text"), read_colmap, wrong_scene, "sparse/0/[rf]*"),
    "rigs_bin": Reader(make_rigs("binary"), read_colmap, wrong_scene, "sparse/0/[rf]*"),
    "nerfstudio": Reader(make_nerfstudio, read_nerfstudio, wrong_nerfstudio, "*.json"),
    "nerfstudio_beside": Reader(make_nerfstudio_beside, read_nerfstudio, wrong_nerfstudio, "*.json"),
    "depth_scale": Reader(
        make_depth_scale, lambda folder: read_nerfstudio(folder / "yard"), wrong_nerfstudio, "summary.json"
    ),
    "depth_scan": Reader(make_depth, read_depth, wrong_depth),
    "depth_png": Reader(make_depth_png, read_depth, wrong_depth),
    "depth_raw": Reader(make_depth_raw, read_depth, wrong_depth),
    "depth_dense": Reader(make_depth_dense, read_depth, wrong_depth),
    "ply_mlp": Reader(make_scans, read_scans, lambda cloud: finite([cloud.points, cloud.spacing_m])),
}
