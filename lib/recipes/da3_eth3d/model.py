"""Depth Anything 3, any-view series (Lin et al. 2025, arXiv 2511.10647), under the published key names, in any size.

Sky, metric depth and Gaussians belong to other variants and are not built.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lib.recipes.da3_eth3d.codes import published_code, scenes_code
from lib.recipes.da3_eth3d.heads import CameraDecoder, CameraEncoder, DualDPT
from lib.recipes.da3_eth3d.size import ModelSize
from lib.recipes.da3_eth3d.trunk import Front, Trunk
from lib.scenes.dpt import DenseHead
from lib.scenes.fronts import packed, unpacked

Known = tuple[Tensor, Tensor]  # cameras (b, s, 3, 4), from world, and intrinsics (b, s, 3, 3) in px


class Read(NamedTuple):
    """What the heads read of the four blocks, in the order of the views as they were given."""

    patches: list[Tensor]  # (b, s, n, 2c) each, whose second half is normalised
    camera_tokens: list[Tensor]  # (b, s, 2c) each, as they are
    reference: Tensor | None  # (b,): the view whose camera is the world, where one was chosen


class DA3(nn.Module):
    def __init__(self, size: ModelSize):
        super().__init__()
        self.size = size
        self.backbone = nn.ModuleDict({"pretrained": Trunk(size)})
        self.head, self.cam_dec, self.cam_enc = DualDPT(size), CameraDecoder(size), CameraEncoder(size)

    def forward(
        self,
        images: Tensor,
        front: Tensor | None = None,
        known: Known | None = None,
        rays: bool = False,
        reference: str = "first",
        blocks: int = 0,
    ) -> dict[str, Tensor | list[Tensor]]:
        """RGB in 0..1 (b, s, 3, h, w), h and w multiples of the patch -> predictions:

        depth (b, s, h, w, 1), depth_conf (b, s, h, w), pose_enc (b, s, 9) in the code of `lib.scenes.geometry`, and
        pose_enc_list with it alone; pose_code (b, s, 9) as published, camera to world. With `rays` also ray (b, s, 8
        rows, 8 columns, 6), direction before origin, and ray_conf, for rows and columns of patches. Their unit is not
        metric: one scale for all of one call. `known` cameras replace the learned camera tokens; their world and unit
        should be those of `known_cameras.normalised`. `reference`: whose camera is the world where three views or more
        come without cameras (reference.py); the outputs keep the given order. `front` is `self.front(images)`, or with
        `blocks` what `self.front_of_views` says of so many.
        """
        read = self.read(images, front, known, reference, blocks)
        # exp() and 3x3 convolutions lose too much in half precision.
        with torch.autocast(images.device.type, enabled=False):
            patches = [layer.float() for layer in read.patches]
            found: dict[str, Tensor | list[Tensor]] = {**self.head(patches, *images.shape[-2:], rays)}
            code = self.cam_dec(read.camera_tokens[-1].float())
            pose = scenes_code(code)
            return found | {"pose_code": code, "pose_enc": pose, "pose_enc_list": [pose]}

    def front(self, images: Tensor) -> Tensor:
        """What the blocks before `alt_start` make of the images, each by itself: (b, s, 1 + n, c)."""
        early = [index for index in self.size.out_layers if index < self.size.alt_start]
        assert not early, "a network whose heads read such a block has no front of one tensor"
        return self.trunk.front(images).tokens

    def front_of_views(self, images: Tensor, front: Tensor, known: Known | None, blocks: int) -> Tensor:
        """What the first `blocks` blocks, more than `alt_start`, leave to the others (`fronts.packed`).

        It depends on all views, on their order, for the first one is the reference, and on `known` cameras. `front` is
        `self.front(images)`.
        """
        tokens = self.trunk.start(front, self.camera_condition(known, *images.shape[-2:]) if known else None)
        tokens, layers = self.trunk.across(images, tokens, self.size.alt_start, blocks)
        return packed(layers, tokens, blocks)

    def read(self, images: Tensor, front: Tensor | None, known: Known | None, reference: str, blocks: int = 0) -> Read:
        if blocks:
            assert front is not None and reference == "first", "what views made of one another has its reference view"
            early, tokens = unpacked(front, self.size.out_layers, blocks, self.size.embed_dim)
            layers, chosen = early | self.trunk.across(images, tokens, blocks, self.size.depth)[1], None
        else:
            layers, chosen = self.from_pictures(images, front, known, reference)
        found = [layers[index] for index in self.size.out_layers]
        return Read([self.half_normalised(one)[:, :, 1:] for one in found], [one[:, :, 0] for one in found], chosen)

    def from_pictures(
        self, images: Tensor, front: Tensor | None, known: Known | None, reference: str
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """`Trunk.forward` from the pictures, or from what is kept of each of them."""
        if front is None:
            of_pictures = self.trunk.front(images)
        else:
            assert reference in ("first", "middle"), "a kept front has no class tokens to choose by"
            of_pictures = Front(front, front[:, :, 0], {})
        tokens = self.camera_condition(known, *images.shape[-2:]) if known else None
        return self.trunk(images, of_pictures, tokens, reference)

    def half_normalised(self, layer: Tensor) -> Tensor:
        alone, after = layer.chunk(2, -1)
        return torch.cat([alone, self.trunk.norm(after).to(alone.dtype)], -1)

    def camera_condition(self, known: Known, height_px: int, width_px: int) -> Tensor:
        """The camera tokens (b, s, c) of known cameras, which go into the encoder as they are."""
        cam_from_world, intrinsics = known
        with torch.autocast(cam_from_world.device.type, enabled=False):
            code = published_code(cam_from_world[..., :3, :].float(), intrinsics.float(), height_px, width_px)
            return self.cam_enc(code)

    @property
    def trunk(self) -> Trunk:
        return cast(Trunk, self.backbone["pretrained"])

    @property
    def device(self) -> torch.device:
        return self.trunk.camera_token.device

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass: per block, and per frame of the dense head."""
        return self.trunk.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Trunk | DenseHead):
                module.gradient_checkpointing = on
