"""The pose and shape critic of HMR (Kanazawa et al., CVPR 2018), used by HaMeR's adversarial prior.

46 tensors with 1 545 211 parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FINGER_JOINTS = 15


class Discriminator(nn.Module):
    """Says how real a hand pose looks: one score per joint, one for the shape, one for all joints together."""

    def __init__(self) -> None:
        super().__init__()
        self.D_conv1 = nn.Conv2d(9, 32, 1)
        self.D_conv2 = nn.Conv2d(32, 32, 1)
        self.pose_out = nn.ModuleList(nn.Linear(32, 1) for _ in range(FINGER_JOINTS))
        self.betas_fc1 = nn.Linear(10, 10)
        self.betas_fc2 = nn.Linear(10, 5)
        self.betas_out = nn.Linear(5, 1)
        self.D_alljoints_fc1 = nn.Linear(32 * FINGER_JOINTS, 1024)
        self.D_alljoints_fc2 = nn.Linear(1024, 1024)
        self.D_alljoints_out = nn.Linear(1024, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, hand_pose: Tensor, betas: Tensor) -> Tensor:
        """hand_pose (b, 15, 3, 3) without the wrist, betas (b, 10) -> (b, 17): 15 joints, shape, all joints."""
        joints = hand_pose.flatten(2).mT[..., None]  # (b, 9, 15, 1)
        joints = F.relu(self.D_conv2(F.relu(self.D_conv1(joints))))  # (b, 32, 15, 1)
        each = torch.cat([out(joints[:, :, i, 0]) for i, out in enumerate(self.pose_out)], 1)
        shape = self.betas_out(F.relu(self.betas_fc2(F.relu(self.betas_fc1(betas)))))
        together = F.relu(self.D_alljoints_fc2(F.relu(self.D_alljoints_fc1(joints.flatten(1)))))
        return torch.cat([each, shape, self.D_alljoints_out(together)], 1)
