"""MANO (Romero et al., SIGGRAPH Asia 2017): linear blend skinning of a hand, with the buffer names of smplx 0.1.28.

The model file is licensed: its arrays are kept out of every state dict, so no file that we write can hold them.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lib.recipes.hamer.mano_file import PARENTS, TIPS, ManoModel

# of 16 joints and 5 tips
OPENPOSE_FROM_MANO = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
PCA_COMPONENTS = 6  # smplx keeps so many rows of hands_components; nothing here reads them


class Mano(nn.Module):
    """Rotations and shape -> vertices and joints.

    Never adds `hands_mean`: HaMeR's poses are relative to the flat hand.
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    lbs_weights: Tensor
    faces_tensor: Tensor
    extra_joints_idxs: Tensor
    joint_map: Tensor

    def __init__(self, model: ManoModel) -> None:
        super().__init__()
        self.stand_in = model.stand_in
        tips = torch.tensor(TIPS)
        for name, value in {
            "v_template": real(model.v_template),
            "shapedirs": real(model.shapedirs),
            "posedirs": real(model.posedirs).flatten(0, 1).T.contiguous(),  # (135, 2334)
            "J_regressor": real(model.J_regressor),
            "lbs_weights": real(model.weights),
            "faces_tensor": torch.from_numpy(model.f.astype(np.int64)),
            "parents": torch.tensor(PARENTS),
            "hand_components": real(model.hands_components[:PCA_COMPONENTS]),
            "hand_mean": real(model.hands_mean),
            "pose_mean": torch.cat([torch.zeros(3), real(model.hands_mean)]),
            "extra_joints_idxs": tips,
            "joint_map": torch.tensor(OPENPOSE_FROM_MANO),
        }.items():
            self.register_buffer(name, value, persistent=False)
        self.vertex_joint_selector = nn.Module()
        self.vertex_joint_selector.register_buffer("extra_joints_idxs", tips.clone(), persistent=False)

    def forward(self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1, 3, 3), (b, 15, 3, 3), (b, 10) -> vertices (b, 778, 3) m, joints (b, 21, 3) m in OpenPose's order."""
        vertices, joints = self.skin(torch.cat([global_orient, hand_pose], 1), betas)
        return vertices, torch.cat([joints, vertices[:, self.extra_joints_idxs]], 1)[:, self.joint_map]

    def skin(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """rotations (b, 16, 3, 3), betas (b, 10) -> vertices (b, 778, 3) m, joints (b, 16, 3) m in MANO's order."""
        shaped = self.v_template + torch.einsum("bk,vck->bvc", betas, self.shapedirs)
        rest_joints = self.J_regressor @ shaped
        bend = (rotations[:, 1:] - torch.eye(3, device=rotations.device)).flatten(1)  # (b, 135)
        posed = shaped + (bend @ self.posedirs).unflatten(1, (-1, 3))
        world_rotations, joints = self.chain(rotations, rest_joints)
        shift = joints - (world_rotations @ rest_joints[..., None])[..., 0]
        blended = torch.einsum("vj,bjrc->bvrc", self.lbs_weights, world_rotations)
        return (blended @ posed[..., None])[..., 0] + self.lbs_weights @ shift, joints

    def chain(self, rotations: Tensor, rest_joints: Tensor) -> tuple[Tensor, Tensor]:
        """Forward kinematics: rotations (b, 16, 3, 3) and positions (b, 16, 3) m of the joints in the hand's frame."""
        turned, placed = [rotations[:, 0]], [rest_joints[:, 0]]
        for joint, parent in enumerate(PARENTS[1:], start=1):
            bone = rest_joints[:, joint] - rest_joints[:, parent]
            placed.append(placed[parent] + (turned[parent] @ bone[..., None])[..., 0])
            turned.append(turned[parent] @ rotations[:, joint])
        return torch.stack(turned, 1), torch.stack(placed, 1)


def real(array: np.ndarray) -> Tensor:
    """The same shape in float32."""
    return torch.from_numpy(array.astype(np.float32))
