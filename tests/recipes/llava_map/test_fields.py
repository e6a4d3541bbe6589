"""Damaged nuScenes files: every field that is read, spoilt in turn, ends in one sentence with file and field."""

import json
import shutil

import pytest

from lib.core.errors import Stop
from lib.recipes.llava_map import fields, roadmap, stand_in, tables

NAN = float("nan")
SPOILT = {
    "nothing": None,
    "text": "=1+1",
    "number": -1,
    "not a number": NAN,
    "list": [1, 2],
    "object": {"a": 1},
    "digits": 10**400,
    "true": True,
}
# table -> what is read of it
READ = {
    "calibrated_sensor": tables.MOUNT | tables.POSE | {"camera_intrinsic": fields.CAMERA_MATRIX},
    "sensor": tables.SENSOR,
    "ego_pose": {"token": fields.TEXT} | tables.POSE,
    "scene": tables.SCENE,
    "log": tables.LOG,
    "sample": tables.SAMPLE,
    "sample_data": tables.READING
    | tables.PICTURE
    | {"is_key_frame": fields.FLAG, "calibrated_sensor_token": fields.TEXT},
}
CAMERA = 1  # of the stand-in's records the first is the lidar's, the second a camera's


@pytest.fixture(scope="module")
def root(world, tmp_path_factory):
    """A copy of the stand-in, to break."""
    folder = tmp_path_factory.mktemp("broken") / "nuscenes"
    return shutil.copytree(world, folder, copy_function=shutil.copy)


def spoil(root, table: str, change) -> str:
    """Writes the table changed; returns the text that was there."""
    path = root / stand_in.VERSION / f"{table}.json"
    before = path.read_text()
    rows = json.loads(before)
    change(rows)
    path.write_text(json.dumps(rows))
    return before


def outcome(root) -> str:
    """The sentence that the reader stops with; '' where it takes the tables."""
    try:
        tables.read_frames(root, stand_in.VERSION)
    except Stop as stop:
        return str(stop)
    return ""


@pytest.mark.parametrize(("table", "field"), [(table, field) for table, kinds in READ.items() for field in kinds])
def test_every_field_that_is_read_is_checked(table, field, root):
    for name, value in (*SPOILT.items(), ("absent", "")):
        if name != "absent" and READ[table][field].fits(value):
            continue

        def change(rows, name=name, value=value):
            rows[CAMERA if len(rows) > CAMERA else 0].pop(field)
            if name != "absent":
                rows[CAMERA if len(rows) > CAMERA else 0][field] = value

        before = spoil(root, table, change)
        said = outcome(root)
        (root / stand_in.VERSION / f"{table}.json").write_text(before)
        assert f"{table}.json" in said and repr(field) in said, (name, said)


@pytest.mark.parametrize("table", READ)
def test_a_table_of_something_else_is_named(table, root):
    path = root / stand_in.VERSION / f"{table}.json"
    before = path.read_bytes()
    texts = ("[1, 2]", "[null]", '["a"]', "[[]]", "{}", "", "]", '[{"a": 1', "\x00", '[{"token": ' + "9" * 5000 + "}]",
             '[{"a": ' + '{"a": ' * 100_000 + "1" + "}" * 100_000 + "}]")  # fmt: skip
    for content in [*(text.encode() for text in texts), b"\xff\xfe\x00[", b'[{"token": "\xe9"}]']:
        path.write_bytes(content)
        said = outcome(root)
        assert f"{table}.json" in said, (content[:40], said)
    path.write_bytes(before)
    assert not outcome(root)


def test_names_that_lead_out_of_the_run_are_refused(root):
    """Tokens, scenes and locations become paths."""
    for table, field in (("sample", "token"), ("scene", "name"), ("log", "location")):
        for name in ("../out", "a/b", "..", "", ".hidden", "a" * 300, "a\0b"):
            before = spoil(root, table, lambda rows, field=field, name=name: rows[0].update({field: name}))
            said = outcome(root)
            (root / stand_in.VERSION / f"{table}.json").write_text(before)
            assert f"{table}.json" in said and repr(field) in said, (table, name, said)


def test_two_rows_with_one_token_are_refused_and_a_copy_is_not(root):
    for other, refused in (({"name": "other"}, True), ({}, False)):

        def change(rows, other=other):
            rows.append(rows[0] | other)

        before = spoil(root, "scene", change)
        said = outcome(root)
        (root / stand_in.VERSION / "scene.json").write_text(before)
        assert ("has the token" in said) == refused


def test_a_second_key_frame_of_a_camera_is_refused(root):
    before = spoil(root, "sample_data", lambda rows: rows.append(rows[CAMERA] | {"token": "x", "filename": "y.jpg"}))
    said = outcome(root)
    (root / stand_in.VERSION / "sample_data.json").write_text(before)
    assert "a second key frame of CAM_" in said


def test_a_file_name_that_no_system_takes_is_a_missing_picture(root):
    for name in ("a\0b.jpg", "x" * 5000, "../../nothing.jpg"):
        before = spoil(root, "sample_data", lambda rows, name=name: rows[CAMERA].update({"filename": name}))
        _, skipped = tables.read_frames(root, stand_in.VERSION)
        (root / stand_in.VERSION / "sample_data.json").write_text(before)
        assert len(skipped) == 1 and "is missing" in next(iter(skipped.values()))


# ---------------------------------------------------------------------------------------------- maps


@pytest.fixture
def layers(world):
    path = world / "maps" / "expansion" / f"{roadmap.LOCATIONS[0]}.json"
    return json.loads(path.read_text())


def map_outcome(path, layers: dict) -> str:
    path.write_text(json.dumps(layers))
    try:
        roadmap.RoadMap.read(path)
    except Stop as stop:
        return str(stop)
    return ""


@pytest.mark.parametrize(
    ("layer", "field"), [(layer, field) for layer, kinds in roadmap.KINDS.items() for field in kinds]
)
def test_every_field_of_a_map_is_checked(layer, field, layers, tmp_path):
    for name, value in (*SPOILT.items(), ("absent", "")):
        if name != "absent" and roadmap.KINDS[layer][field].fits(value):
            continue
        broken = json.loads(json.dumps(layers))
        broken[layer][0].pop(field)
        broken[layer][0] |= {} if name == "absent" else {field: value}
        said = map_outcome(tmp_path / "town.json", broken)
        assert "town.json" in said and layer in said and repr(field) in said, (name, said)


@pytest.mark.parametrize("layer", roadmap.KINDS)
def test_a_layer_of_something_else_is_named(layer, layers, tmp_path):
    for value in (None, "x", 1, {}, [1], ["a"], [None]):
        said = map_outcome(tmp_path / "town.json", layers | {layer: value})
        assert "town.json" in said and layer in said, (value, said)


@pytest.mark.parametrize("layer", roadmap.KINDS)
def test_a_layer_that_is_absent_is_named(layer, layers, tmp_path):
    del layers[layer]
    assert f"town.json has no layer {layer!r}" in map_outcome(tmp_path / "town.json", layers)


def test_pointers_into_nothing_and_holes_of_something_else_are_named(layers, tmp_path):
    for layer, change in (
        ("road_divider", {"line_token": "gone"}),
        ("lane", {"polygon_token": "gone"}),
        ("line", {"node_tokens": ["gone"]}),
        ("polygon", {"exterior_node_tokens": ["gone"] * 3}),
        ("polygon", {"holes": ["=1+1"]}),
        ("polygon", {"holes": [{"node_tokens": [1]}]}),
    ):
        broken = json.loads(json.dumps(layers))
        for record in broken[layer]:
            record |= change
        said = map_outcome(tmp_path / "town.json", broken)
        assert "town.json" in said and ("gone" in said or "hole 0" in said), (layer, change, said)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"version": ' + "9" * 5000 + "}", "\x00"])
def test_a_file_that_is_no_map_is_named(text, tmp_path):
    (tmp_path / "town.json").write_text(text)
    with pytest.raises(Stop, match=r"town\.json"):
        roadmap.RoadMap.read(tmp_path / "town.json")
    (tmp_path / "town.json").write_bytes(b'{"version": "\xff"}')
    with pytest.raises(Stop, match=r"town\.json is not readable"):
        roadmap.RoadMap.read(tmp_path / "town.json")
