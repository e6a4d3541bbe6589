"""Stand-in data in ETH3D's file formats: rendered streets as photographs, COLMAP models, laser depth and masks.

In a scene's folder:

- `images/dslr_images_undistorted/DSC_0001.JPG`: what a pinhole camera sees
- `dslr_calibration_undistorted/{cameras,images,points3D}.txt`: its COLMAP model
- `dslr_calibration_jpg/…`: the same poses with a THIN_PRISM_FISHEYE camera
- `ground_truth_depth/dslr_images/DSC_0001.JPG`: raw float32 z-depth in metres for that camera, inf where no laser
  returned
- `masks_for_images/dslr_images/DSC_0001.png`: 2 where the photograph shows what the scan lacks, if it shows any
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lib.scenes import lens, render, worlds

WIDTH_PX, HEIGHT_PX = 216, 144
SUPERSAMPLING = 2  # photographs are rendered larger and shrunk, so that edges are smooth
POINTS = 700  # per scene, before those that two views do not share are dropped
NO_RETURN = 0.1  # share of the laser's rays that come back with nothing
KEYPOINT_NOISE_PX = 0.3

Track = tuple[int, int, float, float]  # point, view, and where the view sees the point: x, y in px of the photograph


def write_scenes(folder: Path, names: list[str], views: int) -> None:
    """One street per name in an empty folder; its seed is a hash of the name, so it is the same street everywhere."""
    for name in names:
        write_scene(folder / name, zlib.crc32(name.encode()), views)


def write_scene(folder: Path, seed: int, views: int) -> None:
    """Photographs, laser depth, masks and both COLMAP models of one street."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 3]))
    geometry = render.Geometry(worlds.street(seed))
    focal = generator.uniform(0.8, 0.95)  # in image widths
    fine, distorted = pinhole(focal, SUPERSAMPLING), fisheye(focal, generator)
    poses = worlds.street_views(seed, views)
    names = [f"DSC_{number + 1:04d}.JPG" for number in range(views)]
    for path in ("images/dslr_images_undistorted", "ground_truth_depth/dslr_images", "masks_for_images/dslr_images"):
        (folder / path).mkdir(parents=True)
    hits = [geometry.hits(fine, pose) for pose in poses]
    for name, pose, hit in zip(names, poses, hits, strict=True):
        colour = geometry.photograph(fine, pose, hit) * generator.uniform(0.85, 1.15)  # the exposure
        write_photograph(folder / "images/dslr_images_undistorted" / name, colour)
        write_scan(folder, name, geometry, distorted, pose, generator)
    points, colours, tracks = sparse_points(fine, poses, hits, generator)
    for kind, camera, seen in (("undistorted", pinhole(focal), tracks), ("jpg", distorted, [])):
        images = [f"dslr_images{'_undistorted' if seen else ''}/{name}" for name in names]
        write_model(folder / f"dslr_calibration_{kind}", camera, images, poses, points, colours, seen)


def pinhole(focal: float, times: int = 1) -> Any:
    """A pycolmap.Camera of `times` the size of a photograph; the focal length is in image widths."""
    width, height = times * WIDTH_PX, times * HEIGHT_PX
    return lens.camera("PINHOLE", width, height, [focal * width, focal * width, width / 2, height / 2])


def fisheye(focal: float, generator: np.random.Generator) -> Any:
    """The camera of the photograph as taken: it sees a little more than the pinhole camera, with some distortion."""
    pixels = 0.94 * (WIDTH_PX / 2) / np.arctan(0.5 / focal)
    k1, k2 = generator.uniform(-0.02, 0.02, 2)
    small = generator.uniform(-5e-4, 5e-4, 6)  # p1 p2 k3 k4 sx1 sy1
    centre = np.array([WIDTH_PX, HEIGHT_PX]) / 2 + generator.uniform(-1.5, 1.5, 2)
    parameters = [pixels, pixels, *centre, k1, k2, *small]
    return lens.camera("THIN_PRISM_FISHEYE", WIDTH_PX, HEIGHT_PX, parameters)


def write_photograph(path: Path, colour: np.ndarray) -> None:
    """Colours (h, w, 3) in 0..1, shrunk to the size of a photograph, as JPEG."""
    from PIL import Image

    picture = Image.fromarray((np.clip(colour, 0, 1) * 255).astype(np.uint8))
    picture.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS).save(path, format="JPEG", quality=92)


def write_scan(
    folder: Path,
    name: str,
    geometry: render.Geometry,
    camera: Any,
    pose: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Depth as a laser sees it, and the mask of what stood in the photograph but not in the scan."""
    from PIL import Image

    hits = geometry.hits(camera, pose)
    # SKY and GROUND are -2 and -1, the last two.
    of_surface = [*(not box.scanned for box in geometry.world.boxes), False, False]
    unscanned = np.array(of_surface)[hits.number]
    nothing = unscanned | (hits.depth > render.FAR_M) | (generator.random(hits.depth.shape) < NO_RETURN)
    np.where(nothing, np.inf, hits.depth).astype("<f4").tofile(folder / "ground_truth_depth/dslr_images" / name)
    if unscanned.any():
        mask = np.where(unscanned, 2, 0).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks_for_images/dslr_images" / name.replace(".JPG", ".png"))


def sparse_points(
    camera: Any, poses: list[np.ndarray], hits: list[render.Hits], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[Track]]:
    """Surface points (n, 3) that two views see at least, their colours (n, 3) in 0..255, and their tracks."""
    x, y = render.pixel_rays(camera)
    found = []
    for _ in range(POINTS):
        view = int(generator.integers(len(poses)))
        row, column = generator.integers(camera.height), generator.integers(camera.width)
        depth = hits[view].depth[row, column]
        if depth < render.FAR_M / 2:
            cam = np.array([x[row, column], y[row, column], 1]) * depth
            found.append((cam - poses[view][:, 3]) @ poses[view][:, :3])
    points = np.array(found)
    seen: list[Track] = []
    for view, pose in enumerate(poses):
        in_view = observations(points, camera, pose, hits[view], generator)
        seen += [(point, view, *pixel) for point, pixel in in_view]
    counts = np.bincount([track[0] for track in seen], minlength=len(points))
    new_number = np.cumsum(counts >= 2) - 1
    tracks = [(int(new_number[point]), view, px, py) for point, view, px, py in seen if counts[point] >= 2]
    points = points[counts >= 2]
    return points, generator.integers(60, 200, points.shape), tracks


def observations(
    points: np.ndarray, camera: Any, pose: np.ndarray, hits: render.Hits, generator: np.random.Generator
) -> list[tuple[int, tuple[float, float]]]:
    """The points (n, 3) that one view sees as the first surface on their ray, and where, with a little noise."""
    cam = points @ pose[:, :3].T + pose[:, 3]
    pixels = camera.img_from_cam(np.where(cam[:, 2:] > 0.1, cam, (9e3, 9e3, 1.0)))
    inside = ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(1)
    column, row = np.where(inside[:, None], pixels, 0).astype(int).T
    seen = inside & (np.abs(hits.depth[row, column] / cam[:, 2] - 1) < 0.01)
    noisy = pixels / SUPERSAMPLING + generator.normal(0, KEYPOINT_NOISE_PX, pixels.shape)
    return [(int(point), (noisy[point, 0], noisy[point, 1])) for point in np.flatnonzero(seen)]


def write_model(
    folder: Path,
    camera: Any,
    names: list[str],
    poses: list[np.ndarray],
    points: np.ndarray,
    colours: np.ndarray,
    tracks: list[Track],
) -> None:
    """A COLMAP text model. Without tracks every image has an empty line of keypoints, as some of ETH3D's have."""
    folder.mkdir(parents=True)
    elements: list[list[str]] = [[] for _ in points]  # of each point: which keypoint of which image
    images = []
    for number, (name, pose) in enumerate(zip(names, poses, strict=True)):
        mine = [track for track in tracks if track[1] == number]
        for index, track in enumerate(mine):
            elements[track[0]].append(f"{number + 1} {index}")
        keypoints = [f"{x:.2f} {y:.2f} {point + 1}" for point, _, x, y in mine]
        keypoints += ["5.00 5.00 -1"] if mine else []  # -1: no point
        images += [f"{number + 1} {pose_text(pose)} 1 {name}", " ".join(keypoints)]
    rows = []
    for i, point in enumerate(points):
        place = " ".join(f"{value:.6f}" for value in point)
        rows.append(f"{i + 1} {place} {' '.join(map(str, colours[i]))} 0.3 {' '.join(elements[i])}".rstrip())
    parameters = " ".join(repr(float(value)) for value in camera.params)
    row = f"1 {camera.model_name} {camera.width} {camera.height} {parameters}"
    write_lines(folder / "cameras.txt", "CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", [row])
    header = "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME and POINTS2D[] as (X, Y, POINT3D_ID)"
    write_lines(folder / "images.txt", header, images)
    header = "POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"
    write_lines(folder / "points3D.txt", header, rows)


def pose_text(pose: np.ndarray) -> str:
    """COLMAP's quaternion has its scalar first, scipy's last."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(pose[:, :3]).as_quat()
    return " ".join(repr(float(value)) for value in (w, x, y, z, *pose[:, 3]))


def write_lines(path: Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([f"# {header}", *lines]) + "\n")


def box_sample(seed: int, views: int, width_px: int, height_px: int) -> dict[str, Any]:
    """A sample like those of `samples.load`, of a generic box world: what the demo's base network is trained on."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 4]))
    geometry = render.Geometry(worlds.box_world(seed))
    focal = generator.uniform(0.75, 1.05) * width_px
    # The centre of pixel (i, j) is (i + 0.5, j + 0.5) for COLMAP and (i, j) for the network, whose principal point is
    # at half the size.
    params = [focal, focal, width_px / 2 + 0.5, height_px / 2 + 0.5]
    camera = lens.camera("PINHOLE", width_px, height_px, params)
    poses = worlds.box_views(seed, views)
    hits = [geometry.hits(camera, pose) for pose in poses]
    depths = np.stack([np.where(hit.depth < render.FAR_M, hit.depth, 0) for hit in hits]).astype(np.float32)
    photographs = [geometry.photograph(camera, pose, hit) for pose, hit in zip(poses, hits, strict=True)]
    images = np.stack([photograph * generator.uniform(0.85, 1.15) for photograph in photographs])
    intrinsics = np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1]], np.float32)
    return {
        "sample_id": f"boxes/{seed}",
        "group": "boxes",
        "units": [f"boxes/{seed}/{view}" for view in range(views)],
        "images": np.clip(images, 0, 1).transpose(0, 3, 1, 2).astype(np.float32),
        "depths": depths,
        "valid": depths > 0,
        "extrinsics": np.stack(poses).astype(np.float32),
        "intrinsics": np.stack([intrinsics] * views),
    }
