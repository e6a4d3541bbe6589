"""Predictions for a person's own frames, and what a trained run is handed on as.

OUT/predictions.json          {sample token: [{"class", "score", "pts": [[x, y], …]}]}, in metres, x right and y
                              ahead of the lidar
OUT/<scene>-<token>.png       from above and in the six cameras
"""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.core.records import Batch, Parts, Stage
from lib.core.run import atomic, write_json
from lib.data import pictures
from lib.recipes.llava_map import evaluate, geometry, metrics, scene_view
from lib.recipes.llava_map.arrays import resized
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.language_model import tokenizer_files
from lib.recipes.llava_map.model import detect
from lib.recipes.llava_map.published import below
from lib.recipes.llava_map.tables import Frame, read_frames

DRAWN_PX = (800, 450)  # a person sees more than a small network does


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """`inputs` is a nuScenes folder, or FOLDER#scene-0061, or FOLDER#<sample token>. No map expansion is needed."""
    folder, _, wanted = inputs.partition("#")
    found = {
        frame.token: predict_frame(config, parts, frame, Path(folder), out) for frame in chosen(Path(folder), wanted)
    }
    write_json(out / "predictions.json", found)
    print(f"{len(found)} frames")


def predict_frame(config: Config, parts: Parts, frame: Frame, root: Path, out: Path) -> list[dict[str, Any]]:
    """The detections of a frame, which are also drawn."""
    batch = as_batch(config, frame, root, next(parts.modules["queries"].parameters()).device)
    [(logits, points)] = evaluate.network_outputs(config, parts, batch)
    found = metrics.best_pairs(logits, points, config.eval.detections)
    drawn = evaluate.shown(*found)
    shown, intrinsics = photographs(frame, root, DRAWN_PX)
    scene_view.scene_figure(
        out / f"{frame.scene}-{frame.token}.png",
        f"{frame.scene}  {frame.token}: {len(drawn)} lines with a score above {metrics.SHOWN_SCORE}",
        shown,
        {"intrinsics": intrinsics, "bev_from_cam": frame.bev_from_cam()},
        config.data,
        predicted=drawn,
    )
    return evaluate.listed(config, *found)


def chosen(folder: Path, wanted: str) -> list[Frame]:
    """The frames of the last version in the folder: all of them, those of a scene, or one sample.

    Stop where there are no tables, no such frame, or where the sample asked for lacks a picture or a pose.
    """
    versions = sorted(path.parent.name for path in folder.glob("*/sample_data.json"))
    if not versions:
        raise Stop(
            f"{folder} holds no nuScenes tables (<version>/sample_data.json); without cameras there is no prediction",
            "give a nuScenes folder to --predict",
        )
    frames, skipped = read_frames(folder, versions[-1])
    if wanted in skipped:
        raise Stop(f"the sample {wanted} cannot be used: {skipped[wanted]}", "choose another one")
    frames = [frame for frame in frames if wanted in ("", frame.scene, frame.token)]
    if not frames:
        raise Stop(
            f"{folder} has no usable frame {wanted or 'at all'}", "name a scene or a sample token of its tables after #"
        )
    return frames


def as_batch(config: Config, frame: Frame, root: Path, device: torch.device) -> Batch:
    """What model.detect needs of one frame, with a first axis of 1."""
    shown, intrinsics = photographs(frame, root, (config.data.width_px, config.data.height_px))
    arrays = {
        "pictures": shown,
        "intrinsics": intrinsics.astype(np.float32),
        "bev_from_cam": frame.bev_from_cam().astype(np.float32),
    }
    return {name: torch.from_numpy(array)[None].to(device) for name, array in arrays.items()}


def photographs(frame: Frame, root: Path, size_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The six pictures at a size (width, height): (6, 3, height, width) uint8, and their intrinsics (6, 3, 3) in
    pixels. Stop where a picture cannot be used.
    """
    found, intrinsics = [], []
    for camera in frame.cameras:
        try:
            found.append(np.asarray(resized(root, camera, size_px)).transpose(2, 0, 1))
        except pictures.Unreadable as reason:
            raise Stop(f"{root / camera.filename}: {reason}", "bring the picture again") from reason
        intrinsics.append(
            geometry.scaled(camera.intrinsics, size_px[0] / camera.width_px, size_px[1] / camera.height_px)
        )
    return np.stack(found), np.stack(intrinsics)


def export(config: Config, stage: Stage, parts: Parts, out: Path) -> None:
    """map.safetensors: everything that was trained, by module.

    A language model that was trained too goes into llm/, in transformers' format and with its tokenizer: a folder for
    model.llm of another run.
    """
    from safetensors.torch import save_file

    trained = trained_modules(parts)
    tensors = {
        f"{name}.{key}": tensor.contiguous()
        for name in trained
        if name != "llm"
        for key, tensor in parts.modules[name].state_dict().items()
    }
    with atomic(out / "map.safetensors") as temporary:
        save_file(tensors, temporary)
    if "llm" in trained:
        parts.modules["llm"].save_pretrained(out / "llm")
        for file in tokenizer_files(parts.modules["prompt"].tokenizer):
            shutil.copy(file, out / "llm")


def read_export(config: Config, stage: Stage, parts: Parts, folder: Path) -> None:
    """Stop: a tensor of a trained module is missing or has another shape."""
    from lib.network import weights

    file = folder / "map.safetensors"
    for name in dict.fromkeys(name.partition(".")[0] for names in weights.shards(file).values() for name in names):
        weights.load_strict(parts.modules[name], below(file, f"{name}."))
    if (folder / "llm").is_dir():
        weights.load_strict(parts.modules["llm"], folder / "llm" / "model.safetensors")


def network(config: Config, stage: Stage, parts: Parts) -> "Detector":
    return Detector(config, parts.modules)


class Detector(torch.nn.Module):
    """Pictures and cameras -> lines, under the guide's names."""

    def __init__(self, config: Config, modules: dict[str, Any]):
        super().__init__()
        self.config, self.parts = config, torch.nn.ModuleDict(modules)

    def forward(self, pictures: Tensor, intrinsics: Tensor, bev_from_cam: Tensor) -> dict[str, Tensor]:
        """pictures (b, 6, 3, h, w) of 0 to 255, intrinsics (b, 6, 3, 3) in pixels, bev_from_cam (b, 6, 4, 4) in metres
        -> pred_logits (b, instances, classes), before the sigmoid, and pred_points (b, instances, points, 2) in metres,
        x right and y ahead of the lidar; of the last decoder layer.
        """
        batch = {"pictures": pictures, "intrinsics": intrinsics, "bev_from_cam": bev_from_cam}
        logits, points = detect(dict(self.parts.items()), self.config, batch)
        half = torch.tensor(self.config.data.half_extent_m, device=points.device)
        return {"pred_logits": logits[-1], "pred_points": (points[-1] * 2 - 1) * half}


def trained_modules(parts: Parts) -> list[str]:
    """The modules of which any tensor was trained, by adapters or fully."""
    return [
        name
        for name, module in parts.modules.items()
        if name in parts.lora
        or any(re.fullmatch(one, f"{name}.{key}") for one in parts.full for key, _ in module.named_parameters())
    ]
