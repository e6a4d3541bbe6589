"""Stand-in data: pictures of the stand-in hand, bare or gloved, in HaMeR's evaluation format (`images/` and
`annotations.npz`).

The shipped base was trained on bare hands (`pretrain.py`); the fine-tuning domain is gloved hands: other albedo, dipped
palms, knitted ribs, seams, thickness. Everything about a hand follows from (seed, subject, number), so the same command
writes the same files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from lib.core.order import Key
from lib.recipes.hamer import render
from lib.recipes.hamer.hand import stand_in_hand

FOCAL_PX, REACH_M = 1500.0, 0.21  # a long lens, as HaMeR's virtual camera; REACH_M fills the tight box
BOX_FACTOR = 1.2  # side of a box relative to the extent of its keypoints; DEMO's data.box_factor
UPRIGHT = ((0, 0, -1), (1, 0, 0), (0, -1, 0))  # wrist rotation: the back to the camera, fingers up
FINER = 2  # pictures are drawn at this scale and averaged down
TONES = (
    (0.95, 0.78, 0.66),
    (0.87, 0.66, 0.52),
    (0.74, 0.53, 0.40),
    (0.56, 0.38, 0.27),
    (0.38, 0.25, 0.18),
    (0.27, 0.18, 0.14),
)
# Radians about x, y, z of a joint: low and high. Bending is about z; the thumb also turns.
KNUCKLE = ((-0.1, 0.1), (-0.2, 0.2), (-0.2, 1.2))
MIDDLE = ((0, 0), (0, 0), (0.0, 1.4))
END = ((0, 0), (0, 0), (0.0, 0.8))
THUMB = (
    ((-0.4, 0.2), (-0.2, 0.5), (-0.2, 0.3)),
    ((-0.1, 0.1), (-0.1, 0.4), (-0.1, 0.4)),
    ((0, 0), (-0.1, 0.8), (0, 0.2)),
)


class Studio:
    """The stand-in hand, ready for many pictures."""

    def __init__(self) -> None:
        from lib.recipes.hamer.mano import Mano

        model = stand_in_hand()
        self.layer, self.faces = Mano(model), render.closed(model.f)

    def pose(self, pose: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, ...]:
        """pose (48,) rad, betas (10,) -> rest vertices, posed vertices (778, 3) m and joints (21, 3) m."""
        import torch

        from lib.recipes.hamer.geometry import hand_rotations

        shape = torch.from_numpy(betas).float()[None]
        vertices, joints = self.layer(*hand_rotations(torch.from_numpy(pose).float()[None]), shape)
        rest = self.layer.v_template + self.layer.shapedirs @ shape[0]
        return tuple(tensor.squeeze(0).double().numpy() for tensor in (rest, vertices, joints))


@dataclass(frozen=True)
class Subject:
    """One person: the shape of the hand, the colour of the skin, and the glove, if there is one."""

    name: str
    betas: np.ndarray
    skin: np.ndarray
    glove: dict[str, Any] | None


def write(folder: Path, subjects: int, hands: int, side_px: int, seed: int = 7) -> None:
    """The gloved data set: `subjects` x `hands` pictures and annotations.npz, in an empty folder."""
    studio, rows = Studio(), []
    for number in range(subjects):
        subject = person(number, seed, gloved=True)
        (folder / "images" / subject.name).mkdir(parents=True)
        for i in range(hands):
            picture, row = take(studio, subject, Key(seed, number, i).generator(), side_px)
            name = f"{subject.name}/{i:04d}.jpg"
            Image.fromarray(picture).save(folder / "images" / name, quality=92)
            rows.append(row | {"imgname": name})
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    np.savez_compressed(folder / "annotations.npz", **columns)


def person(number: int, seed: int, gloved: bool) -> Subject:
    """The person of this number, always the same one; the skin of a gloved person is that of the bare one."""
    generator = Key(seed, -2, number).generator()
    betas = generator.normal(0, 0.8, 10).clip(-2, 2)
    skin = np.array(TONES[generator.integers(len(TONES))]) * generator.uniform(0.9, 1.1)
    return Subject(f"subject-{number:02d}", betas, skin.clip(0, 1), glove(generator) if gloved else None)


def glove(generator: np.random.Generator) -> dict[str, Any]:
    """Colours of back, palm, finger tips and seams; width of ribs and thickness in metres."""
    back, palm, tips = (generator.uniform(0.02, 1.0, 3) * generator.choice([0.35, 0.7, 1.0]) for _ in range(3))
    return {
        "back": back,
        "palm": palm,
        "tips": tips,
        "seam": generator.uniform(0, 0.15, 3),
        "rib_m": generator.uniform(0.004, 0.009),
        "rib": generator.uniform(0.1, 0.5),
        "tip_x_m": generator.uniform(-0.07, -0.03),
        "thickness_m": generator.uniform(0.001, 0.003),
    }


def take(
    studio: Studio, subject: Subject, generator: np.random.Generator, side_px: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """A picture (side, side, 3) uint8 and its annotation row; half of the hands are left ones, made by mirroring."""
    pose = np.concatenate([orientation(generator), fingers(generator)])
    rest, vertices, joints = studio.pose(pose, subject.betas)
    zoom = generator.uniform(0.70, 0.84) * side_px / REACH_M / FOCAL_PX  # 1 / depth
    middle = (joints.max(0) + joints.min(0)) / 2
    shift = generator.uniform(-0.06, 0.06, 2) * REACH_M
    joints, vertices = (points - middle + [*shift, 1 / zoom] for points in (joints, vertices))
    picture = photograph(studio.faces, subject, rest, vertices, generator, side_px)
    right = bool(generator.random() < 0.5)
    points = joints[:, :2] / joints[:, 2:] * FOCAL_PX + side_px / 2 - 0.5
    if not right:
        picture, points[:, 0], joints[:, 0] = picture[:, ::-1], side_px - 1 - points[:, 0], -joints[:, 0]
        pose = (pose.reshape(-1, 3) * [1, -1, -1]).ravel()
    return np.ascontiguousarray(picture), row(points, joints, pose, subject.betas, right)


def row(points: np.ndarray, joints: np.ndarray, pose: np.ndarray, betas: np.ndarray, right: bool) -> dict[str, Any]:
    """HaMeR's evaluation record of one hand; keypoints (21, 2) px, joints (21, 3) m, the box in pixels."""
    low, high = points.min(0), points.max(0)
    ones = np.ones((len(points), 1))
    columns = {
        "center": (low + high) / 2, "scale": BOX_FACTOR * (high - low), "right": right,
        "hand_keypoints_2d": np.hstack([points, ones]), "hand_keypoints_3d": np.hstack([joints, ones]),
        "hand_pose": pose, "has_hand_pose": 1, "betas": betas, "has_betas": 1,
    }  # fmt: skip
    return {name: np.asarray(value, np.float32) for name, value in columns.items()}


def orientation(generator: np.random.Generator) -> np.ndarray:
    """Wrist rotation (3,) axis-angle in rad: fingers roughly up, back or palm to the camera."""
    from scipy.spatial.transform import Rotation

    about_arm = generator.normal(0, 0.4) + (np.pi if generator.random() < 0.5 else 0)
    turn = Rotation.from_euler("yxz", [about_arm, generator.normal(0, 0.3), generator.normal(0, 0.4)])
    return (turn * Rotation.from_matrix(UPRIGHT)).as_rotvec()


def fingers(generator: np.random.Generator) -> np.ndarray:
    """Axis-angle (45,) rad within joint limits; the fingers of a hand bend together, each with its own part."""
    together, pose = generator.uniform(0, 1), np.zeros((15, 3))
    for first in (0, 3, 6, 9):
        own = np.clip(together + generator.normal(0, 0.25), 0, 1)
        for i, limits in enumerate((KNUCKLE, MIDDLE, END)):
            low, high = np.array(limits).T
            share = np.array([generator.uniform(), generator.uniform(), np.clip(own + generator.normal(0, 0.08), 0, 1)])
            pose[first + i] = low + share * (high - low)
    for i, limits in enumerate(THUMB):
        low, high = np.array(limits).T
        pose[12 + i] = low + generator.uniform(size=3) * (high - low)
    return pose.ravel()


def photograph(
    faces: np.ndarray,
    subject: Subject,
    rest: np.ndarray,
    vertices: np.ndarray,
    generator: np.random.Generator,
    side_px: int,
) -> np.ndarray:
    """The hand before a background, lit, blurred and with noise: (side_px, side_px, 3) uint8.

    rest, vertices (778, 3) m: in the rest pose, which the pattern sticks to, and before the camera.
    """
    large = FINER * side_px
    outward = render.vertex_normals(vertices, faces)
    if subject.glove:
        vertices = vertices + subject.glove["thickness_m"] * outward
    points = (vertices[:, :2] / vertices[:, 2:] * FOCAL_PX + side_px / 2) * FINER - 0.5
    seen = render.cover(points, vertices[:, 2], faces, large, large)
    light = np.append(generator.uniform(-1, 1, 2), -generator.uniform(0.4, 1.2))
    rest_normals = render.vertex_normals(rest, faces)
    albedo = colours(subject, seen.interpolate(faces, rest), seen.interpolate(faces, rest_normals))
    picture = background(generator, side_px).repeat(FINER, 0).repeat(FINER, 1)
    normals, ambient = seen.interpolate(faces, outward), generator.uniform(0.25, 0.5)
    picture[seen.face >= 0] = render.shaded(normals, albedo, light, ambient)
    small = Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8)).reduce(FINER)
    small = small.filter(ImageFilter.GaussianBlur(generator.uniform(0.0, 0.8)))
    noise = generator.normal(0, generator.uniform(1, 6), (side_px, side_px, 3))
    return (np.asarray(small) + noise).clip(0, 255).astype(np.uint8)


def colours(subject: Subject, rest: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Albedo (n, 3) 0 … 1 of surface points (n, 3) m, given in the rest pose so that a pattern sticks to the hand."""
    if subject.glove is None:
        flush = 0.03 * np.sin(rest[:, :1] * 90) * [1, 0.3, 0.2]  # redder and paler zones along the fingers
        nails = ((normals[:, 1] > 0.75) & (rest[:, 0] < -0.073))[:, None]
        return (subject.skin + flush + 0.08 * nails).clip(0, 1)
    style = subject.glove
    albedo = np.where(normals[:, 1:2] < -0.15, style["palm"], style["back"])
    albedo = np.where(rest[:, :1] < style["tip_x_m"], style["tips"], albedo)
    albedo = albedo * (1 - style["rib"] * (np.sin(2 * np.pi * rest[:, :1] / style["rib_m"]) > 0.3))
    seam = (np.abs(normals[:, 1:2] + 0.15) < 0.12) | (rest[:, :1] > 0.082)
    return np.where(seam, style["seam"], albedo)


def background(generator: np.random.Generator, side_px: int) -> np.ndarray:
    """Soft noise around one colour, and some hard rectangles: (side_px, side_px, 3) floats around 0 … 1."""
    colour, colourful = generator.random(3), generator.uniform(0, 0.6)
    plain = colourful * colour + (1 - colourful) * colour.mean()
    picture = np.full((side_px, side_px, 3), plain) * generator.uniform(0.4, 1.2)
    for cells, weight in ((3, 0.4), (12, 0.15), (48, 0.08)):
        cell = generator.random((cells, cells, 3))
        cell = colourful * cell + (1 - colourful) * cell.mean(-1, keepdims=True)
        coarse = Image.fromarray((255 * cell).astype(np.uint8))
        picture += weight * (np.asarray(coarse.resize((side_px, side_px), Image.Resampling.BICUBIC)) / 255 - 0.5)
    for _ in range(generator.integers(0, 4)):
        x, y, w, h = (generator.random(4) * [side_px, side_px, side_px / 2, side_px / 2]).astype(int)
        patch = picture[y : y + h, x : x + w]
        patch[:] = 0.5 * patch + 0.5 * generator.random(3) * generator.random()
    return picture
