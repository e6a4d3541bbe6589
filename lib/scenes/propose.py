"""`--propose SCENES`: a page on which regions of photographs are drawn as polygons (windows, say); no model is asked.

Leaves label.html and small pictures in label_small/. The page saves region_masks.zip; unpacked, it is the folder of
data.region_masks (regions.py).
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.records import Parts
from lib.core.words import counted
from lib.data import label_page, pictures
from lib.scenes import colmap, regions

SMALL = "label_small"


def propose(config: Any, parts: Callable[[], Parts], inputs: str, out: str, wishes: Mapping[str, str]) -> None:
    """inputs: a scene, or a folder of scenes. Stop: it holds no photograph of a scene, or a wish is for hands."""
    if out or wishes["box"] or wishes["detector"]:
        raise Stop("--out, --box and --detector are for drafts of hands", "leave them out: regions are drawn")
    root = Path(inputs).resolve()  # a scene is called like its folder
    if not root.is_dir():
        raise Stop(f"{root} is not a folder of scenes", "give a scene, or the folder of scenes, to --propose")
    folders = [folder for folder in (root, *sorted(root.iterdir())) if (folder / "images").is_dir()]
    scenes = [colmap.read(folder) for folder in folders]  # all of them before anything is written
    shown = [entry for scene in scenes for entry in photographs(root, scene)]
    if not shown:
        raise Stop(f"{root} holds no photographs of a scene", "give a scene, or the folder of scenes, to --propose")
    page = label_page.write(root, "regions", shown, [])
    print(f"{counted(len(shown), 'photograph')}: draw their regions in {page}, unpack what it saves, and set")
    print("  data.region_masks to that folder")


def photographs(root: Path, scene: colmap.Scene) -> Iterator[dict[str, Any]]:
    """What the page shows of a scene; a photograph that cannot be read is named. Pixels as they are stored."""
    for view in scene.views:
        name, copy = (f"{SMALL}/{kind}/{scene.name}/{view.name}.jpg" for kind in (label_page.SMALL, label_page.WHOLE))
        try:
            width, height = pictures.header(view.image, upright=False)[:2]
            if not label_page.is_of(root / name, view.image):
                least = (label_page.SMALL_PX, label_page.SMALL_PX)
                small = label_page.small(pictures.read(view.image, upright=False, at_least=least))
                label_page.save(small, root / name)
            file = view.image.relative_to(root).as_posix()
            seen = label_page.shown(root, file, copy, upright=False)
        except pictures.Unreadable as error:
            print(f"  skipped {view.image}: {error}", flush=True)
            continue
        mask = f"{regions.name(scene, view)}.png"
        yield {"file": file, "width": width, "height": height, "shown": seen, "small": name, "mask": mask}
