"""What is read off a picture: torso, cadence and envelope of walks that are drawn here."""

import numpy as np
import pytest

from lib.core.config import from_dotted
from lib.core.records import Row
from lib.recipes.vavae_microdoppler import radar
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import kinematics

SIDE = 128


def picture(torso_m_s: float, steps_a_second: float, top_m_s: float, colours: str) -> np.ndarray:
    """A torso line, and feet that swing from it to the top once a step; 2.4 s, -1.5 to 5 m/s."""
    velocity, time = np.linspace(5, -1.5, SIDE)[:, None], np.linspace(0, 2.4, SIDE)[None]
    feet = torso_m_s + (top_m_s - torso_m_s) * np.sin(np.pi * steps_a_second * time) ** 2
    level = np.exp(-(((velocity - torso_m_s) / 0.15) ** 2)) + 0.8 * np.exp(-(((velocity - feet) / 0.12) ** 2))
    return radar.colour(np.clip(level, 0, 1), colours).transpose(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("colours", ["jet", "gray"])
def test_speed_cadence_and_envelope_are_those_of_the_walk(colours):
    config = from_dotted(Config, {"data.kind": "iq", "data.colours": colours, "model.image_px": SIDE})
    found = kinematics.measured(config, picture(1.3, 2.0, 4.0, colours))
    assert found["torso"] == pytest.approx(1.3, abs=0.06)
    assert found["cadence"] == pytest.approx(2.0, abs=0.1)
    assert found["envelope"] == pytest.approx(4.05, abs=0.12)


def test_colours_are_inverted():
    level = np.random.default_rng(0).random((16, 16))
    image = radar.colour(level).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(kinematics.levels("jet", image), level, atol=1 / 255)


def test_pictures_without_stated_axes_are_measured_in_pictures():
    found = kinematics.measured(Config(), picture(1.75, 2.5, 4.0, "jet"))  # 1.75 is the middle of the height
    assert found["torso"] == pytest.approx(0.5, abs=0.02) and found["cadence"] == pytest.approx(6, abs=0.3)


def test_a_gap_is_the_distance_of_the_sets():
    rows = [Row("", "", {f"{kind}_{name}": i + shift for kind, shift in (("fake", 0.5), ("seen", 0)) for name in
                         kinematics.NUMBERS}) for i in range(3)]  # fmt: skip
    assert kinematics.gaps(rows) == pytest.approx({"torso_gap": 0.5, "cadence_gap": 0.5, "envelope_gap": 0.5})
