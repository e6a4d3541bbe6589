"""Classic mistakes in a Depth Anything 3 lie above the tolerances of its golden cases."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from lib.recipes.da3_eth3d import heads, ray_pose
from lib.recipes.da3_eth3d import trunk as backbone
from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.trunk import Trunk
from lib.scenes import dpt
from lib.scenes.layers import Rope
from tests import golden, golden_da3_pictures

SHARED = Path(__file__).parent.parent.parent / "shared" / "golden" / "da3"  # beside the checkout, where there is one
B, C, D = "b_nonsquare_four_views", "c_square_two_views_lowvar", "d_pose_conditioned_three_views"


def interpolate(exact=torch.nn.functional.interpolate, **changed):
    """The exact one with `changed` where it is given; `by_size` takes the table's new size and not a factor."""

    def wrong(x, size=None, scale_factor=None, **given):
        if scale_factor is not None and changed.get("by_size"):
            size, scale_factor = (
                [int(side * factor) for side, factor in zip(x.shape[-2:], scale_factor, strict=True)],
                None,
            )
        new = {key: value for key, value in changed.items() if key in given}
        return exact(x, size, scale_factor, **given | new)

    return wrong


def norm_with(eps: float, channels: int = 0, instead_of: float = 0.0):
    """Norms of one width, or of one eps, get another eps."""

    def init(self, width, given=1e-5, exact=nn.LayerNorm.__init__, **rest):
        exact(self, width, eps if width == channels or given == instead_of else given, **rest)

    return init


def turned_elsewhere(change):
    def turns(self, images, exact=Trunk.turns):
        return change(*exact(self, images))

    return turns


def rope_with(exact=backbone.rope, shift: int = 0, flip: bool = False, base: float = 100.0):
    def wrong(positions, head_dim, given):
        moved = (positions - shift).clamp(min=0)
        return exact(moved.flip(-1) if flip else moved, head_dim, base)

    return wrong


def normalised(left: bool, right: bool):
    def half_normalised(self, layer):
        halves = zip(layer.chunk(2, -1), (left, right), strict=True)
        return torch.cat([self.trunk.norm(half) if on else half for half, on in halves], -1)

    return half_normalised


def neck_with_relu(features: int, exact=heads.neck):
    convolutions = exact(features)
    for convolution in itertools.islice(convolutions, 4):
        convolution.register_forward_hook(lambda _, given, made: made.relu())
    return convolutions


EXACT_UV = dpt.uv_embedding
MISTAKES = {
    "residual unit adds ReLU(x), as VGGT": (C, "lib.recipes.da3_eth3d.heads.Residual.forward", dpt.Residual.forward),
    "block norms eps 1e-5": (C, "torch.nn.LayerNorm.__init__", norm_with(1e-5, instead_of=1e-6)),
    "q/k norms eps 1e-6": (C, "torch.nn.LayerNorm.__init__", norm_with(1e-6, 16)),
    "norms of all 32 channels eps 1e-6": (C, "torch.nn.LayerNorm.__init__", norm_with(1e-6, 32)),
    "head norm eps 1e-6": (C, "torch.nn.LayerNorm.__init__", norm_with(1e-6, 64)),
    "position table by size": (C, "torch.nn.functional.interpolate", interpolate(by_size=True)),
    "position table with antialias": (C, "torch.nn.functional.interpolate", interpolate(antialias=True)),
    "align_corners off": (C, "torch.nn.functional.interpolate", interpolate(align_corners=False)),
    "grid positions across views": (
        B, "lib.recipes.da3_eth3d.trunk.Trunk.turns",
        turned_elsewhere(lambda one, all_views: (one, Rope(*(part.repeat(4, 1, 1) for part in one)))),
    ),
    "no positions across views": (
        B, "lib.recipes.da3_eth3d.trunk.Trunk.turns", turned_elsewhere(lambda one, all_views: (one, None)),
    ),
    "positions from 0": (C, "lib.recipes.da3_eth3d.trunk.rope", rope_with(shift=1)),
    "x before y": (B, "lib.recipes.da3_eth3d.trunk.rope", rope_with(flip=True)),
    "base 10000": (C, "lib.recipes.da3_eth3d.trunk.rope", rope_with(base=10_000.0)),
    "both halves normalised": (C, "lib.recipes.da3_eth3d.model.DA3.half_normalised", normalised(True, True)),
    "no half normalised": (C, "lib.recipes.da3_eth3d.model.DA3.half_normalised", normalised(False, False)),
    "the other half normalised": (C, "lib.recipes.da3_eth3d.model.DA3.half_normalised", normalised(True, False)),
    "halves swapped": (
        C, "lib.recipes.da3_eth3d.model.DA3.half_normalised",
        lambda self, layer, exact=DA3.half_normalised: exact(self, layer).roll(layer.shape[-1] // 2, -1),
    ),
    "the first view instead of the chosen one": (
        B, "lib.recipes.da3_eth3d.trunk.chosen", lambda strategy, tokens: torch.zeros(len(tokens), dtype=torch.long),
    ),
    "order not restored": (
        B, "lib.recipes.da3_eth3d.trunk.reordered",  # of layers, whose width is twice that of the tokens
        lambda values, order, exact=backbone.reordered: values if values.shape[-1] == 64 else exact(values, order),
    ),
    "no UV embedding": (C, "lib.scenes.dpt.uv_embedding", lambda *given: 0 * EXACT_UV(*given)),
    "aspect inverted": (D, "lib.scenes.dpt.uv_embedding", lambda *given: EXACT_UV(*given[:3], 1 / given[3])),
    "tanh GELU": (
        C, "torch.nn.functional.gelu", lambda x, exact=torch.nn.functional.gelu: exact(x, approximate="tanh"),
    ),
    "ReLU between the convolutions of the ray neck": (C, "lib.recipes.da3_eth3d.heads.neck", neck_with_relu),
    "images not normalised": (C, "lib.recipes.da3_eth3d.trunk.IMAGENET_MEAN", (0.0, 0.0, 0.0)),
    "camera code read as camera from world": (C, "lib.recipes.da3_eth3d.model.scenes_code", lambda code: code),
    "known cameras encoded as camera from world": (
        D, "lib.recipes.da3_eth3d.codes.geometry.inverse", lambda cam_from_world: cam_from_world,
    ),
}  # fmt: skip


def failures(case: str) -> int:
    return sum(verdict.state == "FAIL" for verdict in golden.run(SHARED / case))


if SHARED.is_dir():

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_classic_mistakes_of_the_network_are_caught(mistake, monkeypatch):
        case, name, wrong = MISTAKES[mistake]
        monkeypatch.setattr(name, wrong)
        verdicts = [verdict for verdict in golden.run(SHARED / case) if verdict.state == "FAIL"]
        assert verdicts and not any("Error" in str(verdict) for verdict in verdicts)

    def test_rotation_times_lower_triangle_is_caught_where_the_principal_point_is_off_centre(monkeypatch):
        def lower(matrix, exact=torch.linalg.qr):
            rotation, upper = exact(matrix.flip(-1))
            return rotation.flip(-1), upper.flip(-1, -2)

        monkeypatch.setattr(ray_pose.torch.linalg, "qr", lower)
        assert failures("f_ray_to_pose") > 0

    def test_sides_that_are_cut_to_whole_patches_are_caught(monkeypatch):
        monkeypatch.setattr(golden_da3_pictures, "nearest", lambda side: side // 14 * 14)
        assert failures("h_preprocess") > 0
