"""Labels in another convention than the settings say: tested hand by hand, kept in the manifest, and where most hands
are, step 3 stops and names what the labels probably are and the setting that converts them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.core.errors import Stop
from lib.core.records import Record
from lib.recipes.hamer import agreement, conventions, diagnosis
from lib.recipes.hamer.agreement import MOST_FIT, MOST_POSE_M
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.diagnosis import AS_GIVEN, UNKNOWN, Verdict
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import ManoModel

if TYPE_CHECKING:
    from lib.recipes.hamer.mano import Mano

SAMPLED = 16  # hands of a shard for which other conventions are tried; that takes 20 to 300 ms each
FEWEST = 3  # hands that say something for a part of them (left hands, clearly bent ones) to count
OUTSIDE = 1.1  # sides of a picture, farther than which most hands do not reach; of real ones the median is 0.92
CORNER, MOST, FEWEST_IN_CORNER = 0.5, 90, 20  # so many per cent of so many hands never lie in one quarter of a picture
ANYWAY = "or data.trust_labels=true to use the labels as they are"
MEANING = {
    "joint_order_2d": "the 2D keypoints are in the joint order {}",
    "joint_order_3d": "the 3D keypoints are in the joint order {}",
    "axes": "3D keypoints and wrist are in the axes of {}",
    "pose_format=without_mean": "hand_pose lacks MANO's mean pose",
    "pose_format=pca": "hand_pose holds PCA numbers (components of MANO's poses, without the mean)",
    "pose_format=pca_without_mean": "hand_pose holds PCA numbers (components of MANO's poses)",
    "pose_format=axis_angle": "hand_pose holds MANO's mean pose already",
    "left_betas=mirrored": "betas of left hands are those of the right hand in the mirror",
    "left_betas=negated": "betas of left hands have the flipped sign",
    "left_betas=unused": "betas of left hands are those of MANO_LEFT, whose shape directions are not mirrored in x",
    "box_format=xywh": "boxes are x, y, width, height",
    "box_format=centre": "boxes are x and y of the centre, then width, height",
    "box_format=corners": "boxes are x0, y0, x1, y1",
}
NAMES = {"mano": "of MANO and HO3D", "opengl": "OpenGL", "opencv": "OpenCV", "openpose": "of OpenPose"}
TRIED = (
    "tried were the joint orders of MANO, HO3D, InterHand2.6M, RHD and FPHAB, every other order of fingers, OpenGL's "
    "axes, poses without the mean, PCA numbers, betas of left hands with the flipped sign or of MANO_LEFT"
)


def verdicts(data: DataConfig, hands: Sequence[Hand], mano: ManoModel, comparable: bool) -> list[Verdict]:
    """What the tests say of each hand. comparable: are poses and shapes those of this hand model?"""
    layer = layer_of(mano) if comparable and any(hand.given.has_pose for hand in hands) else None
    sound = [not hand.fault and finite(hand.labels) for hand in hands]
    found = [diagnosis.measured(hand.labels) if good else Verdict() for hand, good in zip(hands, sound, strict=True)]
    posed = [i for i, hand in enumerate(hands) if sound[i] and hand.labels.has_pose and hand.labels.has_betas]
    if layer and posed:
        errors = agreement.pose_errors(layer, [hands[i].labels for i in posed], [hands[i].right for i in posed])
        for i, error in zip(posed, errors, strict=True):
            found[i] = replace(found[i], pose_m=error)
    said = conventions.conventions_of(data)
    for i in {int(place) for place in np.linspace(0, len(hands) - 1, min(SAMPLED, len(hands)))}:
        likely = hands[i].likely_box
        if sound[i] and not likely and data.format != "made":
            likely = AS_GIVEN if found[i].fine else diagnosis.search(hands[i], found[i], said, mano, layer)
        found[i] = replace(found[i], likely=likely)
    return found


def layer_of(mano: ManoModel) -> "Mano":
    from lib.recipes.hamer.mano import Mano

    return Mano(mano)


def finite(labels: Labels) -> bool:
    arrays = (labels.keypoints_2d, labels.keypoints_3d, labels.hand_pose, labels.betas)
    return all(np.isfinite(array).all() for array in arrays)


def refuse_wrong_conventions(records: list[Record]) -> None:
    """Stop: most hands agree only in another convention, or in none, or look like the other hand."""
    asked = [record for record in records if record.columns.get("likely")]
    sides = [[record for record in asked if int(record.columns["right"]) == right] for right in (0, 1)]
    for some in (asked, *(side for side in sides if len(side) >= FEWEST)):
        counts = Counter(str(record.columns["likely"]) for record in some)
        for likely, count in counts.most_common(1):
            if likely != AS_GIVEN and count > len(some) / 2:
                raise stop_for(likely, count, some)
    clear = [int(record.columns["facing"]) for record in records if int(record.columns["facing"])]
    if len(clear) >= FEWEST and sum(clear) < 0:
        cause = f"the 3D keypoints of {clear.count(-1)} of {len(clear)} clearly bent hands look like the other hand:"
        causes = "`hand` names the other side, or one axis of the 3D keypoints is mirrored (here z points forward)"
        raise Stop(f"{cause} {causes}", f"correct the labels, {ANYWAY}")


def refuse_other_size(records: list[Record]) -> None:
    """Stop: labels are in pixels of larger pictures than those that are here, or of smaller ones."""
    asked = [record for record in records if record.columns.get("reach_x", "") != ""]
    far = np.array([[float(record.columns[f"reach_{axis}"] or "nan") for axis in "xy"] for record in asked])
    if len(far) < FEWEST or np.isnan(far).any():
        return
    how = f"bring the pictures that the labels are of, or scale the labels to these, {ANYWAY}"
    if (most := float(np.median(far.max(1)))) > OUTSIDE:
        raise Stop(f"most hands reach {most:.2f} times as far as their pictures: their labels are of larger ones", how)
    if len(far) >= FEWEST_IN_CORNER and (np.percentile(far, MOST, axis=0) < CORNER).all():
        cause = (
            f"{MOST} % of the hands lie in the upper left quarter of their pictures: their labels are of smaller ones"
        )
        raise Stop(cause, how)


def stop_for(likely: str, count: int, some: list[Record]) -> Stop:
    """What is probably wrong with the labels of `count` of the hands that were looked at, as a Stop."""
    side = {0: "left ", 1: "right "}[int(some[0].columns["right"])] if one_side(some) else ""
    wrong = [record for record in some if record.columns["likely"] == likely]
    hands = f"{count} of {len(some)} {side}hands that were looked at (the first: {wrong[0].sample_id})"
    off = "; ".join(apart(wrong))
    if likely == UNKNOWN:
        return Stop(
            f"the labels of {hands} do not agree, in no known convention: {off} ({TRIED})", f"correct them, {ANYWAY}"
        )
    now = f"; as they are, {off}" if off else ""
    if likely == conventions.EXCHANGED:
        cause = f"the labels of {hands} agree if their 2D keypoints are y, x instead of x, y{now}"
        return Stop(cause, f"exchange the first two columns of keypoints_2d, {ANYWAY}")
    words = likely.split(" ")
    meaning = " and ".join(meaning_of(*word.removeprefix("data.").split("=")) for word in words)
    return Stop(f"the labels of {hands} agree if {meaning}{now}", f"set {likely} in step 1, {ANYWAY}")


def one_side(some: list[Record]) -> bool:
    return len({int(record.columns["right"]) for record in some}) == 1


def meaning_of(name: str, value: str) -> str:
    return MEANING.get(f"{name}={value}") or MEANING[name].format(NAMES.get(value, value))


def apart(some: list[Record]) -> list[str]:
    """By how much labels disagree: medians of what can be asked, where it is more than right labels have."""
    sentences = {
        "fit_3d_onto_2d": (MOST_FIT, "the 3D keypoints lie {:.2f} of the hand's size beside the 2D ones"),
        "pose_onto_3d_mm": (1000 * MOST_POSE_M, "the joints of pose and shape lie {:.1f} mm beside the 3D keypoints"),
        "anatomy": (1, "the joints do not form a hand from wrist to tips"),
    }
    found = []
    for column, (limit, sentence) in sentences.items():
        values = [float(record.columns[column]) for record in some if record.columns.get(column, "") != ""]
        if values and np.median(values) > limit:
            found.append(f"{sentence.format(np.median(values))} (right labels: at most {limit:g})")
    return found


def summary(records: list[Record]) -> dict[str, Any]:
    """How well labels agree, for `summarise_data`."""
    found = {}
    limits = {"fit_3d_onto_2d": (MOST_FIT, "of the hand's size"), "pose_onto_3d_mm": (1000 * MOST_POSE_M, "mm")}
    for column, (limit, unit) in limits.items():
        values = [float(record.columns[column]) for record in records if record.columns.get(column, "") != ""]
        if values:
            beyond = f"{sum(value > limit for value in values)} above {limit:g}"
            found[column.replace("_", " ")] = f"median {np.median(values):.3f} {unit} of {len(values)} hands, {beyond}"
    return found
