"""The adapted model on the user's own inputs: step 5 --predict INPUTS --out DIR.

CHANGE: how INPUTS is read and what is written.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib.core.errors import Stop
from lib.core.records import Parts, Stage
from lib.core.run import atomic
from lib.data.pictures import Unreadable

from .config import Config
from .data import read_grey


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """INPUTS is a folder of .png files of any size; the clean ones get the same names in `out`."""
    files = sorted(Path(inputs).glob("*.png"))
    if not files:
        raise Stop(f"{inputs} holds no .png files", "give a folder of pictures to --predict")
    network = parts.modules["denoiser"]
    device = next(network.parameters()).device
    for file in files:
        try:
            noisy = torch.from_numpy(read_grey(file).astype(np.float32) / 255).to(device)
        except Unreadable as error:
            raise Stop(f"{file}: {error}", "take it out of the folder") from error
        clean = network(noisy[None, None])[0, 0].float().clamp(0, 1).cpu().numpy()
        with atomic(out / file.name) as temporary:
            Image.fromarray((255 * clean).round().astype(np.uint8)).save(temporary, format="PNG")
