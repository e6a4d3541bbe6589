"""step 2 --import: the guide's ground-truth cache is a pickle, and is not opened."""

import pickle

import pytest

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.recipes.llava_map.adopt import adopt


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file ran code')",)


@pytest.mark.parametrize("name", ["gt_cache_train.pkl", "gt_cache_train"])
def test_a_cache_is_refused_unread_with_the_command_that_makes_it_again(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"token": Harm()}))
    with pytest.raises(Stop, match="is a pickle") as stop:
        adopt(None, Foreign(tmp_path / name, tmp_path, dict, dict))
    assert "python step3_prepare.py" in stop.value.command


def test_another_file_ends_in_a_sentence(tmp_path):
    (tmp_path / "gt.json").write_text("{}")
    with pytest.raises(Stop, match="nothing that this recipe imports"):
        adopt(None, Foreign(tmp_path / "gt.json", tmp_path, dict, dict))
