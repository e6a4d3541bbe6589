"""The physics of the stand-in data: numbers from the model's own formulas, not from its output."""

from dataclasses import replace

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.core.order import Key
from lib.recipes.vavae_microdoppler import radar, stand_in
from lib.recipes.vavae_microdoppler.demo_data import gait

HOW = radar.Spectrogram(side_px=128)


def walk(person: gait.Person, seconds: float = 2.6, prf_hz: float = 1600.0):
    time_s = np.arange(int(seconds * prf_hz)) / prf_hz
    return time_s, gait.scatterers(person, time_s / person.cycle_s(), person.speed_m_s() * time_s)


def test_stride_has_boulics_duration_and_speed():
    person = gait.Person(rv=1.44)
    assert person.cycle_s() == pytest.approx(1.346 / 1.2)
    assert person.speed_m_s() == pytest.approx(1.44 * (0.245 + 0.246) * 1.70)


def test_torso_moves_with_the_walking_speed_and_feet_stand_and_swing():
    person = gait.Person()
    time_s, points = walk(person, 2 * person.cycle_s())
    torso = next(p for p in points if p.group == "torso").position_m
    foot = next(p for p in points if p.group == "foot").position_m
    assert (torso[-1, 0] - torso[0, 0]) / (time_s[-1] - time_s[0]) == pytest.approx(person.speed_m_s(), rel=0.05)
    speed = np.gradient(foot[:, 0], time_s)
    assert 2.5 < speed.max() / person.speed_m_s() < 4.5  # the published range is 3 to 4
    assert np.median(np.sort(speed)[: len(speed) // 4]) == pytest.approx(0, abs=0.35)  # a stance foot hardly moves


def test_limbs_keep_their_length():
    _, points = walk(gait.Person())
    thigh = [p for p in points if p.group == "thigh"][:3]
    apart = np.linalg.norm(thigh[2].position_m - thigh[0].position_m, axis=1)
    np.testing.assert_allclose(apart, 0.5 * 0.245 * 1.70, rtol=1e-9)


def test_an_approaching_point_has_the_doppler_of_its_speed():
    # f = 2 v / lambda, positive towards the radar
    t = np.arange(4096) / HOW.prf_hz
    position = np.stack([10 - 1.2 * t, 0 * t, 0 * t], 1)
    point = gait.Scatterer("torso", position, np.tile([0.0, 0.0, 1.0], (len(t), 1)), 0.15, 0.25)
    power = radar.power(stand_in.echo([point], {}, np.zeros(3), HOW.wavelength_m), HOW)
    velocity = np.linspace(HOW.high_m_s, HOW.low_m_s, HOW.side_px)[power.mean(1).argmax()]
    assert velocity == pytest.approx(1.2, abs=0.05)


def test_ellipsoid_reflects_its_broad_side():
    # sigma = pi a²b²c² / (a² sin² + c² cos²)²: pi a^4 c^2 / a^4 = pi c² broadside, pi a^4 / c² end on
    far = np.tile([1000.0, 0, 0], (2, 1))
    amplitude = []
    for axis in ([0.0, 0, 1], [1.0, 0, 0]):
        point = gait.Scatterer("thigh", far, np.tile(axis, (2, 1)), 0.07, 0.2)
        amplitude.append(abs(stand_in.echo([point], {}, np.zeros(3), 0.0125)[0]) * 1000**2)
    assert amplitude == pytest.approx([np.sqrt(np.pi) * 0.2, np.sqrt(np.pi) * 0.07**2 / 0.2])


def test_torso_line_lies_at_the_walking_speed():
    walks = stand_in.Walks(windows=1, side_px=128, difference=0.0, heading_deg=0.0)
    found = []
    for recording in range(4):
        generator = Key(0, 0, recording).generator()
        power = radar.power(stand_in.recorded(walks, 0, generator, HOW), HOW)
        power = power[:, :64]  # before the radar looks down on the walker
        velocity = np.linspace(HOW.high_m_s, HOW.low_m_s, HOW.side_px)
        found.append(velocity[power.mean(1).argmax()])
    assert np.mean(found) == pytest.approx(gait.Person().speed_m_s(), rel=0.15)


def test_images_depend_on_seed_user_and_recording_alone():
    walks = stand_in.Walks(windows=2, side_px=64)
    again = stand_in.images(walks, 1, 2)
    assert all(np.array_equal(a, b) for a, b in zip(stand_in.images(walks, 1, 2), again, strict=True))
    assert not np.array_equal(again[0], stand_in.images(walks, 1, 3)[0])
    assert not np.array_equal(again[0], stand_in.images(replace(walks, seed=1), 1, 2)[0])


def test_a_flip_in_time_is_another_image():
    image = stand_in.images(stand_in.Walks(windows=1, side_px=64), 0, 0)[0].astype(float)
    assert np.abs(image - image[:, ::-1]).mean() > 10  # of 255


def test_windows_of_a_recording_overlap():
    first, second = (image.astype(float) for image in stand_in.images(stand_in.Walks(windows=2, side_px=64), 0, 0))
    shift = round(0.6 / 2.4 * 64)
    assert np.corrcoef(first[:, shift:].ravel(), second[:, :-shift].ravel())[0, 1] > 0.9


def test_silence_gives_no_nan():
    assert np.array_equal(radar.levels(np.zeros((4, 4)), 38), np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("how", "word"), [(replace(HOW, prf_hz=1000.0), "fold"), (replace(HOW, window_s=1.0), "pulses")]
)
def test_impossible_spectrograms_are_refused(how, word):
    with pytest.raises(Stop, match=word):
        how.check()


def test_a_short_echo_is_refused():
    with pytest.raises(ValueError, match="too few"):
        radar.power(np.ones(100, complex), HOW)


def test_jet_runs_from_dark_blue_to_dark_red():
    # knots of facts/vavae.md 3.3 (j)
    found = radar.colour(np.array([[0.0, 0.375, 1.0]]))
    assert found[0, 0].tolist() == [0, 0, 128] and found[0, 2].tolist() == [128, 0, 0]
    np.testing.assert_allclose(found[0, 1], [0, 255, 255], atol=2)
