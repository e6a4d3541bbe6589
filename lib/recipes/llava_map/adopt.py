"""What step 2's --import is asked for here: the guide's ground-truth cache, which is refused without being read."""

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.recipes.llava_map.config import Config

PICKLES = (".pkl", ".pickle")
MARK = b"\x80"  # of a pickle of protocol 2 and later, its first byte


def adopt(config: Config, given: Foreign) -> tuple[str, str]:
    """Stop: always. A pickle may run code when it is opened, and this one does not say which settings it was made with.

    Step 3 makes the same ground truth from nuScenes, in minutes.
    """
    file = given.file
    with open(file, "rb") as stream:
        first = stream.read(1)
    if file.suffix in PICKLES or first == MARK:
        cause = (
            f"{file.name} is a pickle, as the guide's GT cache is: opening one may run code, and nothing in it says "
            "which range, classes and map it was made from, so it is not read"
        )
        raise Stop(cause, "python step3_prepare.py   (makes the ground truth again, from nuScenes)")
    raise Stop(f"{file.name} is nothing that this recipe imports: ground truth is made by step 3", "leave --import out")
