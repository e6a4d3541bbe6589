"""Depth from ETH3D's laser scans (`<scene>_dslr_scan_eval.7z`), for scenes whose depth maps nobody fetched.

    <scene>/dslr_scan_eval/scan_alignment.mlp   MeshLab project: each scan's file and its 4 x 4 matrix, world from scan
    <scene>/dslr_scan_eval/scan1.ply ...        points, binary little endian

A scan has no surfaces, so what hides what is decided from points: each is a patch as wide as its neighbours lie apart
(surfaces.py).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from lib.core.errors import Stop
from lib.scenes.crop import Crop
from lib.scenes.surfaces import nearest_surface, splat

FOLDER, ALIGNMENT = "dslr_scan_eval", "scan_alignment.mlp"
VOXEL_M = 0.1  # the spacing of points is measured in cubes of this size; a scanner leaves 1 mm (near) to 3 cm (at 90 m)
MOST_SPACING_M = VOXEL_M / 2  # a lonely point says nothing of the surface around it
NEAR_M = 0.05  # nothing is closer to a camera
FARTHEST_M = 1e5  # no scan reaches so far; `spacing` tells cubes within it apart
MOST_REACH_PX = 16  # of a point very near the camera
# Relative depth within which points are one surface, beside three spacings; scans of a scene agree to about 1 cm.
SURFACE = 0.005
CHUNK = 1 << 22  # points in flight: a scene has up to 30 million
HEADER_BYTES = 1 << 14
PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4",
    "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4",
    "float": "<f4", "double": "<f8", "float32": "<f4", "float64": "<f8",
}  # fmt: skip
UNPACK_AGAIN = "unpack the scene's dslr_scan_eval archive again"


@dataclass(frozen=True)
class Cloud:
    points: np.ndarray  # (n, 3) float32, in the world
    spacing_m: np.ndarray  # (n,) float32: how far apart points lie near each


@lru_cache(maxsize=1)
def read(scene: Path) -> Cloud:
    """All scans of a scene in the world, without what lies farther away than any scanner sees.

    Stop names the file that is missing or damaged.
    """
    placed = read_alignment(scene / FOLDER / ALIGNMENT)
    parts = [read_ply(file) @ matrix[:3, :3].T + matrix[:3, 3] for file, matrix in placed]
    points = np.concatenate(parts)
    points = points[(np.abs(points) < FARTHEST_M).all(1)].astype(np.float32)
    if not len(points):
        raise Stop(f"the scans of {scene / FOLDER} hold no point within {FARTHEST_M / 1000:g} km", UNPACK_AGAIN)
    return Cloud(points, spacing(points))


def read_alignment(path: Path) -> list[tuple[Path, np.ndarray]]:
    """The scans that a MeshLab project lists, each with its matrix (4, 4), world from scan.

    Stop: the project is missing or damaged, or lists nothing.
    """
    import xml.etree.ElementTree as xml

    if not path.exists():
        raise Stop(f"{path} is missing: without it nobody knows where the scanners stood", UNPACK_AGAIN)
    found = []
    try:
        for mesh in xml.parse(path).iter("MLMesh"):
            matrix = np.array(mesh.findtext("MLMatrix44", "").split(), dtype=np.float64).reshape(4, 4)
            found.append((path.parent / mesh.attrib["filename"], matrix))
    except (xml.ParseError, ValueError, KeyError) as error:
        raise Stop(f"{path} cannot be read: {error}", UNPACK_AGAIN) from error
    if not found or not all(np.isfinite(matrix).all() for _, matrix in found):
        raise Stop(f"{path} lists no scan, or one whose matrix is not finite", UNPACK_AGAIN)
    for file, matrix in found:
        if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-4:
            raise Stop(f"{path}: the matrix of {file.name} does not end with the row 0, 0, 0, 1", UNPACK_AGAIN)
    return found


def read_ply(path: Path) -> np.ndarray:
    """(n, 3) float64: the vertices of a binary little-endian PLY, whatever other properties they have.

    Vertices that are not finite are left out. Stop: the file is missing, truncated or of another kind.
    """
    if not path.exists():
        raise Stop(f"{path} is missing, though {ALIGNMENT} lists it", UNPACK_AGAIN)
    count, kind, start = read_header(path)
    size, due = path.stat().st_size, start + count * kind.itemsize
    if size < due:
        raise Stop(f"{path} is truncated: {count} points need {due} bytes, it has {size}")
    vertices = np.memmap(path, dtype=kind, mode="r", offset=start, shape=(count,))
    points = np.stack([vertices[axis] for axis in "xyz"], 1).astype(np.float64)
    return points[np.isfinite(points).all(1)]


def read_header(path: Path) -> tuple[int, np.dtype, int]:
    """How many vertices a PLY has, their numpy type, and the byte where the first one begins."""
    with open(path, "rb") as file:
        header, end, _ = file.read(HEADER_BYTES).partition(b"end_header\n")
    text = header.decode("ascii", errors="replace")
    if not end or not re.match(r"ply\s+format binary_little_endian 1\.0\n", text):
        raise Stop(f"{path} is not a binary little-endian PLY: it begins with {text[:40]!r}")
    first = re.search(r"^element (\w+) (\d+)\n((?:property .*\n)*)", text, re.MULTILINE)
    properties = [line.split() for line in first[3].splitlines()] if first and first[1] == "vertex" else []
    # "": a list, which has no fixed size, or a line that is damaged
    kinds = {words[-1]: PLY_TYPES.get(words[1], "") if len(words) == 3 else "" for words in properties}
    whole = len(kinds) == len(properties) and all(kinds.values())
    if not first or not {"x", "y", "z"} <= kinds.keys() or not whole:
        raise Stop(f"{path} does not begin with vertices that have x, y and z")
    return int(first[2]), np.dtype(list(kinds.items())), len(header) + len(end)


def spacing(points: np.ndarray) -> np.ndarray:
    """(n,) float32 metres: how far apart points (n, 3) lie near each.

    A cube with n points on a surface has them VOXEL_M / sqrt(n) apart. Of a cube and its six neighbours the fullest
    counts, because a surface may only touch a corner of its own.
    """
    stride = np.array([1, 1 << 21, 1 << 42])  # 2 million cubes, 200 km, along each axis
    cubes = np.floor(points / VOXEL_M).astype(np.int64) @ stride
    keys, place, counts = np.unique(cubes, return_inverse=True, return_counts=True)
    fullest = counts.copy()
    for step in (*stride, *-stride):
        beside = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
        fullest = np.maximum(fullest, np.where(keys[beside] == keys + step, counts[beside], 0))
    return np.minimum(VOXEL_M / np.sqrt(fullest), MOST_SPACING_M).astype(np.float32)[place]


def depth(cloud: Cloud, cam_from_world: np.ndarray, crop: Crop) -> np.ndarray:
    """(h, w) float32 metres: the scanned surfaces that a crop sees from a camera (3, 4), 0 where there are none."""
    parts = [in_front(cloud, start, cam_from_world, crop) for start in range(0, len(cloud.points), CHUNK)]
    cam, spacing_m = (np.concatenate(part) for part in zip(*parts, strict=True))
    reach = np.minimum(2 * spacing_m * crop.intrinsics[0, 0] / cam[:, 2], MOST_REACH_PX)
    return nearest_surface(splat(cam, reach, 3 * spacing_m + SURFACE * cam[:, 2], crop), crop)


def in_front(cloud: Cloud, start: int, cam_from_world: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """A chunk of the points in the camera's axes (n, 3) and their spacing (n,), as far as the crop may see them."""
    chunk = slice(start, start + CHUNK)
    cam = cloud.points[chunk] @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    wide = (crop.width / 2 + MOST_REACH_PX) / crop.intrinsics[0, 0]
    high = (crop.height / 2 + MOST_REACH_PX) / crop.intrinsics[1, 1]
    seen = (cam[:, 2] > NEAR_M) & (abs(cam[:, 0]) < wide * cam[:, 2]) & (abs(cam[:, 1]) < high * cam[:, 2])
    return cam[seen], cloud.spacing_m[chunk][seen]
