"""A walking human as moving scatterers: the model of Boulic, Magnenat-Thalmann & Thalmann (The Visual Computer 6,
1990), with the ellipsoid segments that V. C. Chen ("The Micro-Doppler Effect in Radar") hangs on it.

x points forward, y to the left, z up, in metres; phases count strides. `rv` is the walking speed in leg lengths per
second (0.5 to 3). The left side runs half a stride behind the right one. Common ports of this model contain slips (an
elbow term with rv - 0.13, relative lengths added to metres); the numbers here are the paper's.
"""

from dataclasses import dataclass, fields

import numpy as np

THIGH, SHANK, FOOT, TORSO, HEAD, UPPER_ARM, FOREARM = 0.245, 0.246, 0.143, 0.288, 0.130, 0.188, 0.152  # of the height
SHOULDER, HIP, ANKLE_HEIGHT = 0.1295, 0.0955, 0.039  # half widths, height of the ankle: of the height
RADII_M = {"head": 0.10, "torso": 0.15, "thigh": 0.07, "shank": 0.06, "foot": 0.05, "arm": 0.06, "forearm": 0.05}

Knots = list[tuple[float, float]]  # (phase, value)

# name: (mean, standard deviation between people, lowest, highest)
TRAITS = {
    "height_m": (1.70, 0.09, 1.50, 1.95),
    "rv": (1.45, 0.13, 1.05, 1.85),
    "cycle": (1, 0.05, 0.88, 1.12),
    "hip": (1, 0.08, 0.8, 1.2),
    "knee": (1, 0.08, 0.8, 1.2),
    "girth": (1, 0.1, 0.8, 1.25),
    "arm_swing": (1, 0.25, 0.35, 1.6),
    "elbow_deg": (0, 6, -10, 15),
    "asymmetry": (0, 0.04, -0.1, 0.1),
    "sway": (1, 0.2, 0.5, 1.6),
    "leg": (1, 0.03, 0.92, 1.08),
    "arm_phase": (0, 0.03, -0.08, 0.08),
    "head_db": (0, 1.5, -9, 9),
    "torso_db": (0, 1.5, -9, 9),
    "thigh_db": (0, 1.5, -9, 9),
    "shank_db": (0, 1.5, -9, 9),
    "foot_db": (0, 1.5, -9, 9),
    "arm_db": (0, 1.5, -9, 9),
}


@dataclass(frozen=True)
class Person:
    """What tells one walker from another; lengths relative to the height except where a unit says otherwise."""

    height_m: float = 1.70
    rv: float = 1.45  # speed in leg lengths per second
    cycle: float = 1.0  # factor on the stride's duration
    hip: float = 1.0  # gains of the joint angles
    knee: float = 1.0
    girth: float = 1.0
    arm_swing: float = 1.0
    elbow_deg: float = 0.0
    asymmetry: float = 0.0  # right side stronger, left side weaker by this share
    sway: float = 1.0
    leg: float = 1.0  # factor on the leg's length
    arm_phase: float = 0.0
    head_db: float = 0.0  # reflectivity of the groups
    torso_db: float = 0.0
    thigh_db: float = 0.0
    shank_db: float = 0.0
    foot_db: float = 0.0
    arm_db: float = 0.0

    @classmethod
    def draw(cls, generator: np.random.Generator, scale: float = 1.0) -> "Person":
        """`scale` multiplies the deviation from the mean person: 1 = easy to tell apart, 0.3 = hard."""
        names = [field.name for field in fields(cls)]
        traits = {}
        for name, deviate in zip(names, generator.standard_normal(len(names)), strict=True):
            mean, spread, low, high = TRAITS[name]
            traits[name] = float(np.clip(mean + scale * spread * deviate, low, high))
        return cls(**traits)

    @property
    def leg_m(self) -> float:
        return (THIGH + SHANK) * self.height_m * self.leg

    def speed_m_s(self) -> float:
        return self.rv * self.leg_m

    def cycle_s(self) -> float:
        """Duration of a stride (two steps)."""
        return 1.346 / np.sqrt(self.rv) * self.cycle


@dataclass(frozen=True)
class Scatterer:
    """A point of a body segment: where it is and how the ellipsoid around it lies. `axis` is a unit vector (t, 3)."""

    group: str  # head | torso | thigh | shank | foot | arm | forearm
    position_m: np.ndarray  # (t, 3)
    axis: np.ndarray  # (t, 3)
    radius_m: float
    half_length_m: float


def periodic(points: Knots, phase: np.ndarray) -> np.ndarray:
    """The periodic monotone cubic through the knots, at `phase`; 1024 tabulated steps are far below a wavelength."""
    from scipy.interpolate import PchipInterpolator

    knots = sorted((x % 1.0, y) for x, y in points)
    x = np.concatenate([np.array([k[0] for k in knots]) + shift for shift in (-1, 0, 1)])
    table = PchipInterpolator(x, np.tile([k[1] for k in knots], 3))(np.linspace(0, 1, 1025))
    return np.interp(phase % 1.0, np.linspace(0, 1, 1025), table)


def joint_angles(rv: float, phase: np.ndarray, arm_phase: np.ndarray) -> dict[str, np.ndarray]:
    """Degrees (t,) of hip, knee, ankle, shoulder and elbow at the phases (t,) of one side's stride."""
    q, p = (rv - 1.3) / 1.7, (rv - 0.5) / 0.8
    support = (0.752 * 1.346 / np.sqrt(rv) - 0.143) / (1.346 / np.sqrt(rv))  # share of the stride on the ground
    hip: Knots
    knee: Knots
    ankle: Knots
    if rv < 1.3:
        hip = [(0.5, -15), (0.9, 25)]
        knee = [(0.17, 3), (0.40, 3), (0.75, 70), (1.0, 3)]
        ankle = [(0, -3), (0.08, -18), (0.5, 8), (support, -20), (0.85, -3)]
        elbow = [(0.05, 8 * p + 6), (0.5 + 0.01 * p, 24 * p + 20), (0.9, 9 * p + 8)]
    else:
        hip = [(0.2 * q - 0.1, 5 * q + 25), (0.5, -15), (0.9, 6 * q + 25)]
        knee = [(0.17 - 0.05 * q, 3 + 22 * q), (0.40, 3), (0.75 - 0.05 * q, 70 - 5 * q), (1 - 0.03 * q, 3 + 3 * q)]
        ankle = [
            (0, 5 * q - 3), (0.08, 4 * q - 18), (0.5 - 0.1 * q, 8 - 3 * q), (support, -20 - 8 * q), (0.85, 5 * q - 3),
        ]  # fmt: skip
        elbow = [(0.05, 14 - 6 * q), (0.51 + 0.04 * q, 44 + 26 * q), (0.9 - 0.1 * q, 17 - 6 * q)]
    return {
        "hip": periodic(hip, phase),
        "knee": periodic(knee, phase),
        "ankle": periodic(ankle, phase),
        "elbow": periodic(elbow, arm_phase),
        "shoulder": 3 - 4.94 * rv - 9.88 * rv * np.cos(2 * np.pi * arm_phase),
    }


def pelvis(person: Person, phase: np.ndarray, travelled_m: np.ndarray) -> np.ndarray:
    """Its centre (t, 3): travelled distance plus the oscillations of the stride, which the paper has in leg lengths."""
    rv, turn = person.rv, 2 * np.pi
    cycle = 1.346 / np.sqrt(rv)
    support = (0.752 * cycle - 0.143) / cycle
    lateral = 0.032 if rv >= 0.5 else 0.128 * rv - 0.128 * rv**2
    forward = 0.021 if rv >= 0.5 else 0.084 * rv - 0.084 * rv**2
    x = travelled_m - forward * np.sin(turn * (2 * phase + 2 * (0.625 - support))) * person.leg_m
    y = -lateral * person.sway * np.sin(turn * (phase - 0.1)) * person.leg_m
    z = person.leg_m * (1 + 0.015 * rv * (-1 + np.sin(turn * (2 * phase - 0.35)))) + ANKLE_HEIGHT * person.height_m
    return np.stack([x, y, z], 1)


def thorax_torsion_deg(rv: float, phase: np.ndarray) -> np.ndarray:
    from scipy.interpolate import CubicSpline

    knots = [(0.1, 4 * rv / 3), (0.4, -1.5 * rv), (0.6, -4 * rv / 3), (0.9, 1.5 * rv), (1.1, 4 * rv / 3)]
    x, y = zip(*knots, strict=True)
    return CubicSpline(x, y, bc_type="periodic")((phase - 0.1) % 1.0 + 0.1)


def scatterers(
    person: Person, phase: np.ndarray, travelled_m: np.ndarray, arm_gains: tuple[float, float] = (1.0, 1.0)
) -> list[Scatterer]:
    """24 points of the body along the strides `phase` (t,). `arm_gains` damp the swing of the right and left arm (a
    bag).
    """
    h = person.height_m
    centre = pelvis(person, phase, travelled_m)
    up = tilted(np.radians(2 * (-1 + np.sin(2 * np.pi * (2 * phase - 0.1)))))  # trunk lean, (t, 3)
    neck = centre + TORSO * h * up
    points = [Scatterer("head", neck + HEAD / 2 * h * up, up, RADII_M["head"], HEAD * h / 2)]
    points += along("torso", centre, neck, (0.25, 0.5, 0.75), person)
    torsions = np.radians(-4 * person.rv * np.cos(2 * np.pi * phase)), np.radians(thorax_torsion_deg(person.rv, phase))
    for side, shift, sign in (("right", 0.0, -1), ("left", 0.5, 1)):
        gain = 1 - sign * person.asymmetry
        angles = joint_angles(person.rv, phase + shift, phase + shift + person.arm_phase)
        points += leg(person, centre + sideways(torsions[0], sign * HIP * h), angles, gain)
        swing = arm_gains[0 if side == "right" else 1] * person.arm_swing * gain
        points += arm(person, neck + sideways(torsions[1], sign * SHOULDER * h), angles, swing)
    return points


def leg(person: Person, hip: np.ndarray, angles: dict[str, np.ndarray], gain: float) -> list[Scatterer]:
    thigh_angle = np.radians(angles["hip"] * person.hip * gain)
    shank_angle = thigh_angle - np.radians(angles["knee"] * person.knee * gain)
    foot_angle = shank_angle + np.radians(angles["ankle"])
    h, factor = person.height_m, person.leg
    knee = hip + THIGH * h * factor * hanging(thigh_angle)
    ankle = knee + SHANK * h * factor * hanging(shank_angle)
    toe = ankle + FOOT * h * np.stack([np.cos(foot_angle), 0 * foot_angle, np.sin(foot_angle)], 1)
    points = along("thigh", hip, knee, (0.25, 0.5, 0.75), person) + along("shank", knee, ankle, (0.2, 0.5, 0.8), person)
    return points + along("foot", ankle, toe, (0.5,), person)


def arm(person: Person, shoulder: np.ndarray, angles: dict[str, np.ndarray], gain: float) -> list[Scatterer]:
    upper_angle = np.radians(angles["shoulder"] * gain)
    lower_angle = upper_angle + np.radians(angles["elbow"] + person.elbow_deg)
    elbow = shoulder + UPPER_ARM * person.height_m * hanging(upper_angle)
    hand = elbow + FOREARM * person.height_m * hanging(lower_angle)
    return along("arm", shoulder, elbow, (0.5,), person) + along("forearm", elbow, hand, (0.5, 1.0), person)


def along(group: str, start: np.ndarray, end: np.ndarray, shares: tuple[float, ...], person: Person) -> list[Scatterer]:
    """Points of the segment from start to end (t, 3) at the given shares of its length."""
    difference = end - start
    length = np.linalg.norm(difference, axis=1, keepdims=True)
    axis, half = difference / length, float(length[0, 0]) / 2
    return [Scatterer(group, start + share * difference, axis, RADII_M[group] * person.girth, half) for share in shares]


def hanging(angle: np.ndarray) -> np.ndarray:
    """Unit vectors (t, 3) of a limb that hangs down at angle 0 and swings forward for positive angles (radians)."""
    return np.stack([np.sin(angle), 0 * angle, -np.cos(angle)], 1)


def tilted(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1)


def sideways(angle: np.ndarray, offset_m: float) -> np.ndarray:
    """A joint `offset_m` to the left of the trunk, which is turned about the vertical by `angle` (t,)."""
    return offset_m * np.stack([-np.sin(angle), np.cos(angle), 0 * angle], 1)
