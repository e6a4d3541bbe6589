"""What step 5 adds for TensorBoard: held-out metrics, pictures and settings, in eval/tensorboard/ of the run.

`tensorboard --logdir runs/NAME` shows them beside the curves of the training.
"""

import shutil
from pathlib import Path
from typing import Any

from lib.core.run import Run


def write(run: Run, scores: dict[str, Any], record: dict[str, Any]) -> Path:
    """Made anew each time. Scalars are held_out/<metric> with a line each for base, adapted and trivial."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "eval" / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(folder) as writer:
        for metric, found in scores["metrics"].items():
            for column in ("base", "adapted", "trivial"):
                if found[column] is not None:
                    writer.add_scalar(f"held_out/{metric}/{column}", found[column], scores["step"])
        for picture in sorted((run.folder / "figures").glob("*.png")):
            writer.add_image(picture.stem, pixels(picture), scores["step"], dataformats="HWC")
        writer.add_text("settings", table(record["config"]))
    return folder


def pixels(picture: Path) -> Any:
    """(h, w, 3) uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def table(settings: dict[str, Any]) -> str:
    """As Markdown, which TensorBoard renders."""
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in settings.items())])
