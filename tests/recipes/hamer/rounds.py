"""A round of labelling, by hand: draft, correct, train, draft better, from pictures without labels.

    python -m tests.recipes.hamer.rounds FOLDER [key=value ...]

Ten photographs of hands of five people and a short generated video of a gloved stand-in hand go into FOLDER/hands.
`--propose` drafts them with the demo's base; a real Chromium then opens label.html, drags every keypoint to where it
belongs, names the people and accepts; the list that the page saves trains a run, and the run drafts once more. Prints
the held-out scores, and how far the drafts of both rounds lie from the labels. Pictures: FOLDER/page-*.png, drafts/.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.core.order import Key
from lib.recipes.hamer import stand_in
from tests import chromium
from tests.recipes.hamer.real_hands import REAL, step

SETTINGS = (
    "data.format=folder",
    "data.truth=2d",
    "train.epochs=60",
    "train.lr=1e-3",
    "train.global_batch=8",
    "train.micro_batch=8",
    "loss.betas=0.005",
    "eval.select_share=0",
)
FRAMES, SIDE_PX, STEP_PX = 24, 192, 2
Truth = dict[str, dict[str, Any]]  # picture -> hand, group, keypoints (21, 2) px


def main() -> None:
    folder, settings = Path(sys.argv[1]).resolve(), sys.argv[2:]
    hands = folder / "hands"
    hands.mkdir(parents=True)
    truth = photographs(hands, people=5, each=2)
    made, first_box = video(hands / "glove.gif")
    (hands / "hands.json").write_text(json.dumps([{"file": "glove.gif", "hand": "right", "box": first_box}]))
    run = ("--run", "rounds")
    held = sorted({label["group"] for label in truth.values()})[:2]
    given = (f"data.root={hands}", f"data.val_groups=[{','.join(held)}]", *SETTINGS, *settings)
    step(1, folder, "--recipe", "hamer", "--demo", *run, *given)
    started = time.monotonic()
    step(2, folder, *run, "--propose", str(hands), "--every", "3")
    print(f"drafting took {time.monotonic() - started:.1f} s with the start of the step")
    truth |= {name: made[int(Path(name).stem)] for name in files(hands) if name.startswith("frames/")}
    print("base:   ", apart(hands, truth))
    correct(folder, hands, truth)
    labels = (hands / "hands.json").read_bytes()
    step(2, folder, *run, "--force")  # hands.json is another one now
    for number in (3, 4, 5):
        step(number, folder, *run)
    again(hands)
    step(2, folder, *run, "--propose", str(hands), "--every", "3")
    print("adapted:", apart(hands, truth))
    (hands / "hands.json").write_bytes(labels)


def photographs(folder: Path, people: int, each: int) -> Truth:
    """The first photographs of some people; number minus digit is the same for those of one person."""
    content = json.loads((REAL / "sign_digits" / "labels.json").read_text(encoding="utf-8"))
    of: dict[int, list[dict[str, Any]]] = {}
    for item in content["items"]:
        of.setdefault(item["img_no"] - item["digit"], []).append(item)
    truth: Truth = {}
    for person, items in list(of.items())[:people]:
        for item in items[:each]:
            name = Path(item["file"]).name
            shutil.copy(REAL / "sign_digits" / item["file"], folder / name)
            points = np.array(item["keypoints2d"])[:, :2]
            truth[name] = {"hand": item["hand"], "group": f"person-{person}", "points": points}
    return truth


def video(path: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """A gloved hand that bends and wanders, as a GIF; the truth of each frame, and the box in the first one."""
    studio, subject, found, frames = stand_in.Studio(), stand_in.person(3, 7, gloved=True), [], []
    generator = Key(3, 0, 0).generator()
    wrist = stand_in.orientation(generator)
    bent, straight = stand_in.fingers(generator), 0.1 * stand_in.fingers(generator)
    for i in range(FRAMES):
        share = 0.5 - 0.5 * np.cos(2 * np.pi * i / FRAMES)
        pose = np.concatenate([wrist, share * bent + (1 - share) * straight])
        rest, vertices, joints = studio.pose(pose, subject.betas)
        zoom = 0.55 * SIDE_PX / stand_in.REACH_M / stand_in.FOCAL_PX
        shift = np.array([(i - FRAMES / 2) * STEP_PX, 0, 0]) / (zoom * stand_in.FOCAL_PX)
        middle = (joints.max(0) + joints.min(0)) / 2
        joints, vertices = (points - middle + shift + [0, 0, 1 / zoom] for points in (joints, vertices))
        look = Key(3, 1, 0).generator()  # one light and one background for the whole film
        picture = stand_in.photograph(studio.faces, subject, rest, vertices, look, SIDE_PX)
        points = joints[:, :2] / joints[:, 2:] * stand_in.FOCAL_PX + SIDE_PX / 2 - 0.5
        frames.append(Image.fromarray(picture))
        found.append({"hand": "right", "group": "glove", "points": points})
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=60, loop=0)
    first = found[0]["points"]
    return found, [*first.min(0).tolist(), *first.max(0).tolist()]


def files(folder: Path) -> list[str]:
    return [entry["file"] for entry in json.loads((folder / "hands.json").read_text())]


def apart(folder: Path, truth: Truth) -> str:
    """How far drafts lie from the labels, in shares of the hand's size: photographs, and frames of the video."""
    found: dict[str, list[float]] = {"photographs": [], "video": []}
    for entry in json.loads((folder / "hands.json").read_text()):
        if entry.get("draft"):
            points, label = np.array(entry["keypoints_2d"])[:, :2], truth[entry["file"]]["points"]
            size = (label.max(0) - label.min(0)).max()
            where = "video" if entry["file"].startswith("frames/") else "photographs"
            found[where].append(float(np.linalg.norm(points - label, axis=1).mean() / size))
    return ", ".join(f"{name} {np.mean(shares):.3f} ({len(shares)} drafts)" for name, shares in found.items())


def correct(folder: Path, hands: Path, truth: Truth) -> None:
    """Every keypoint is dragged to its place with the mouse; the saved list takes the place of the drafts."""
    (hands / "hands.json").rename(folder / "drafts.json")
    with chromium.page(hands / "label.html", 1280, 900) as page:
        page.downloads(hands)
        page.picture(folder / "page-before.png")
        count = page.run("items.length")
        for number in range(count):
            item = page.run("({file: picture().file, hand: items[chosen].hand})")
            label = truth[item["file"]]
            if item["hand"] != label["hand"]:
                page.key("h")
            for joint, (x, y) in enumerate(label["points"]):
                page.click_on(f"#names li:nth-child({joint + 1})")
                page.drag(spot(page, joint), place(page, x, y), steps=2)
            page.click_on("#group")
            page.run("document.getElementById('group').select()")
            page.call("Input.insertText", text=label["group"])
            page.key("Enter")
            if number in (0, count - 1):
                page.picture(folder / f"page-{number}.png")
            page.key("a")
        print(page.run("document.getElementById('progress').textContent"))
        page.key("s")
        until = time.monotonic() + 30
        while not (hands / "hands.json").exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert page.errors() == []


def spot(page: chromium.Page, joint: int) -> tuple[float, float]:
    x, y = page.run(f"items[chosen].keypoints_2d[{joint}].slice(0, 2)")
    return place(page, x, y)


def place(page: chromium.Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture lies in the window."""
    left, top, scale = page.run("""(() => {
        const space = document.getElementById("window").getBoundingClientRect();
        return [space.x + view.x, space.y + view.y, view.scale];
    })()""")
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def again(folder: Path) -> None:
    """The same hands as boxes alone, so that the trained model drafts every one of them."""
    found = json.loads((folder / "hands.json").read_text())
    kept = [{name: entry[name] for name in ("file", "hand", "box", "group")} for entry in found]
    (folder / "hands.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
