"""A walk past the boxes of the miniature, and a network that knows the truth: every call is answered in a world
and a unit of its own, as the real networks do.
"""

import numpy as np
import torch

from lib.scenes import geometry
from lib.scenes.colmap_writer import Picture
from lib.scenes.photos import Photo, Window
from tests.scenes.miniature import network_rays, trace

WIDTH, HEIGHT = 60, 40
INTRINSICS = np.array([[50.0, 0, WIDTH / 2], [0, 50, HEIGHT / 2], [0, 0, 1]])
PHOTO_PX = 600, 400  # ten times the network's picture


def camera(number: int) -> np.ndarray:
    """(3, 4) from world: 0.25 m to the right with every photo, each a little higher or lower than the one before."""
    eye = np.array([-3 + 0.25 * number, -3.0, 1.6 + 0.15 * (number % 3)])
    forward = np.array([0.3, 8, 1.5]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([rotation, (-rotation @ eye)[:, None]], 1)


def depth(number: int) -> np.ndarray:
    """(h, w) metres along the axis, at most 60."""
    x, y = network_rays(INTRINSICS, WIDTH, HEIGHT)
    pose = camera(number)
    found = trace(-pose[:, :3].T @ pose[:, 3], np.stack([x, y, np.ones_like(x)], -1) @ pose[:, :3])
    return np.minimum(found, 60)


def photo(number: int, read=None) -> Photo:
    """Its colour is its number."""
    whole = Picture(f"walk/{number:03d}.jpg", *PHOTO_PX, 0, 0, 10, 10)
    made = read or (lambda: np.full((HEIGHT, WIDTH, 3), number, np.uint8))
    return Photo(f"walk/{number:03d}", made, Window(0, 0, WIDTH, HEIGHT), whole)


class Truth:
    """Called as a network. most: more views are out of memory. harm(call, cameras, depth): changes an answer."""

    def __init__(self, most: int = 100, harm=None):
        self.most, self.harm, self.calls = most, harm, []

    def __call__(self, images, photos):
        if len(photos) > self.most:
            raise torch.OutOfMemoryError("injected")
        numbers = [round(float(one) * 255) for one in images[0, :, 0, 0, 0]]
        assert [f"walk/{number:03d}" for number in numbers] == [one.called for one in photos]
        unit = torch.tensor([0.5 * 1.7 ** len(self.calls)]).double()
        self.calls.append(numbers)
        world = torch.from_numpy(np.stack([camera(number) for number in numbers]))
        cameras = geometry.relative_cameras(world[None], 1 / unit)[0]
        depths = torch.from_numpy(np.stack([depth(number) for number in numbers])) * unit
        if self.harm:
            self.harm(len(self.calls), cameras, depths)
        intrinsics = torch.from_numpy(INTRINSICS).expand(len(numbers), 3, 3)
        code = geometry.encode_cameras(cameras, intrinsics, HEIGHT, WIDTH)
        return {"pose_enc": code[None], "depth": depths[None, ..., None], "depth_conf": 1 + 0 * depths[None]}
