"""Small networks of random weights that the tests of this folder share."""

import torch

from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.size import ModelSize

LITTLE = {
    "embed_dim": 32, "num_heads": 2, "dpt_features": 16, "dpt_out_channels": [8, 12, 16, 24], "camera_encoder_depth": 1,
}  # fmt: skip


def network(**changed) -> DA3:
    """One whose weights are large enough for every part to matter."""
    torch.manual_seed(0)
    built = DA3(ModelSize(**LITTLE | changed)).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.5, 1.0)
            elif "token" in name.rpartition(".")[2] or "pos_embed" in name:
                parameter.normal_(std=0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
        built.cam_dec.fc_fov[0].bias.fill_(4.0)  # a field of view that its ReLU lets through
    return built


def photos(views: int = 3, height: int = 42, width: int = 56, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def cameras(views: int = 3, batch: int = 1, precision=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Cameras from world (b, s, 3, 4) and intrinsics (b, s, 3, 3) in px."""
    generator = torch.Generator().manual_seed(2)
    rotation = torch.linalg.qr(torch.randn(batch, views, 3, 3, generator=generator).double())[0]
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    intrinsics = torch.tensor([[50.0, 0, 28], [0, 45, 21], [0, 0, 1]]).expand(batch, views, 3, 3)
    cam_from_world = torch.cat([rotation, torch.randn(batch, views, 3, 1, generator=generator)], -1)
    return cam_from_world.to(precision), intrinsics.to(precision)


def outputs(built: DA3, *inputs, **named) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = built(*inputs, rays=True, **named)
    return {name: value for name, value in found.items() if name != "pose_enc_list"}


def largest_difference(one: dict, other: dict) -> float:
    """Of the largest number of each output."""
    return max(((one[name] - other[name]).abs().max() / one[name].abs().max()).item() for name in one)
