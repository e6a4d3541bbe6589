"""A miniature ETH3D of a scene that is known analytically: boxes on the ground, whose depth along any ray is a formula.

It is traced here and nowhere else, so that what the recipe reads from the files can be compared with what is there.
"""

import numpy as np
import py7zr
import pycolmap
from PIL import Image
from scipy.spatial.transform import Rotation

# Low and high corner of each box in metres, z up: two houses, one with a recess between its wings, a hut, a wall and a
# post.
BOXES = np.array([
    [[-7, 8, 0], [-2, 12, 6]], [[0.5, 7, 0], [2, 11, 4.5]], [[2, 8.2, 0], [4, 11, 4.5]], [[4, 7, 0], [6, 11, 4.5]],
    [[-1.8, 4.5, 0], [-0.6, 5.5, 1.6]], [[2.2, 4.2, 0], [5, 4.5, 1.1]], [[-3.4, 3.4, 0], [-3.2, 3.6, 3]],
])  # fmt: skip
GROUND_M = 25.0  # the ground ends here
EYES = [(-3.0, -3.0, 1.7), (-1.0, -4.0, 1.5), (1.0, -3.5, 2.2), (3.0, -2.5, 1.6)]
TARGETS = [(-1.0, 8.0, 1.5), (0.0, 8.0, 2.0), (0.5, 8.0, 1.2), (0.0, 8.0, 1.8)]
SCANNERS = [(-4.0, -1.0, 1.8), (3.5, -1.5, 1.8), (-0.3, 3.0, 1.8)]
SCAN_STEP_DEG = 0.25
# The last view has another camera.
PINHOLES = [("PINHOLE", 480, 320, [400, 400, 240, 160]), ("PINHOLE", 500, 330, [410, 410, 251, 166])]
LENSES = [
    ("THIN_PRISM_FISHEYE", 480, 320, [360, 360, 241, 159, 0.02, -0.01, 1e-3, -1e-3, 0.002, -0.001, 1e-3, 1e-3]),
    ("THIN_PRISM_FISHEYE", 500, 330, [372, 372, 249, 166, -0.01, 0.01, -1e-3, 1e-3, 0.001, 0.001, 1e-3, -1e-3]),
]
NAMES = ["DSC_0001.JPG", "DSC_0002.JPG", "DSC_0003.JPG", "DSC_0004.JPG"]
CAMERA_OF = [0, 0, 0, 1]
NOT_IN_SCAN, UNSUITED = np.s_[200:260, 60:150], np.s_[180:240, 300:380]  # of the first distorted photograph


def trace(origin, directions):
    """(...,) how often `directions` (..., 3) must be taken to reach the first surface; inf where there is none."""
    return hit(origin, directions)[0]


def hit(origin, directions):
    """The same, and the number of the surface: that of the box, or -1 for the ground and for nothing."""
    nearest, number = np.full(directions.shape[:-1], np.inf), np.full(directions.shape[:-1], -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = -origin[2] / directions[..., 2]
        place = origin[:2] + ground[..., None] * directions[..., :2]
        nearest = np.where((ground > 0) & (np.abs(place) < GROUND_M).all(-1), ground, nearest)
        for i, (low, high) in enumerate(BOXES):
            first, second = (low - origin) / directions, (high - origin) / directions
            enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
            nearer = (enter < leave) & (enter > 0) & (enter < nearest)
            nearest, number = np.where(nearer, enter, nearest), np.where(nearer, i, number)
    return nearest, number


def camera(model, width, height, params):
    return pycolmap.Camera(model=model, width=width, height=height, params=params)


def cam_from_world(view):
    """(3, 4): x right, y down, z forward."""
    forward = np.subtract(TARGETS[view], EYES[view])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([rotation, (-rotation @ EYES[view])[:, None]], 1)


def z_depth(view, x, y):
    """Depth along the camera's axis of what the rays (x, y, 1) meet."""
    rays = np.stack([x, y, np.ones_like(x)], -1)
    return trace(np.array(EYES[view]), rays @ cam_from_world(view)[:, :3])


def off_surface(view, x, y, depth):
    """(h, w) metres from the point at `depth` on each ray to the surface that it meets; in front of it negative."""
    rays = np.stack([x, y, np.ones_like(x)], -1) @ cam_from_world(view)[:, :3]
    distance, number = hit(np.array(EYES[view]), rays)
    points = EYES[view] + depth[..., None] * rays
    low, high = BOXES[number, 0], BOXES[number, 1]
    outside = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=-1)
    inside = np.minimum(points - low, high - points).min(-1)
    off = np.where(number < 0, np.abs(points[..., 2]), np.where(outside > 0, outside, inside))
    return np.where(depth < distance, -off, off)


def network_rays(intrinsics, width, height):
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return (column - intrinsics[0, 2]) / intrinsics[0, 0], (row - intrinsics[1, 2]) / intrinsics[1, 1]


def seen_by_a_scanner(view, x, y):
    """(h, w) bool: which of the surfaces some scanner sees too."""
    depth = z_depth(view, x, y)
    pose = cam_from_world(view)
    reached = np.where(np.isfinite(depth), depth, 0)
    points = (np.stack([x, y, np.ones_like(x)], -1) * reached[..., None] - pose[:, 3]) @ pose[:, :3]
    seen = [trace(np.array(eye), points - eye) > 0.999 for eye in SCANNERS]
    return np.any(seen, axis=0) & np.isfinite(depth)


def in_rectangle(view, x, y, rectangle):
    """(h, w) bool: which rays the distorted photograph shows within a rectangle."""
    lens = camera(*LENSES[CAMERA_OF[view]])
    pixels = lens.img_from_cam(np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)).reshape(*x.shape, 2)
    rows, columns = rectangle
    x, y = pixels[..., 0], pixels[..., 1]
    return (x > columns.start) & (x < columns.stop) & (y > rows.start) & (y < rows.stop)


# ---------------------------------------------------------------------------------------------- the files


def write(scene, seed=0):
    """One scene folder with everything that ETH3D has of it."""
    generator = np.random.default_rng(seed)
    for kind, cameras in (("undistorted", PINHOLES), ("jpg", LENSES)):
        folder = f"dslr_images{'_undistorted' if kind == 'undistorted' else ''}"
        write_model(scene / f"dslr_calibration_{kind}", cameras, folder)
        for view, name in enumerate(NAMES):
            path, taken_with = scene / "images" / folder / name, camera(*cameras[CAMERA_OF[view]])
            depth = write_photograph(path, view, taken_with, generator)
            if kind == "jpg":
                write_depth(scene / "ground_truth_depth" / "dslr_images" / name, depth, view, generator)
    mask = np.zeros((320, 480), np.uint8)
    mask[UNSUITED], mask[NOT_IN_SCAN] = 1, 2
    (scene / "masks_for_images" / "dslr_images").mkdir(parents=True)
    Image.fromarray(mask).save(scene / "masks_for_images" / "dslr_images" / "DSC_0001.png")
    write_scans(scene / "dslr_scan_eval")


def write_model(folder, cameras, images):
    folder.mkdir(parents=True)
    rows = [
        f"{i + 1} {model} {width} {height} {' '.join(map(str, params))}"
        for i, (model, width, height, params) in enumerate(cameras)
    ]
    (folder / "cameras.txt").write_text("# cameras\n" + "\n".join(rows) + "\n")
    lines = []
    for view, name in enumerate(NAMES):
        x, y, z, w = Rotation.from_matrix(cam_from_world(view)[:, :3]).as_quat()
        numbers = " ".join(repr(float(value)) for value in (w, x, y, z, *cam_from_world(view)[:, 3]))
        lines += [f"{view + 1} {numbers} {CAMERA_OF[view] + 1} {images}/{name}", ""]  # no keypoints
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "points3D.txt").write_text("# no points\n")


def write_photograph(path, view, cam, generator):
    """Nearer is darker, with noise, so that no two photographs are alike. Returns the depth of its pixels."""
    column, row = np.meshgrid(np.arange(cam.width) + 0.5, np.arange(cam.height) + 0.5)
    x, y = cam.cam_from_img(np.stack([column.ravel(), row.ravel()], 1)).T.reshape(2, cam.height, cam.width)
    depth = z_depth(view, x, y)
    grey = np.where(np.isfinite(depth), 10 * depth, 255) + generator.normal(0, 8, depth.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB").save(path, format="JPEG", quality=90)
    return depth


def write_depth(path, depth, view, generator):
    """Raw float32 without a header. One laser ray in ten returns nothing, and what the mask calls not in the scan is
    taken out.
    """
    depth = np.where(generator.random(depth.shape) < 0.1, np.inf, depth)
    if view == 0:
        depth[NOT_IN_SCAN] = np.inf
    path.parent.mkdir(parents=True, exist_ok=True)
    depth.astype("<f4").tofile(path)


def write_scans(folder):
    """Each scanner turns in its own axes, which the .mlp file places in the world."""
    folder.mkdir(parents=True)
    meshes = []
    for number, eye in enumerate(SCANNERS, 1):
        turns, tilts = np.arange(-10, 190, SCAN_STEP_DEG), np.arange(-45, 50, SCAN_STEP_DEG)
        azimuth, height = np.meshgrid(np.deg2rad(turns), np.deg2rad(tilts))
        world = np.stack([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)], -1)
        world = world.reshape(-1, 3)
        distance = trace(np.array(eye), world)
        hit = np.isfinite(distance)
        points = eye + distance[hit, None] * world[hit]
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("zyx", [30 * number, 2, 1], degrees=True).as_matrix()
        matrix[:3, 3] = eye
        write_ply(folder / f"scan{number}.ply", (points - matrix[:3, 3]) @ matrix[:3, :3])
        text = "\n".join(" ".join(f"{value:.9f}" for value in row) for row in matrix)
        name = f"scan{number}.ply"
        mesh = f'  <MLMesh label="{name}" filename="{name}">\n   <MLMatrix44>\n{text}\n</MLMatrix44>\n  </MLMesh>'
        meshes.append(mesh)
    head, foot = (
        ["<!DOCTYPE MeshLabDocument>", "<MeshLabProject>", " <MeshGroup>"],
        [" </MeshGroup>", "</MeshLabProject>"],
    )
    (folder / "scan_alignment.mlp").write_text("\n".join([*head, *meshes, *foot]) + "\n")


def write_ply(path, points):
    kind = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.zeros(len(points), kind)
    for axis, values in zip("xyz", points.T, strict=True):
        vertices[axis] = values
    names = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {names[type]} {name}" for name, type in kind]
    header += ["element camera 1", "property float view_px", "end_header"]
    path.write_bytes(("\n".join(header) + "\n").encode() + vertices.tobytes() + b"\0\0\0\0")


def pack(folder, archive, *names):
    """A .7z of some parts of a scene's folder. The scene's name is the archive's."""
    scene = archive.name.partition("_dslr_")[0]
    with py7zr.SevenZipFile(archive, "w", filters=[{"id": py7zr.FILTER_COPY}]) as packed:
        for name in names:
            packed.writeall(folder / name, f"{scene}/{name}")
