"""Stand-in data: pictures of the made-up hand, bare or gloved, in HaMeR's evaluation format (`images/` and `annotations.npz`).

The shipped base was trained on bare hands (`pretrain.py`); the fine-tuning domain is gloved hands: other albedo, dipped palms, knitted
ribs, seams, thickness. Everything about a hand follows from (seed, subject, number), so the same command writes the same files.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image, ImageFilter

from lib.order import Key
from lib.recipes.hamer import render
from lib.recipes.hamer.hand import stand_in

FOCAL_PX, REACH_M = 1500.0, 0.21  # a long lens, as HaMeR's virtual camera; REACH_M fills the tight box
BOX_FACTOR = 1.2  # side of a box relative to the extent of its keypoints; DEMO's data.box_factor
UPRIGHT = ((0, 0, -1), (1, 0, 0), (0, -1, 0))  # wrist rotation: the back to the camera, fingers up
FINER = 2  # pictures are drawn at this scale and averaged down
TONES = ((0.95, 0.78, 0.66), (0.87, 0.66, 0.52), (0.74, 0.53, 0.40), (0.56, 0.38, 0.27), (0.38, 0.25, 0.18), (0.27, 0.18, 0.14))
# Radians about x, y, z of a joint: low and high. Bending is about z; the thumb also turns.
KNUCKLE, MIDDLE, END = ((-0.1, 0.1), (-0.2, 0.2), (-0.2, 1.2)), ((0, 0), (0, 0), (0.0, 1.4)), ((0, 0), (0, 0), (0.0, 0.8))
THUMB = ((-0.4, 0.2), (-0.2, 0.5), (-0.2, 0.3)), ((-0.1, 0.1), (-0.1, 0.4), (-0.1, 0.4)), ((0, 0), (-0.1, 0.8), (0, 0.2))


class Studio:
    """The made-up hand, ready for many pictures."""

    def __init__(self):
        from lib.recipes.hamer.mano import Mano

        model = stand_in()
        self.layer, self.faces = Mano(model), render.closed(model.f)

    def pose(self, pose: numpy.ndarray, betas: numpy.ndarray) -> tuple[numpy.ndarray, ...]:
        """Rest vertices, posed vertices (778, 3) and joints (21, 3)."""
        import torch

        from lib.recipes.hamer.losses import matrices

        shape = torch.from_numpy(betas).float()[None]
        vertices, joints = self.layer(*matrices(torch.from_numpy(pose).float()[None]), shape)
        rest = self.layer.v_template + self.layer.shapedirs @ shape[0]
        return tuple(tensor.squeeze(0).double().numpy() for tensor in (rest, vertices, joints))


@dataclass(frozen=True)
class Subject:
    """One person: the shape of the hand, the colour of the skin, and the glove, if there is one."""

    name: str
    betas: numpy.ndarray
    skin: numpy.ndarray
    glove: dict | None


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
    columns = {name: numpy.array([row[name] for row in rows]) for name in rows[0]}
    numpy.savez_compressed(folder / "annotations.npz", **columns)


def person(number: int, seed: int, gloved: bool) -> Subject:
    generator = Key(seed, -2, number).generator()
    betas = generator.normal(0, 0.8, 10).clip(-2, 2)
    skin = numpy.array(TONES[generator.integers(len(TONES))]) * generator.uniform(0.9, 1.1)
    return Subject(f"subject-{number:02d}", betas, skin.clip(0, 1), glove(generator) if gloved else None)


def glove(generator) -> dict:
    """Colours of back, palm, finger tips and seams; width of ribs and thickness in metres."""
    back, palm, tips = (generator.uniform(0.02, 1.0, 3) * generator.choice([0.35, 0.7, 1.0]) for _ in range(3))
    return {
        "back": back, "palm": palm, "tips": tips, "seam": generator.uniform(0, 0.15, 3), "rib_m": generator.uniform(0.004, 0.009),
        "rib": generator.uniform(0.1, 0.5), "tip_x_m": generator.uniform(-0.07, -0.03), "thickness_m": generator.uniform(0.001, 0.003),
    }  # fmt: skip


def take(studio: Studio, subject: Subject, generator, side_px: int) -> tuple[numpy.ndarray, dict]:
    """A picture (side, side, 3) uint8 and its annotation row; half of the hands are left ones, made by mirroring."""
    pose = numpy.concatenate([orientation(generator), fingers(generator)])
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
    return numpy.ascontiguousarray(picture), row(points, joints, pose, subject.betas, right, side_px)


def row(points, joints, pose, betas, right: bool, side_px: int) -> dict:
    """HaMeR's evaluation record of one hand; the box is in pixels."""
    low, high = points.min(0), points.max(0)
    single = lambda array: numpy.asarray(array, numpy.float32)
    ones = numpy.ones((len(points), 1))
    return {
        "center": single((low + high) / 2), "scale": single(BOX_FACTOR * (high - low)), "right": single(right),
        "hand_keypoints_2d": single(numpy.hstack([points, ones])), "hand_keypoints_3d": single(numpy.hstack([joints, ones])),
        "hand_pose": single(pose), "has_hand_pose": single(1), "betas": single(betas), "has_betas": single(1),
    }  # fmt: skip


def orientation(generator) -> numpy.ndarray:
    """Wrist rotation (3,) axis-angle: fingers roughly up, back or palm to the camera."""
    from scipy.spatial.transform import Rotation

    about_arm = generator.normal(0, 0.4) + (numpy.pi if generator.random() < 0.5 else 0)
    turn = Rotation.from_euler("yxz", [about_arm, generator.normal(0, 0.3), generator.normal(0, 0.4)])
    return (turn * Rotation.from_matrix(UPRIGHT)).as_rotvec()


def fingers(generator) -> numpy.ndarray:
    """45 numbers within joint limits; the fingers of a hand bend together, each with its own part."""
    together, pose = generator.uniform(0, 1), numpy.zeros((15, 3))
    for first in (0, 3, 6, 9):
        own = numpy.clip(together + generator.normal(0, 0.25), 0, 1)
        for i, limits in enumerate((KNUCKLE, MIDDLE, END)):
            low, high = numpy.array(limits).T
            share = numpy.array([generator.uniform(), generator.uniform(), numpy.clip(own + generator.normal(0, 0.08), 0, 1)])
            pose[first + i] = low + share * (high - low)
    for i, limits in enumerate(THUMB):
        low, high = numpy.array(limits).T
        pose[12 + i] = low + generator.uniform(size=3) * (high - low)
    return pose.ravel()


def photograph(faces: numpy.ndarray, subject: Subject, rest, vertices, generator, side_px: int) -> numpy.ndarray:
    """The hand before a background, lit, blurred and with noise: (side, side, 3) uint8."""
    large = FINER * side_px
    outward = render.vertex_normals(vertices, faces)
    if subject.glove:
        vertices = vertices + subject.glove["thickness_m"] * outward
    points = (vertices[:, :2] / vertices[:, 2:] * FOCAL_PX + side_px / 2) * FINER - 0.5
    seen = render.cover(points, vertices[:, 2], faces, large, large)
    light = numpy.append(generator.uniform(-1, 1, 2), -generator.uniform(0.4, 1.2))
    albedo = colours(subject, seen.interpolate(faces, rest), seen.interpolate(faces, render.vertex_normals(rest, faces)))
    picture = background(generator, side_px).repeat(FINER, 0).repeat(FINER, 1)
    picture[seen.face >= 0] = render.shaded(seen.interpolate(faces, outward), albedo, light, generator.uniform(0.25, 0.5))
    small = Image.fromarray((255 * picture.clip(0, 1)).astype(numpy.uint8)).reduce(FINER)
    small = small.filter(ImageFilter.GaussianBlur(generator.uniform(0.0, 0.8)))
    noise = generator.normal(0, generator.uniform(1, 6), (side_px, side_px, 3))
    return (numpy.asarray(small) + noise).clip(0, 255).astype(numpy.uint8)


def colours(subject: Subject, rest: numpy.ndarray, normals: numpy.ndarray) -> numpy.ndarray:
    """Albedo (n, 3) of surface points, given in the rest pose so that a pattern sticks to the hand."""
    if subject.glove is None:
        flush = 0.03 * numpy.sin(rest[:, :1] * 90) * [1, 0.3, 0.2]  # redder and paler zones along the fingers
        nails = ((normals[:, 1] > 0.75) & (rest[:, 0] < -0.073))[:, None]
        return (subject.skin + flush + 0.08 * nails).clip(0, 1)
    style = subject.glove
    albedo = numpy.where(normals[:, 1:2] < -0.15, style["palm"], style["back"])
    albedo = numpy.where(rest[:, :1] < style["tip_x_m"], style["tips"], albedo)
    albedo = albedo * (1 - style["rib"] * (numpy.sin(2 * numpy.pi * rest[:, :1] / style["rib_m"]) > 0.3))
    seam = (numpy.abs(normals[:, 1:2] + 0.15) < 0.12) | (rest[:, :1] > 0.082)
    return numpy.where(seam, style["seam"], albedo)


def background(generator, side: int) -> numpy.ndarray:
    """Soft noise around one colour, and some hard rectangles: (side, side, 3) floats."""
    colour, colourful = generator.random(3), generator.uniform(0, 0.6)
    picture = numpy.full((side, side, 3), colourful * colour + (1 - colourful) * colour.mean()) * generator.uniform(0.4, 1.2)
    for cells, weight in ((3, 0.4), (12, 0.15), (48, 0.08)):
        cell = generator.random((cells, cells, 3))
        cell = colourful * cell + (1 - colourful) * cell.mean(-1, keepdims=True)
        coarse = Image.fromarray((255 * cell).astype(numpy.uint8))
        picture += weight * (numpy.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / 255 - 0.5)
    for _ in range(generator.integers(0, 4)):
        x, y, w, h = (generator.random(4) * [side, side, side / 2, side / 2]).astype(int)
        picture[y : y + h, x : x + w] = 0.5 * picture[y : y + h, x : x + w] + 0.5 * generator.random(3) * generator.random()
    return picture
