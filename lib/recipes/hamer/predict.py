"""The adapted model on a person's own photographs: pictures, meshes and numbers for every hand.

INPUTS is a folder of images. `hands.json` or `hands.csv` in it lists boxes (as data.box_format says, in the upright
picture) and handedness (formats.py); without one every image is one box around a right hand. FreiHAND's pred.json holds
the hands in the order of the list.

Where an entry has `K`, the camera's matrix for the upright picture in pixels (3 x 3, or fx, fy, cx, cy), the
translation is metric, as far as the hand's size is, and pred.json holds the hands in front of that camera once all of
them have one. Without it HaMeR's focal length stands in: the hand lies right in the picture, but far too deep.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib.core.errors import Stop
from lib.core.records import Parts, Stage
from lib.core.run import atomic, write_json
from lib.data import pictures
from lib.recipes.hamer import conventions, crop, formats, label_page, overlay, render
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.conventions import BadLabel
from lib.recipes.hamer.geometry import full_translation
from lib.recipes.hamer.labelled import table
from lib.recipes.hamer.skeleton import skeleton

FULL_FOCAL = 5000 / 256  # HaMeR's focal length of a whole image, in its longer sides
SQUARE = 0.01  # by which two focal lengths may differ
OFF = 0.2  # of a picture's half sides, between its middle and where a camera looks; lenses are off by half of it
MIRROR = np.array([-1.0, 1, 1])


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """Per hand NAME_i.png (crop, overlay, side view), NAME_i_keypoints.png, NAME_i.obj, NAME_i.json; per image
    NAME_all.jpg; pred.json. An image that cannot be read is skipped, with its reason.

    Stop: no images, a label file that cannot be read, or a box without area or outside its image.
    """
    network, skipped = parts.modules["hamer"], 0
    joints: list[tuple[np.ndarray, np.ndarray]] = []
    vertices: list[tuple[np.ndarray, np.ndarray]] = []
    metric = True
    root = Path(inputs)
    found = listed(root)
    for (file, entries), stem in zip(found.items(), stems(list(found)), strict=True):
        try:
            picture = np.asarray(pictures.read(root / file, upright=True))
        except pictures.Unreadable as error:
            print(f"  skipped {file}: {error}", flush=True)
            skipped += 1
            continue
        composite = picture
        for number, entry in enumerate(entries):
            answer = hand(config, network, picture, entry)
            write_hand(config, picture, answer, network.mano.stand_in, out, f"{stem}_{number}")
            placed = answer["vertices"] + answer["translation"]
            composite = overlay.mesh(composite, placed, answer["faces"], answer["focal_px"], answer["principal"])
            joints.append((answer["joints"], answer["translation"]))
            vertices.append((answer["vertices"], answer["translation"]))
            metric = metric and answer["metric"]
        save(composite, out / f"{stem}_all.jpg")
    if skipped == len(found):
        raise Stop(f"no image in {root} can be read", "give a folder of pictures to --predict")
    content = [[(points + metric * shift).tolist() for points, shift in hands] for hands in (joints, vertices)]
    write_predictions(out / "pred.json", content, network.mano.stand_in, skipped)
    print(f"{len(joints)} hands")


def write_predictions(path: Path, content: list[Any], stand_in: bool, skipped: int) -> None:
    if stand_in:
        print("pred.json is not written: with the stand-in hand it could not be compared with FreiHAND")
    elif skipped:
        print(f"pred.json is not written: its hands are counted, and {skipped} images could not be read")
    else:
        write_json(path, content)


def stems(files: list[str]) -> list[str]:
    """Names of outputs, one for each file: without folders and ending, and with a number where that names two."""
    found: dict[str, None] = {}
    for file in files:
        stem = Path(file).with_suffix("").as_posix().replace("/", "_")
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        found[next(name for name in itertools.chain([stem], numbered) if name not in found)] = None
    return list(found)


def listed(inputs: Path) -> dict[str, list[dict[str, Any]]]:
    """Image -> its hands, in the order of the list."""
    if not inputs.is_dir():
        raise Stop(f"{inputs} is not a folder of images", "give a folder to --predict")
    found: dict[str, list[dict[str, Any]]] = {}
    if any((inputs / name).exists() for name in formats.LABEL_FILES):
        for entry in formats.entries(inputs):
            found.setdefault(entry["file"], []).append(entry)
        return found
    images = sorted(label_page.photographs(inputs))
    if not images:
        raise Stop(f"{inputs} holds no images", "give a folder with .jpg or .png files")
    return {name: [{"file": name, "hand": "right", "box": None}] for name in images}


def hand(config: Config, network: Any, picture: np.ndarray, entry: dict[str, Any]) -> dict[str, Any]:
    """One hand of a picture (h, w, 3) uint8, in the camera frame of the whole image.

    A left one was mirrored for the network and is mirrored back: vertices (778, 3) m, joints (21, 3) m, translation
    (3,) m. `answer` and `closed` (the faces) stay those of the right hand in the mirror.
    """
    height, width = picture.shape[:2]
    try:
        given, right = formats.box_in(entry), formats.side_of(entry) == "right"
    except BadLabel as error:
        raise Stop(f"{entry['file']}: {error}", "correct the label file") from error
    whole = np.array([0, 0, width - 1, height - 1], float)
    box = whole if given is None else conventions.corners(given, config.data.box_format)
    refuse_bad_box(box, entry["file"], width, height)
    factor = config.data.box_factor if given is not None else 1.0
    image, centre, side_px = crop.detection(picture, box, right, factor, config.model.crop_px)
    device = network.backbone.pos_embed.device
    answer = {name: value.float().cpu() for name, value in network(torch.from_numpy(image)[None].to(device)).items()}
    focal_px, principal = camera_of(entry, width, height)
    translation = in_whole_image(answer["pred_cam"], right, centre, side_px, 2 * principal, focal_px)
    faces = render.closed(network.mano.faces_tensor.cpu().numpy())
    back = np.ones(3) if right else MIRROR
    return {
        "right": right, "image": image, "centre": centre, "side_px": side_px,
        "answer": {name: value[0].numpy() for name, value in answer.items()},
        "vertices": answer["pred_vertices"][0].numpy() * back, "joints": answer["pred_keypoints_3d"][0].numpy() * back,
        "translation": translation, "focal_px": focal_px, "principal": principal, "metric": entry.get("K") is not None,
        "faces": faces if right else faces[:, ::-1], "closed": faces,
    }  # fmt: skip


def camera_of(entry: dict[str, Any], width: int, height: int) -> tuple[float, np.ndarray]:
    """Focal length in px and principal point (2,) px of the whole image.

    HaMeR's camera where the entry has no `K`. Stop: a `K` that is no camera of this picture, or has other pixels than
    square ones.
    """
    if entry.get("K") is None:
        return FULL_FOCAL * max(width, height), np.array([width, height]) / 2
    right = "give K as 3 x 3 numbers or as fx, fy, cx, cy, in pixels of the upright picture"
    try:
        given = table(entry["K"], "K", (3, 3), (4,), kind=np.float64)
    except BadLabel as error:
        raise Stop(f"{entry['file']}: {error}", right) from error
    fx, fy, cx, cy = given if given.shape == (4,) else given[[0, 1, 0, 1], [0, 1, 2, 2]]
    if not (np.isfinite(given).all() and min(fx, fy) > 1 and 0 < cx < width and 0 < cy < height):
        raise Stop(f"{entry['file']}: K is no camera of a picture of {width} x {height} px", right)
    if size := other_size(cx, cy, width, height):
        cause = (
            f"{entry['file']}: K looks at {cx:g}, {cy:g} px, the middle of {size}, and this is {width} x {height} px"
        )
        raise Stop(f"{cause}: it is of another size, or of the picture before it was turned", right)
    if abs(fx / fy - 1) > SQUARE:
        cause = f"{entry['file']}: K has focal lengths of {fx:g} and {fy:g} px: its pixels are not square"
        raise Stop(cause, "scale the picture until they are")
    return float(fx + fy) / 2, np.array([cx, cy])


def other_size(cx: float, cy: float, width: int, height: int) -> str:
    """The size whose middle the principal point is, where it is this picture's otherwise scaled or turned; or "".

    That of a picture that was cut may lie anywhere.
    """
    size, turned = np.array([width, height]), np.array([height, width])
    scale, scale_turned = 2 * np.array([cx, cy]) / size, 2 * np.array([cx, cy]) / turned
    if np.abs(scale - 1).max() < OFF:
        return ""
    is_scaled, is_turned = np.ptp(scale) < OFF / 2 * scale.mean(), np.abs(scale_turned - 1).max() < OFF / 2
    return f"{2 * cx:.0f} x {2 * cy:.0f} px" if is_scaled or is_turned else ""


def in_whole_image(
    camera: torch.Tensor, right: bool, centre: np.ndarray, side_px: float, twice_principal: np.ndarray, focal_px: float
) -> np.ndarray:
    """The crop's camera (1, 3) and its box -> translation (3,) m in front of the camera of the whole image.

    twice_principal (2,) px: the size of an image whose middle the camera looks at.
    """
    camera = camera.clone()
    camera[:, 1] *= 1 if right else -1
    box_centre, box_side = torch.from_numpy(centre).float()[None], torch.tensor([side_px]).float()
    return full_translation(camera, box_centre, box_side, torch.from_numpy(twice_principal).float()[None], focal_px)[
        0
    ].numpy()


def refuse_bad_box(box: np.ndarray, file: str, width: int, height: int) -> None:
    boxes = "boxes are x0, y0, x1, y1 in pixels of the upright picture (another form: data.box_format)"
    if (box[2:] <= box[:2]).any():
        raise Stop(f"{file}: the box {box.tolist()} has no area", boxes)
    if (box[2:] <= 0).any() or (box[:2] >= [width, height]).any():
        raise Stop(f"{file}: the box {box.tolist()} lies outside the image of {width} x {height} px", boxes)


def write_hand(
    config: Config, picture: np.ndarray, found: dict[str, Any], stand_in: bool, out: Path, name: str
) -> None:
    answer, focal_px = found["answer"], found["focal_px"]
    vertices, translation = answer["pred_vertices"], answer["pred_cam_t"]
    panel = overlay.panel(found["image"], vertices, translation, found["closed"], config.model.focal_px)
    save(np.hstack(panel), out / f"{name}.png")
    points = found["joints"] + found["translation"]
    points = points[:, :2] / points[:, 2:] * focal_px + found["principal"]
    save(skeleton(picture, points), out / f"{name}_keypoints.png")
    write_obj(out / f"{name}.obj", (found["vertices"] + found["translation"]) * [1, -1, -1], found["faces"], stand_in)
    numbers = {
        "hand_model": "stand-in hand, not MANO" if stand_in else "MANO",
        "right": found["right"],
        "box_centre_px": found["centre"].tolist(),
        "box_side_px": float(found["side_px"]),
        "focal_px": float(focal_px),
        "metric": found["metric"],
        "translation_m": found["translation"].tolist(),
        "keypoints_2d_px": points.tolist(),
        "keypoints_3d_m": found["joints"].tolist(),
        "betas": answer["betas"].tolist(),
        "global_orient": answer["global_orient"].tolist(),
        "hand_pose": answer["hand_pose"].tolist(),
        "note": "" if found["right"] else "global_orient and hand_pose are those of the right hand in the mirror",
    }
    write_json(out / f"{name}.json", numbers)


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray, stand_in: bool) -> None:
    """Axes of computer graphics (y up, z towards the viewer), metres, wrist closed."""
    lines = ["# stand-in hand, not MANO" if stand_in else "# derived from MANO: non-commercial"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    with atomic(path) as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n", encoding="utf-8")


def save(picture: np.ndarray, path: Path) -> None:
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG" if path.suffix == ".jpg" else "PNG")
