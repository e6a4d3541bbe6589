"""MANO_RIGHT.pkl without chumpy: a closed list of names, and arrays that can be a hand.

The twins hold the stand-in hand.
"""

import hashlib
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse

from lib.core import hashes
from lib.core.errors import Stop
from lib.core.run import Damaged
from lib.recipes.hamer import mano_file
from lib.recipes.hamer.config import MANO_MD5
from lib.recipes.hamer.mano_file import PARENTS


class Ch:
    """Pickles as chumpy.ch.Ch does: a new-style class with a state dictionary."""

    def __init__(self, **state):
        self.__dict__.update(state)


class Select(Ch):
    pass


@pytest.fixture
def twin(hand, tmp_path, monkeypatch):
    """Writes a file that names what the genuine one names; `changes` replace entries."""
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    for module, kind in (("chumpy.ch", Ch), ("chumpy.reordering", Select)):
        fake = types.ModuleType(module)
        setattr(fake, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setattr(kind, "__module__", module)

    def write(**changes):
        wide = np.concatenate([hand.shapedirs, 7 * hand.shapedirs], 2)  # 20 shapes, of which the first ten are selected
        picked = np.arange(wide.size).reshape(wide.shape)[:, :, :10].ravel()
        tree = np.array([[4294967295, *PARENTS[1:]], range(16)], np.int64)
        content = {
            name: getattr(hand, name)
            for name in ("v_template", "posedirs", "weights", "hands_components", "hands_mean")
        }
        content |= {
            "f": hand.f.astype(np.uint32),
            "kintree_table": tree,
            "bs_style": "lbs",
            "bs_type": "lrotmin",
            "J": np.zeros((16, 3)),
        }
        content |= {"J_regressor": scipy.sparse.csc_matrix(hand.J_regressor)}
        content |= {"shapedirs": Select(a=Ch(x=wide), idxs=picked, preferred_shape=hand.shapedirs.shape)}
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(
            pickle.dumps({name: value for name, value in (content | changes).items() if value is not None}, protocol=2)
        )
        return path

    return write


def test_twin_of_the_genuine_file_is_read_without_chumpy(twin, hand):
    found = mano_file.read(twin())
    for name in (
        "v_template",
        "shapedirs",
        "posedirs",
        "J_regressor",
        "weights",
        "hands_components",
        "hands_mean",
        "f",
    ):
        np.testing.assert_array_equal(getattr(found, name), getattr(hand, name))
    assert not found.stand_in
    assert not found.of_freihand  # the twin has another MD5 than the genuine file


def test_npz_is_read_too(twin, tmp_path, hand):
    np.savez(
        tmp_path / "MANO_RIGHT.npz",
        kintree_table=np.array([[-1, *PARENTS[1:]], range(16)]),
        **{n: getattr(hand, n) for n in mano_file.SHAPES if n != "kintree_table"},
    )
    np.testing.assert_array_equal(mano_file.read(tmp_path / "MANO_RIGHT.npz").weights, hand.weights)


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file ran code')",)


def test_foreign_name_is_refused_before_anything_runs(twin):
    with pytest.raises(Stop, match=r"names (builtins|__builtin__)\.exec, which could run code"):
        mano_file.read(twin(bs_style=Harm()))


def broken(hand, name, change):
    array = np.array(getattr(hand, name), float)
    change(array)
    return {name: array}


def test_impossible_arrays_are_refused_by_name(twin, hand):
    def spoil(array):
        array[5, 0] = np.nan

    def stretch(array):
        array[7] *= 1.01

    cases = {
        "weights holds numbers that are not finite": broken(hand, "weights", spoil),
        "a row of weights sums to 1.010": broken(hand, "weights", stretch),
        "a row of J_regressor sums to 1.010": broken(hand, "J_regressor", stretch),
        r"v_template has the shape \(777, 3\)": {"v_template": hand.v_template[:-1]},
        "it lacks posedirs": {"posedirs": None},
        "kintree_table is not MANO's tree": {"kintree_table": np.zeros((2, 16), int)},
        "its hand is 191 long, and metres are expected": {"v_template": 1000 * hand.v_template},
        "f names vertices that do not exist": broken(hand, "f", lambda f: f.__setitem__((0, 0), 778)),
    }
    for message, changes in cases.items():
        with pytest.raises(Stop, match=message):
            mano_file.read(twin(**changes))


def mirrored(hand):
    """MANO_LEFT: fingers along +x."""
    return {"v_template": hand.v_template * [-1, 1, 1], "shapedirs": hand.shapedirs * np.array([-1, 1, 1])[:, None]}


def test_left_hand_under_the_rights_name_is_noticed_by_its_thumb(twin, hand):
    with pytest.raises(Stop, match=r"holds a left hand.*MANO_LEFT under another name"):
        mano_file.read(twin(**mirrored(hand)))


def test_unknown_version_is_said(twin, tmp_path):
    found = mano_file.read(twin())
    assert f"unknown MD5 {hashlib.md5((tmp_path / 'MANO_RIGHT.pkl').read_bytes()).hexdigest()}" in found.version
    assert MANO_MD5 in found.version and "up to 6 mm" in found.version


def test_known_version_needs_no_words(twin, monkeypatch, tmp_path):
    path = twin()
    monkeypatch.setattr(mano_file, "MANO_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    assert mano_file.read(path).version == "" and mano_file.read(path).of_freihand


@pytest.mark.parametrize("name", mano_file.NAMES)
@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a file", pickle.dumps([1, 2]), pickle.dumps(None), b"\x80\x02}r\xff\xff\xff\x7f."]
)
def test_file_of_anything_else_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Stop, match=rf"{name} (is|holds)"):
        mano_file.read(tmp_path / name)


def test_arrays_of_objects_and_huge_matrices_are_one_sentence(twin, hand):
    large = scipy.sparse.csc_matrix(hand.J_regressor)
    large._shape = (10**6, 10**6)
    for changes in (
        {"weights": np.array([None, "x"], object)},
        {"hands_mean": {"a": 1}},
        {"J_regressor": large},
        {"f": [[1], [2, 3]]},
    ):
        with pytest.raises(Stop, match=r"MANO_RIGHT\.pkl"):
            mano_file.read(twin(**changes))


def test_truncated_file_is_one_sentence(twin):
    path = twin()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(Stop, match="is not a complete pickle"):
        mano_file.read(path)


def test_npz_without_an_array_is_named(mano_folder, tmp_path):
    with np.load(mano_folder / "MANO_RIGHT.npz") as content:
        np.savez(tmp_path / "MANO_RIGHT.npz", **{name: content[name] for name in content.files if name != "weights"})
    with pytest.raises(Stop, match=r"MANO_RIGHT\.npz is not a MANO file: it lacks weights"):
        mano_file.read(tmp_path / "MANO_RIGHT.npz")


def test_a_file_that_changed_under_its_size_and_time_is_refused(tmp_path):
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"another")
    hashes.expect(tmp_path, {"MANO_RIGHT.pkl": "0" * 64}, "python step2_download.py --run r --force")
    with pytest.raises(Damaged, match=r"MANO_RIGHT\.pkl does not hold what was written"):
        mano_file.read(tmp_path / "MANO_RIGHT.pkl")
