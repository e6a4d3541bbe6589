"""Real hands, by hand: photographs with pseudo-labels of keypoints and no MANO parameters, from the demo base.

    python -m tests.recipes.hamer.real_hands FOLDER [key=value ...]

Writes ../shared/realdata/hands as a plain folder of pictures with hands.json, runs the five steps there (split by
person, the keypoint losses alone, 2D PCK as the main score), and predicts on unlabelled photographs with boxes drawn by
hand. About four minutes on one core.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "realdata" / "hands"
SETTINGS = (
    "data.format=folder",
    "data.truth=2d",
    "data.val_share=0.25",
    "eval.select_samples=64",
    "train.epochs=30",
    "train.lr=5e-4",
    "loss.betas=0.005",
)
# photograph -> hands: side, x0, y0, x1, y1 px
BOXES = {
    "test1.jpg": [("right", 251, 168, 384, 351)],
    "test2.jpg": [("right", 222, 38, 433, 182), ("left", 328, 245, 548, 450)],
    "test3.jpg": [("right", 346, 212, 604, 539)],
    "test4.jpg": [("left", 224, 331, 658, 689), ("right", 530, 755, 1015, 1300)],
    "test5.jpg": [("right", 410, 470, 593, 918), ("left", 633, 459, 800, 918)],
}


def main() -> None:
    folder, settings = Path(sys.argv[1]).resolve(), sys.argv[2:]
    signs(folder / "signs")
    photographs(folder / "photographs")
    run = ("--run", "real-hands")
    step(1, folder, "--recipe", "hamer", "--demo", *run, f"data.root={folder / 'signs'}", *SETTINGS, *settings)
    for number in range(2, 6):
        step(number, folder, *run)
    step(5, folder, *run, "--predict", str(folder / "photographs"), "--out", str(folder / "predicted"))


def signs(folder: Path) -> None:
    """One list of hands, split by person.

    Ten digits were photographed one after another, so number minus digit is the same for the pictures of one person.
    """
    content = json.loads((REAL / "sign_digits" / "labels.json").read_text(encoding="utf-8"))
    if not folder.exists():
        shutil.copytree(REAL / "sign_digits" / "images", folder / "images")
    hands = []
    for item in content["items"]:
        hand = {"file": item["file"], "hand": item["hand"], "group": f"person-{item['img_no'] - item['digit']}"}
        hands.append(hand | {"keypoints_2d": item["keypoints2d"], "keypoints_3d": item["world3d_m"]})
    (folder / "hands.json").write_text(json.dumps(hands), encoding="utf-8")


def photographs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in BOXES:
        shutil.copy(REAL / "photos_unlabelled" / name, folder / name)
    hands = [{"file": name, "hand": side, "box": box} for name, boxes in BOXES.items() for side, *box in boxes]
    (folder / "hands.json").write_text(json.dumps(hands), encoding="utf-8")


def step(number: int, root: Path, *words: str) -> None:
    script = next(ROOT.glob(f"step{number}_*.py"))
    subprocess.run([sys.executable, str(script), "--root", str(root), *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
