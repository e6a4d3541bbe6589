import subprocess
import sys

import pytest

from lib.core import machine
from lib.core.errors import Stop

WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")  # torch 2.15 from PyPI
OLD_WHEEL = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")  # torch 2.9 for CUDA 12.6
CARDS = {
    "P100": (6, 0), "V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "L4": (8, 9), "H200": (9, 0), "RTX 5090": (12, 0),
}  # fmt: skip
ALL = ("bf16", "fp16", "fp32")


def devices(names: list[str], wheel: tuple[str, ...]) -> list[dict]:
    return [
        {
            "name": name,
            "capability": list(CARDS[name]),
            "memory_bytes": 16 << 30,
            "in_wheel": machine.in_wheel(CARDS[name], wheel),
        }
        for name in names
    ]


@pytest.mark.parametrize(
    "names, wheel, allowed, expected",
    [
        ([], WHEEL, ALL, "fp32"),
        (["P100"], WHEEL, ALL, "no kernels for P100 (sm_60)"),
        (["P100"], OLD_WHEEL, ALL, "fp32"),
        (["V100"], WHEEL, ALL, "no kernels for V100 (sm_70)"),
        (["V100"], OLD_WHEEL, ALL, "fp16"),
        (["T4"], WHEEL, ALL, "fp16"),
        (["T4"], OLD_WHEEL, ALL, "fp16"),
        (["T4"], WHEEL, ("bf16", "fp32"), "fp32"),
        (["T4", "T4"], WHEEL, ALL, "fp16"),
        (["A100", "T4"], WHEEL, ALL, "fp16"),
        (["L4"], WHEEL, ALL, "bf16"),
        (["A100"], WHEEL, ALL, "bf16"),
        (["RTX 5090"], WHEEL, ALL, "bf16"),
        (["RTX 5090"], OLD_WHEEL, ALL, "no kernels for RTX 5090 (sm_120)"),
        (["H200"], WHEEL, ("bf16", "fp32"), "bf16"),
        (["T4"], WHEEL, ("bf16",), "which gives fp16 or fp32"),
    ],
)
def test_precision_follows_the_weakest_device_or_is_refused(names, wheel, allowed, expected):
    if expected in ALL:
        assert machine.precision(devices(names, wheel), "auto", allowed)[0] == expected
    else:
        with pytest.raises(Stop) as stopped:
            machine.precision(devices(names, wheel), "auto", allowed)
        assert expected in stopped.value.cause


@pytest.mark.parametrize(
    "names, wanted, allowed, possible",
    [
        ([], "fp16", ALL, False),
        ([], "bf16", ALL, True),
        (["T4"], "bf16", ALL, False),  # torch.cuda.is_bf16_supported() says True here
        (["T4"], "fp32", ALL, True),
        (["L4"], "fp16", ALL, True),
        (["L4"], "fp16", ("bf16", "fp32"), False),
        (["P100"], "fp16", ALL, False),
    ],
)
def test_precision_that_is_asked_for_is_given_or_refused(names, wanted, allowed, possible):
    if possible:
        assert machine.precision(devices(names, OLD_WHEEL), wanted, allowed)[0] == wanted
    else:
        with pytest.raises(Stop, match=f"train.precision={wanted}"):
            machine.precision(devices(names, OLD_WHEEL), wanted, allowed)


@pytest.mark.parametrize(
    "capability, architectures, runs",
    [
        ((8, 9), ("sm_80",), True),  # a later minor of the same major
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80", "sm_86"), False),
        ((9, 0), ("sm_90a",), True),
        ((12, 1), ("sm_120a",), False),  # "a" runs on exactly its own
        ((12, 0), ("sm_90", "compute_90"), True),  # PTX is compiled for later devices
        ((7, 5), ("compute_80",), False),
        ((7, 5), (), False),
    ],
)
def test_wheel_architectures(capability, architectures, runs):
    assert machine.in_wheel(capability, architectures) is runs


def found(**changes) -> dict:
    return {
        "devices": [],
        "architectures": list(WHEEL),
        "torchvision": "",
        "packages": {"torch": "2.15.0"},
        "free_bytes": {"run": 10**9},
    } | changes


def test_sound_machine_has_no_problems():
    assert machine.problems(found(devices=devices(["T4"], WHEEL)), {"run": 10**8}) == []


@pytest.mark.parametrize(
    "changes, cause, fix",
    [
        ({"devices": devices(["P100"], WHEEL)}, "no kernels for P100 (sm_60) (it has sm_75", "GPU T4 x2"),
        ({"devices": devices(["RTX 5090"], OLD_WHEEL)}, "no kernels for RTX 5090", "--upgrade torch"),
        (
            {"torchvision": "RuntimeError: operator torchvision::nms does not exist"},
            "nms does not exist",
            "uninstall -y torchvision",
        ),
        ({"free_bytes": {"run": 10**6}}, "run needs 0.1 GB", "free some space"),
    ],
)
def test_what_would_break_later_is_named_with_its_fix(changes, cause, fix):
    (problem,) = machine.problems(found(**changes), {"run": 10**8})
    assert cause in problem.cause and fix in problem.fix


def test_broken_torchvision_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert machine.broken_import("torchvision") == "RuntimeError: operator torchvision::nms does not exist"
    assert machine.broken_import("a_package_that_is_not_installed") == ""


@pytest.mark.parametrize(
    "visible, count", [("", 0), ("0", 1), ("0,1", 2), ("-1", 0), ("0,-1,1", 1), ("GPU-7f2a,GPU-91bc", 2)]
)
def test_visible_devices_are_counted(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpu_count() == count


def test_gpus_are_counted_without_importing_torch(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: GPU-1)'\necho 'GPU 1: Tesla T4 (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    code = "import sys; from lib.core import machine; print(machine.gpu_count(), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["2", "False"]


def test_unreachable_hub_is_no_error(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert machine.reachable() is False


def test_platform_is_known_by_its_environment():
    assert machine.where({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}) == "kaggle"
    assert machine.where({"COLAB_RELEASE_TAG": "r"}) == "colab"
    assert machine.where({}) == "other"


def test_look_gives_json_values_of_this_machine(tmp_path, monkeypatch):
    import json

    import torch

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    seen = machine.inspect_machine({"run": tmp_path / "not" / "yet"})
    assert json.loads(json.dumps(seen)) == seen
    assert seen["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert len(seen["devices"]) == torch.cuda.device_count()
    assert seen["free_bytes"]["run"] > 0 and seen["memory_bytes"] > 0 and seen["cores"] > 0
