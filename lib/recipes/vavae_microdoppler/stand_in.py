"""Stand-in data: spectrograms of simulated walkers in the layout of a person's own folders.

    ID_1/rec00_w0.png    user ID_1, recording 0, window 0; windows of a recording overlap, recordings share nothing

The radar sees one range bin: s(t) = sum of A exp(-j 4 pi r / wavelength) over the points of a walker (gait.py).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.core.order import Key
from lib.recipes.vavae_microdoppler import radar
from lib.recipes.vavae_microdoppler.demo_data import gait

ARM_GROUPS = ("arm", "forearm")


@dataclass(frozen=True)
class Walks:
    """What is simulated. `difference` scales what tells users apart: at 0.5 a linear probe finds two users of three."""

    users: int = 12
    recordings: int = 12  # per user
    windows: int = 4  # images per recording
    stride_s: float = 0.6  # between windows of 2.4 s
    side_px: int = 256
    difference: float = 0.5
    heading_deg: float = 15.0
    bag: float = 0.0  # share of the recordings with one arm damped, as by a bag
    seed: int = 0


def make(folder: Path, walks: Walks) -> None:
    """Writes the images of all users into the empty `folder`."""
    from PIL import Image

    for user in range(walks.users):
        place = folder / f"ID_{user + 1}"
        place.mkdir(parents=True)
        for recording in range(walks.recordings):
            for number, image in enumerate(images(walks, user, recording)):
                Image.fromarray(image).save(place / f"rec{recording:02}_w{number}.png", compress_level=1)


def images(walks: Walks, user: int, recording: int) -> list[np.ndarray]:
    """The images (side, side, 3) uint8 of one recording: shared nuisances, one noise, overlapping windows."""
    generator = Key(walks.seed, user, recording).generator()
    how = radar.Spectrogram(side_px=walks.side_px, range_db=generator.uniform(35, 42))
    power = radar.power(recorded(walks, user, generator, how), how)
    firsts = radar.windows(power.shape[1], how, walks.stride_s)[: walks.windows]
    return [radar.colour(radar.levels(power[:, first : first + walks.side_px], how.range_db)) for first in firsts]


def recorded(walks: Walks, user: int, generator: np.random.Generator, how: radar.Spectrogram) -> np.ndarray:
    """The echo (t,) of one walk towards the radar, with the recording's own speed, heading, range and noise."""
    person = gait.Person.draw(Key(walks.seed, user, -1).generator(), walks.difference)
    person = replace(
        person,
        rv=person.rv * (1 + 0.04 * generator.standard_normal()),
        cycle=person.cycle * (1 + 0.02 * generator.standard_normal()),
    )
    pulses = int((how.duration_s + (walks.windows - 1) * walks.stride_s + how.window_s) * how.prf_hz) + 8
    time_s = np.arange(pulses) / how.prf_hz
    pace = 1 + 0.02 * np.sin(2 * np.pi * (0.3 * time_s + generator.uniform()))  # a walker's speed wanders slowly
    progress_s = np.cumsum(pace) / how.prf_hz
    travelled_m = person.speed_m_s() * progress_s
    arms = (0.3, 1.0) if generator.uniform() < walks.bag else (1.0, 1.0)
    points = gait.scatterers(person, generator.uniform() + progress_s / person.cycle_s(), travelled_m, arms)
    heading = np.radians(generator.uniform(-walks.heading_deg, walks.heading_deg))
    start_m = travelled_m[-1] + generator.uniform(1.5, 3.0)
    # The body's frame has the radar ahead; the 1 m is the radar's height.
    sight_m = np.array([start_m * np.cos(heading), start_m * np.sin(heading), 1.0])
    gains = {name: getattr(person, f"{'arm' if name in ARM_GROUPS else name}_db") for name in gait.RADII_M}
    return add_noise(echo(points, gains, sight_m, how.wavelength_m), generator.uniform(12, 24), generator)


def echo(
    points: list[gait.Scatterer], gains_db: dict[str, float], radar_m: np.ndarray, wavelength_m: float
) -> np.ndarray:
    """Complex slow-time signal (t,) of the points, seen from `radar_m` (3,).

    Segments reflect as ellipsoids of two equal radii: sigma = pi a²b²c² / (a² sin² + c² cos²)² with the angle between
    line of sight and long axis; the amplitude is sqrt(sigma) / r².
    """
    signal = np.zeros(len(points[0].position_m), complex)
    for point in points:
        sight = point.position_m - radar_m
        r = np.linalg.norm(sight, axis=1)
        cos2 = ((sight * point.axis).sum(1) / r) ** 2
        a, c = point.radius_m, point.half_length_m
        root_sigma = np.sqrt(np.pi) * a * a * c / (a * a * (1 - cos2) + c * c * cos2)
        amplitude = root_sigma * 10 ** (gains_db.get(point.group, 0.0) / 20) / r**2
        signal = signal + amplitude * np.exp(-4j * np.pi / wavelength_m * r)
    return signal


def add_noise(signal: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """White complex noise at a ratio to the signal's mean power."""
    power = np.mean(np.abs(signal) ** 2) / 10 ** (snr_db / 10)
    noise = generator.standard_normal((2, len(signal)))
    return signal + np.sqrt(power / 2) * (noise[0] + 1j * noise[1])
