"""Predictions for a person's own frames, and what a trained run is handed on as.

OUT/predictions.json          {sample token: [{"class", "score", "pts": [[x, y], …]}]}, metres, x right and y ahead of the lidar
OUT/<scene>-<token>.png       from above and in the six cameras
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib.errors import Stop
from lib.recipes import Parts
from lib.recipes.llava_map import drawing, evaluate, geometry, metrics
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.tables import Frame, read_frames
from lib.run import atomic, write_json

DRAWN_PX = (800, 450)  # a person sees more than a small network does
TRAINED = ("qformer", "bridge", "queries", "decoder", "interaction")


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    """`inputs` is a nuScenes folder, or FOLDER#scene-0061, or FOLDER#<sample token>. No map expansion is needed."""
    folder, _, wanted = inputs.partition("#")
    found = {}
    for frame in chosen(Path(folder), wanted):
        batch = as_batch(cfg, frame, Path(folder), next(parts.modules["queries"].parameters()).device)
        [(logits, points)] = evaluate.network_outputs(cfg, parts, batch)
        scores, labels, lines = metrics.best_pairs(logits, points, cfg.eval.detections)
        found[frame.token] = evaluate.listed(scores, labels, lines)
        shown = [(int(label), line, score) for score, label, line in zip(scores, labels, lines, strict=True) if score > drawing.SHOWN_SCORE]
        pictures, intrinsics = photographs(frame, Path(folder), DRAWN_PX)
        cameras = {"intrinsics": intrinsics, "bev_from_cam": frame.bev_from_cam()}
        title = f"{frame.scene}  {frame.token}: {len(shown)} lines with a score above {drawing.SHOWN_SCORE}"
        drawing.scene_figure(out / f"{frame.scene}-{frame.token}.png", title, pictures, cameras, cfg.data.half_extent_m, predicted=shown)
    write_json(out / "predictions.json", found)
    print(f"{len(found)} frames")


def chosen(folder: Path, wanted: str) -> list[Frame]:
    """The frames of the only version in the folder, of one scene or one sample of it."""
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
        raise Stop(f"{folder} has no usable frame {wanted or 'at all'}", "name a scene or a sample token of its tables after #")
    return frames


def as_batch(cfg: Config, frame: Frame, root: Path, device: Any) -> dict[str, Any]:
    pictures, intrinsics = photographs(frame, root, (cfg.data.width_px, cfg.data.height_px))
    arrays = {"pictures": pictures, "intrinsics": intrinsics.astype(np.float32), "bev_from_cam": frame.bev_from_cam().astype(np.float32)}
    return {name: torch.from_numpy(array)[None].to(device) for name, array in arrays.items()}


def photographs(frame: Frame, root: Path, size_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The six pictures at a size (6, 3, h, w) uint8, and the intrinsics that belong to it (6, 3, 3)."""
    pictures, intrinsics = [], []
    for camera in frame.cameras:
        try:
            with Image.open(root / camera.filename) as picture:
                picture.draft("RGB", size_px)
                small = picture.convert("RGB").resize(size_px, Image.Resampling.BILINEAR, reducing_gap=2.0)
        except OSError as error:
            raise Stop(f"{root / camera.filename} cannot be decoded: {error}", "bring the picture again") from error
        pictures.append(np.asarray(small).transpose(2, 0, 1))
        intrinsics.append(geometry.scaled(camera.intrinsics, size_px[0] / camera.width_px, size_px[1] / camera.height_px))
    return np.stack(pictures), np.stack(intrinsics)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    """map.safetensors: everything that was trained, by module. A language model that was trained too is saved in its own format."""
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{key}": tensor.contiguous()
        for name in TRAINED
        if name in parts.modules
        for key, tensor in parts.modules[name].state_dict().items()
    }
    with atomic(out / "map.safetensors") as temporary:
        save_file(tensors, temporary)
    if "llm" in parts.lora or any(pattern.startswith("llm") for pattern in parts.full):
        parts.modules["llm"].save_pretrained(out / "llm")
