"""Trained layers are shown as ranges, and none of them is lost in one."""

from lib.network import layers

BLOCKS = [f"net.{kind}.{i}.{layer}" for kind in ("frame", "global") for i in range(12, 24) for layer in ("qkv", "fc1")]


def test_blocks_become_ranges():
    assert list(layers.ranges(BLOCKS)) == [
        f"net.{kind}.12-23.{layer}" for kind in ("frame", "global") for layer in ("qkv", "fc1")
    ]


def test_a_range_says_nothing_of_layers_that_are_not_trained():
    names = [f"refine{i}.conv{j}" for i in range(4) for j in range(2) if (i, j) != (3, 1)] + ["b.1", "b.2", "b.7"]
    found = layers.ranges(names)
    assert found == {
        "refine0-3.conv0": [f"refine{i}.conv0" for i in range(4)],
        "refine0-2.conv1": [f"refine{i}.conv1" for i in range(3)],
        "b.1-2,7": ["b.1", "b.2", "b.7"],
    }


def test_a_dozen_lines_hold_the_sum_of_all_and_the_file_every_layer(tmp_path):
    rows = [(f"part_{letter}.weight", 10 + place, 0.01) for place, letter in enumerate("abcdefghijklmnop")]
    layers.write(tmp_path, rows)
    lines = layers.summary(tmp_path)
    assert len(lines) == 12 and lines[-1][0] == "and 5 more kinds"
    assert sum(line[2] for line in lines) == sum(row[1] for row in rows) and sum(line[1] for line in lines) == 16
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 17
    assert layers.text(tmp_path).count("\n") == 11
