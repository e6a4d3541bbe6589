"""The reader of nuScenes tables: a stand-in world with one fault at a time, and the real key frame where it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.recipes.llava_map import geometry, mounts, stand_in, tables
from lib.recipes.llava_map.tables import CAMERAS, read_frames

REAL = Path(__file__).resolve().parents[4] / "shared" / "realdata" / "driving" / "nuscenes_keyframe"


@pytest.fixture
def copy(world, tmp_path):
    """The stand-in, to break."""
    return shutil.copytree(world, tmp_path / "nuscenes")


def edit(root: Path, table: str, change) -> None:
    path = root / stand_in.VERSION / f"{table}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_frames_come_by_scene_and_time_with_six_cameras(world):
    frames, skipped = read_frames(world, stand_in.VERSION)
    assert len(frames) == 7 and not skipped  # three scenes of two frames, one of one
    assert [(f.scene, f.timestamp_us) for f in frames] == sorted((f.scene, f.timestamp_us) for f in frames)
    assert all(tuple(camera.channel for camera in f.cameras) == CAMERAS for f in frames)


def test_each_camera_has_the_pose_of_its_own_moment(world):
    """50 ms at 4 to 10 m/s: a camera is up to half a metre from where the lidar's moment would put it."""
    frames, _ = read_frames(world, stand_in.VERSION)
    rows = json.loads((world / stand_in.VERSION / "ego_pose.json").read_text())
    assert len({tuple(row["translation"]) for row in rows}) == 7 * len(frames)
    front = frames[0].bev_from_cam()[0]
    assert 0 < abs(front[1, 3] - (1.70 - 0.94)) < 0.6  # ahead of the lidar, minus what the car drove since


def test_sample_without_a_picture_is_skipped_and_named(copy):
    lost = next((copy / "samples" / "CAM_BACK").glob("*.jpg"))
    lost.unlink()
    frames, skipped = read_frames(copy, stand_in.VERSION)
    assert len(frames) == 6 and lost.name in next(iter(skipped.values()))


def test_sample_without_an_ego_pose_is_skipped_and_named(copy):
    edit(copy, "ego_pose", lambda rows: rows[1:])
    frames, skipped = read_frames(copy, stand_in.VERSION)
    assert len(frames) == 6 and "has no ego pose" in next(iter(skipped.values()))


def test_mini_asked_for_trainval_says_what_is_there(copy):
    (copy / stand_in.VERSION).rename(copy / "v1.0-mini")
    with pytest.raises(Stop, match=r"v1\.0-mini"):
        read_frames(copy, "v1.0-trainval")


def test_missing_table_is_named(copy):
    (copy / stand_in.VERSION / "log.json").unlink()
    with pytest.raises(Stop, match=r"log\.json is missing"):
        read_frames(copy, stand_in.VERSION)


def test_truncated_table_is_named(copy):
    path = copy / stand_in.VERSION / "ego_pose.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(Stop, match=r"ego_pose\.json ends in the middle"):
        read_frames(copy, stand_in.VERSION)


def test_incomplete_tables_are_refused(copy):
    edit(copy, "log", lambda rows: rows[:1])
    with pytest.raises(Stop, match="points to"):
        read_frames(copy, stand_in.VERSION)


def test_records_are_read_across_chunks(tmp_path, monkeypatch):
    rows = [{"token": f"{i:03d}", "text": 'a "quoted] } word', "values": [i, [i]]} for i in range(50)]
    path = tmp_path / "rows.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=0)):
        path.write_text(text)
        for chunk in (7, 64, 1 << 20):
            monkeypatch.setattr(tables, "CHUNK_BYTES", chunk)
            assert list(tables.rows(path)) == rows


if REAL.exists():

    def test_real_key_frame_agrees_with_its_independent_description():
        """keyframe.json holds camera poses relative to the ego frame, written by other software."""
        [frame], skipped = read_frames(REAL, "v1.0-mini")
        told = json.loads((REAL / "keyframe.json").read_text())
        assert not skipped and frame.scene == "scene-0061" and frame.location == "singapore-onenorth"
        world_from_ego = np.array(told["ego2global"])
        for camera, pose in zip(frame.cameras, frame.bev_from_cam(), strict=True):
            described = told["images"][camera.channel]
            assert np.allclose(camera.intrinsics, described["cam2img"], atol=1e-6)
            still = geometry.inverse(frame.world_from_bev) @ world_from_ego @ np.array(described["cam2ego"])
            assert np.linalg.norm(pose[:3, 3] - still[:3, 3]) < 0.5  # the car drove on between lidar and camera
            assert np.degrees(np.arccos(np.clip((np.trace(pose[:3, :3].T @ still[:3, :3]) - 1) / 2, -1, 1))) < 1.0


def calibration(channel, change):
    """Changes the rows of one sensor; the stand-in's tables name sensors by token."""

    def apply(root):
        sensors = json.loads((root / stand_in.VERSION / "sensor.json").read_text())
        token = next(row["token"] for row in sensors if row["channel"] == channel)
        edit(
            root,
            "calibrated_sensor",
            lambda rows: [row | (change(row) if row["sensor_token"] == token else {}) for row in rows],
        )

    return apply


def w_last(row):
    return {"rotation": row["rotation"][1:] + row["rotation"][:1]}


def inverted(row):
    return {"rotation": [row["rotation"][0], *(-value for value in row["rotation"][1:])]}


def half(row):
    return {"camera_intrinsic": [[value / 2 for value in line] for line in row["camera_intrinsic"][:2]] + [[0, 0, 1]]}


def exchange(root):
    """Two cameras under each other's name."""
    names = {"CAM_BACK_LEFT": "CAM_FRONT_LEFT", "CAM_FRONT_LEFT": "CAM_BACK_LEFT"}
    edit(root, "sensor", lambda rows: [row | {"channel": names.get(row["channel"], row["channel"])} for row in rows])


@pytest.mark.parametrize("fault, why", [
    (calibration("CAM_BACK_LEFT", w_last), "calibrated_sensor.json: CAM_BACK_LEFT's .*(looks|lies on its side)"),
    (calibration("CAM_FRONT", inverted), "CAM_FRONT's .*(looks|lies on its side)"),
    (calibration("LIDAR_TOP", lambda row: {"rotation": [0.0, 1, 0, 0]}), "LIDAR_TOP's .* lies on its side"),
    (calibration("CAM_BACK", half), "CAM_BACK's .* meets the picture at .*: its matrix is of another size"),
    (exchange, "CAM_BACK_LEFT's .* looks 5[0-9] degrees to the left of ahead, and not 110"),
    (lambda root: edit(root, "ego_pose", lambda rows: [row | w_last(row) for row in rows]), "ego_pose.*: the car of"),
])  # fmt: skip
def test_sensors_that_look_elsewhere_than_their_names_say_are_refused(copy, fault, why):
    fault(copy)
    with pytest.raises(Stop, match=why):
        read_frames(copy, stand_in.VERSION)


@pytest.mark.parametrize("fault", [
    lambda root: edit(root, "ego_pose", lambda rows: [row | inverted(row) for row in rows]),
    calibration("LIDAR_TOP", lambda row: {"rotation": [1.0, 0, 0, 0]}),  # x ahead, as KITTI's
], ids=["world to car", "lidar's x ahead"])  # fmt: skip
def test_cars_that_drive_sideways_are_refused(copy, monkeypatch, fault):
    """Every place is right, and the map lies turned around the car."""
    monkeypatch.setattr(mounts, "FEWEST_MOVES", 3)
    assert len(read_frames(copy, stand_in.VERSION)[0]) == 7
    fault(copy)
    with pytest.raises(Stop, match=r"cars drive .* degrees beside where their lidar looks ahead"):
        read_frames(copy, stand_in.VERSION)


def test_few_cars_may_back_up(copy):
    edit(copy, "ego_pose", lambda rows: [row | inverted(row) for row in rows])
    assert len(read_frames(copy, stand_in.VERSION)[0]) == 7
