"""Stand-in data: spectrograms of simulated walkers in the layout of a person's own folders.

ID_1/rec00_w0.png      user ID_1, recording 0, window 0; windows of a recording overlap, recordings share nothing
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.order import Key
from lib.recipes.vavae_microdoppler import gait, radar

ARM_GROUPS = ("arm", "forearm")


@dataclass(frozen=True)
class Walks:
    """What is simulated. `difference` scales what tells users apart; at 0.5 a linear reader finds two users of three."""

    users: int = 12
    recordings: int = 12  # per user
    windows: int = 4  # images per recording
    stride_s: float = 0.6  # between windows of 2.4 s
    side_px: int = 256
    difference: float = 0.5
    heading_deg: float = 15.0
    bag: float = 0.0  # share of the recordings with one arm damped, as by a bag
    seed: int = 0

    def text(self) -> str:
        """Identifies the data: another text makes it anew."""
        return repr(self)


def make(folder: Path, walks: Walks) -> None:
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
    """The echo of one walk towards the radar, with the recording's own speed, heading, range and noise."""
    person = gait.Person.draw(Key(walks.seed, user, -1).generator(), walks.difference)
    person = replace(
        person, rv=person.rv * (1 + 0.04 * generator.standard_normal()), cycle=person.cycle * (1 + 0.02 * generator.standard_normal())
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
    return radar.add_noise(radar.echo(points, gains, sight_m, how.wavelength_m), generator.uniform(12, 24), generator)
