"""Which convention would make labels of a hand agree that do not: every known one is tried on what the file holds."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from lib.recipes.hamer import agreement, conventions
from lib.recipes.hamer.agreement import MOST_FIT, MOST_POSE_M
from lib.recipes.hamer.conventions import EXCHANGED, ORDER, BadLabel, Conventions
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data_config import AXES, LEFT_BETAS, POSES
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import ManoModel

if TYPE_CHECKING:
    from lib.recipes.hamer.mano import Mano

FINE_FIT, FINE_POSE_M = 0.04, 0.001  # labels that agree so well need no search
# What another convention must come to, relative to the stated one. Of 412 real hands with right labels the best other
# joint order came to 0.89; with ring and pinky exchanged, the right one to 0.26.
BETTER_FIT, BETTER_POSE = 0.6, 0.2
AS_GIVEN, UNKNOWN = "as given", "no known convention"
FINGER_ORDERS = tuple(",".join(map(str, order)) for order in agreement.FINGER_ORDERS)


@dataclass(frozen=True)
class Verdict:
    """What the tests say of one hand; NaN where one cannot be asked.

    `likely`: settings under which its labels agree clearly better, AS_GIVEN, UNKNOWN, or "" where none was looked for.
    """

    fit: float = float("nan")
    anatomy: float = float("nan")
    pose_m: float = float("nan")
    likely: str = ""

    @property
    def wrong(self) -> bool:
        return self.fit > MOST_FIT or self.anatomy > 1 or self.pose_m > MOST_POSE_M

    @property
    def fine(self) -> bool:
        return not (self.fit > FINE_FIT or self.anatomy > 1 or self.pose_m > FINE_POSE_M)


@dataclass(frozen=True)
class Trial:
    """A hand's labels read in one convention, its joints still in the file's order."""

    said: Conventions
    labels: Labels
    posed: np.ndarray | None  # (21, 3) m, the joints of pose and shape


def measured(labels: Labels) -> Verdict:
    """Fit and anatomy of one hand."""
    fit, joints = float(agreement.fit(labels.keypoints_2d, labels.keypoints_3d)), complete(labels)
    if joints is None:
        return Verdict(fit)
    return Verdict(fit, float(agreement.anatomy(joints, agreement.shortest_bones(joints))))


def complete(labels: Labels) -> np.ndarray | None:
    """The joints (21, 3) m, or (21, 2) px, of a hand of which all are known; in 3D where that is so there."""
    for points in (labels.keypoints_3d, labels.keypoints_2d):
        if (points[:, -1] > 0).all():
            return points[:, :-1]
    return None


def search(hand: Hand, now: Verdict, said: Conventions, mano: ManoModel, layer: "Mano | None") -> str:
    """`Verdict.likely` of a hand. layer None: poses are of another hand model and cannot be compared.

    Joint orders with a name come before those that go finger by finger, few changes before many; what explains the
    labels equally well is named by what is tried first.
    """
    named = list(trials(hand, said, mano, layer))
    same_pose = [trial for trial in named if replace(trial.said, axes=said.axes) == said]
    for trying, orders in ((named, tuple(ORDER)), (same_pose, FINGER_ORDERS)):
        found = [answer for trial in trying for answer in answers(trial, orders, now, said)]
        if found:
            return min(found, key=lambda answer: answer[:2])[2]
    if now.fit > MOST_FIT:
        other = float(agreement.fit(hand.labels.keypoints_2d[:, [1, 0, 2]], hand.labels.keypoints_3d))
        if other < min(MOST_FIT, BETTER_FIT * now.fit):
            return EXCHANGED
    return UNKNOWN if now.wrong else AS_GIVEN


def trials(hand: Hand, said: Conventions, mano: ManoModel, layer: "Mano | None") -> Iterator[Trial]:
    """The hand under every convention of axes, pose and shape that can be told apart."""
    posed = layer is not None and hand.given.has_pose and hand.given.has_betas
    forms = POSES if posed else (said.pose_format,)
    shapes = LEFT_BETAS if posed and not hand.right else (said.left_betas,)
    for axes, form, shape in product(AXES, forms, shapes):
        other = replace(said, axes=axes, pose_format=form, left_betas=shape)
        try:
            plain = replace(other, joint_order_2d="openpose", joint_order_3d="openpose")
            labels = conventions.ours(hand.given, plain, mano, hand.right)
        except BadLabel:
            continue
        model = unmirrored(layer) if layer and shape == "unused" and not hand.right else layer
        yield Trial(other, labels, agreement.surfaces(model, [labels], [hand.right])[0][0] if model and posed else None)


def unmirrored(layer: "Mano") -> "Mano":
    """MANO_LEFT as published, seen in the mirror: x of its shape directions has the right hand's sign, by mistake.

    Betas of that file are of another space of shapes than the right hand's, and cannot be converted.
    """
    other = copy.deepcopy(layer)
    other.shapedirs[:, 0] *= -1
    return other


def answers(trial: Trial, orders: Sequence[str], now: Verdict, said: Conventions) -> Iterator[tuple[int, float, str]]:
    """(number of changed settings, distance from agreement, settings) of the joint orders under which all is better."""
    pairs = pairs_of(trial, orders, said)
    points = trial.labels.keypoints_2d[np.array([conventions.order_of(one) for one, _ in pairs])]
    joints = trial.labels.keypoints_3d[np.array([conventions.order_of(other) for _, other in pairs])]
    unknown = np.full(len(pairs), np.nan)
    fits, whole = agreement.fit(points, joints), complete(trial.labels)
    errors = unknown if trial.posed is None else agreement.pose_error(trial.posed, joints)
    anatomies = unknown
    if whole is not None:
        among = joints if whole.shape[1] == 3 else points
        anatomies = agreement.anatomy(among[..., :-1], agreement.shortest_bones(whole))
    distance = np.nan_to_num(fits) / MOST_FIT + np.nan_to_num(anatomies) + np.nan_to_num(errors) / MOST_POSE_M
    for i in np.flatnonzero(better(fits, anatomies, errors, now)):
        other = replace(trial.said, joint_order_2d=pairs[i][0], joint_order_3d=pairs[i][1])
        changes = other.settings_beside(said)
        if changes:
            yield len(changes), round(float(distance[i]), 3), " ".join(changes)


def pairs_of(trial: Trial, orders: Sequence[str], said: Conventions) -> list[tuple[str, str]]:
    """Joint orders of 2D and 3D keypoints that are worth a try: one of them changed, or both to the same."""
    flat, solid = ((points[:, -1] > 0).any() for points in (trial.labels.keypoints_2d, trial.labels.keypoints_3d))
    pairs = [(said.joint_order_2d, said.joint_order_3d)]
    for order in orders:
        pairs += [(said.joint_order_2d, order)] if solid else []
        pairs += [(order, said.joint_order_3d)] if flat else []
        pairs += [(order, order)] if flat and solid else []
    return list(dict.fromkeys(pairs))


def better(fits: np.ndarray, anatomies: np.ndarray, errors: np.ndarray, now: Verdict) -> np.ndarray:
    """(n,) which pass all tests that can be asked, one of them clearly better than now and none of them worse."""
    passes = ~(fits > min(MOST_FIT, 1.2 * now.fit + 0.01) if now.fit == now.fit else fits > MOST_FIT)
    passes &= ~(anatomies > 1) & ~(errors > MOST_POSE_M)
    gains = (fits < BETTER_FIT * now.fit) if now.fit > FINE_FIT else np.zeros(len(fits), bool)
    if now.anatomy > 1:
        gains = gains | (anatomies <= 1)
    if now.pose_m > FINE_POSE_M:
        gains = gains | (errors < BETTER_POSE * now.pose_m)
    return passes & gains
