"""The runner's verdicts, and that this code agrees with every golden case that is at hand."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.recipes.vggt_eth3d import model
from lib.scenes import dpt, geometry
from tests import golden
from tests.golden import Case, Distance, Tolerance, Waiver

COMMITTED = Path(__file__).parent / "golden"
SHARED = Path(__file__).parent.parent.parent / "shared" / "golden"  # beside the checkout, where there is one
TOY = SimpleNamespace(
    KINDS={"toy_double": lambda case: {"out": case.inputs["x"] * 2, "curve": Distance(case.config["distance"])}},
    TOLERANCES=(Tolerance("toy_double", "out", rtol=1e-3), Tolerance("toy_double", "curve", atol=0.5)),
    WAIVED=(
        Waiver("toy_double", "flaw", "a flaw of the original"),
        Waiver("toy_double", "out", "negative numbers are a flaw", lambda case, name, expected: expected < 0),
    ),
)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Writes a case of the kind "toy_double" and returns its verdicts."""
    monkeypatch.setitem(golden.MODULES, "toy", "tests.toy_kinds")
    monkeypatch.setitem(sys.modules, "tests.toy_kinds", TOY)

    def run(outputs: dict, kind: str = "toy_double", numbers: dict | None = None) -> dict[str, golden.Verdict]:
        (tmp_path / "config.json").write_text(json.dumps({"kind": kind, "distance": 0.2}))
        save_file({"x": torch.tensor([1.0, 2.0])}, tmp_path / "inputs.safetensors")
        save_file({name: torch.tensor(value) for name, value in outputs.items()}, tmp_path / "outputs.safetensors")
        if numbers:
            (tmp_path / "outputs.json").write_text(json.dumps(numbers))
        return {verdict.name.rpartition("/")[2]: verdict for verdict in golden.run(tmp_path)}

    return run


def test_committed_cases_agree(capsys):
    assert golden.main([str(COMMITTED)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")


if SHARED.is_dir():

    def test_shared_cases_agree():
        """Of the families that there is code for; `golden.main` itself calls an unknown family a failure."""
        assert golden.main([str(SHARED / family) for family in golden.MODULES if (SHARED / family).is_dir()]) == 0


@pytest.mark.parametrize(
    "second, state", [(4.0, "PASS"), (4.003, "PASS"), (4.005, "FAIL"), (float("nan"), "FAIL"), (float("inf"), "FAIL")]
)
def test_an_element_beyond_its_tolerance_fails(toy, second, state):
    assert toy({"out": [2.0, second]})["out"].state == state


def test_another_shape_fails(toy):
    assert toy({"out": [2.0]})["out"].state == "FAIL"


def test_an_output_that_is_not_computed_fails_unless_waived(toy):
    verdicts = toy({"out": [2.0, 4.0], "other": [1.0], "flaw": [1.0]})
    assert [verdicts[name].state for name in ("out", "other", "flaw")] == ["PASS", "FAIL", "WAIVED"]
    assert verdicts["flaw"].detail == "a flaw of the original"


def test_waived_elements_do_not_count_and_the_others_do(toy):
    assert toy({"out": [2.0, -1.0]})["out"].state == "PASS"
    assert toy({"out": [3.0, -1.0]})["out"].state == "FAIL"
    assert toy({"out": [-3.0, -1.0]})["out"].state == "WAIVED"


def test_a_distance_is_held_against_the_absolute_tolerance(toy, monkeypatch):
    assert toy({}, numbers={"curve": 0})["curve"].state == "PASS"
    monkeypatch.setattr(TOY, "TOLERANCES", (Tolerance("toy_double", "curve", atol=0.1),))
    assert toy({}, numbers={"curve": 0})["curve"].state == "FAIL"


@pytest.mark.parametrize("kind", ["toy_unknown", "unknown_kind", ""])
def test_an_unknown_kind_fails_and_is_named(toy, kind):
    (verdict,) = toy({"out": [1.0]}, kind).values()
    assert verdict.state == "FAIL" and f"unknown kind {kind!r}" in verdict.detail


def test_an_empty_folder_and_an_empty_case_fail(toy, tmp_path, capsys):
    assert [verdict.state for verdict in toy({}).values()] == ["FAIL"]
    (tmp_path / "config.json").unlink()
    assert golden.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_numbers_of_a_json_tree_are_outputs_by_dotted_path():
    found = dict(golden.leaves({"a": [{"b": 2, "name": "text"}], "c": None}))
    assert found["a.0.b"] == 2 and found["c"].isnan() and set(found) == {"a.0.b", "c"}


# ------------------------------------------------------------------ classic mistakes must be above the tolerances


def failures(folder: Path) -> int:
    return sum(verdict.state == "FAIL" for verdict in golden.run(folder))


def swapped_axes(positions: Tensor, head_dim: int, base: float):
    return model_rope(positions.flip(-1), head_dim, base)


model_rope = model.rope
HALF_PIXEL = 0.5 * torch.tensor([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
SMALL_MISTAKES = {
    "rotations x-y swapped": ("vggt_g_geometry", "tests.golden_vggt.rope", swapped_axes),
    "rope base 10000": (
        "vggt_g_geometry",
        "tests.golden_vggt.rope",
        lambda positions, head_dim, _: model_rope(positions, head_dim, 10000),
    ),
    "pixel centres at one half": (
        "vggt_g_geometry",
        "lib.scenes.geometry.cam_points_from_depth",
        lambda depth, intrinsics, exact=geometry.cam_points_from_depth: exact(depth, intrinsics - HALF_PIXEL),
    ),
    "y before x in the UV embedding": (
        "vggt_g_geometry",
        "tests.golden_vggt.uv_embedding",
        lambda *shape, exact=dpt.uv_embedding: torch.cat(exact(*shape).chunk(2)[::-1]),
    ),
    "quaternion w first": (
        "vggt_d_pose_encoding",
        "lib.scenes.geometry.quaternion_from_rotation",
        lambda rotation, exact=geometry.quaternion_from_rotation: exact(rotation).roll(1, -1),
    ),
    "horizontal field of view first": (
        "vggt_d_pose_encoding",
        "lib.scenes.geometry.encode_cameras",
        lambda *cameras, exact=geometry.encode_cameras: exact(*cameras)[..., [0, 1, 2, 3, 4, 5, 6, 8, 7]],
    ),
    "delta of another base": (
        "vggt_h_depth_metrics",
        "lib.scenes.metrics.DELTAS",
        {f"delta_{k}": 1.2**k for k in (1, 2, 3)},
    ),
}


@pytest.mark.parametrize("mistake", SMALL_MISTAKES)
def test_classic_mistakes_of_the_formulas_are_caught(mistake, monkeypatch):
    case, name, wrong = SMALL_MISTAKES[mistake]
    monkeypatch.setattr(name, wrong)
    assert failures(COMMITTED / case) > 0


def textbook_residual(self, x: Tensor) -> Tensor:
    return x + self.conv2(self.conv1(x.relu()).relu())


def other_interpolation(**changed):
    exact = torch.nn.functional.interpolate

    def interpolate(x, size, **given):
        return exact(x, size, **given | {key: value for key, value in changed.items() if key in given})

    return interpolate


def fixed_eps(eps: float):
    def init(self, width, given=1e-5, exact=nn.LayerNorm.__init__, **rest):
        exact(self, width, **rest | {"eps": eps})

    return init


MODEL_MISTAKES = {
    "skip path carries x, not ReLU(x)": (
        "a_model_square",
        "lib.scenes.dpt.Residual.forward",
        textbook_residual,
    ),
    "all eps 1e-5": ("c_model_single_frame_lowvar", "torch.nn.LayerNorm.__init__", fixed_eps(1e-5)),
    "all eps 1e-6": ("c_model_single_frame_lowvar", "torch.nn.LayerNorm.__init__", fixed_eps(1e-6)),
    "tanh GELU": (
        "a_model_square",
        "torch.nn.functional.gelu",
        lambda x, exact=torch.nn.functional.gelu: exact(x, approximate="tanh"),
    ),
    "no antialias": ("b_model_nonsquare", "torch.nn.functional.interpolate", other_interpolation(antialias=False)),
    "align_corners off": (
        "a_model_square",
        "torch.nn.functional.interpolate",
        other_interpolation(align_corners=False),
    ),
    "no UV embedding": ("a_model_square", "lib.scenes.dpt.with_uv", lambda x, aspect: x),
    "positions from 0": (
        "a_model_square",
        "lib.recipes.vggt_eth3d.model.rope",
        lambda positions, head_dim, base: model_rope((positions - 1).clamp(min=0), head_dim, base),
    ),
    "reference frame's tokens for the others": (
        "b_model_nonsquare",
        "lib.recipes.vggt_eth3d.model.Aggregator.start",
        lambda self, patches, exact=model.Aggregator.start: exact(self, patches.flip(1)).flip(1),
    ),
}

if SHARED.is_dir():

    @pytest.mark.parametrize("mistake", MODEL_MISTAKES)
    def test_classic_mistakes_of_the_network_are_caught(mistake, monkeypatch):
        case, name, wrong = MODEL_MISTAKES[mistake]
        monkeypatch.setattr(name, wrong)
        assert failures(SHARED / "vggt" / case) > 0


def test_a_case_that_breaks_does_not_hide_the_others(tmp_path):
    for name in ("broken", "whole"):
        (tmp_path / name).mkdir()
        for file in (COMMITTED / "vggt_d_pose_encoding").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken" / "inputs.safetensors").write_bytes(b"not a file of tensors")
    states = [(verdict.name.partition("/")[0], verdict.state) for verdict in golden.run(tmp_path)]
    assert (
        states[0] == ("broken", "FAIL")
        and all(state == "PASS" for name, state in states if name == "whole")
        and len(states) > 2
    )


def test_the_kinds_get_what_the_folder_holds():
    case = golden.read(COMMITTED / "vggt_d_pose_encoding")
    assert isinstance(case, Case) and case.kind == "vggt_pose_encoding"
    assert case.inputs["extrinsics"].shape[-2:] == (3, 4) and "pose_enc" in case.expected
