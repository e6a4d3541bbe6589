"""The unit of lengths in scores: metres where the scenes are known to be in metres, else none.

COLMAP's models have a scale of their own, and an average over scenes in metres would be that of the largest one. So
where the unit is not known, every scored sequence is brought to one in which the median of its true depth is 1.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from lib.core.records import Manifest, Metric, Stage
from lib.scenes.depth import METRES

RELATIVE = "median depths"


def of_held_out(manifest: Manifest) -> str:
    """The kind of a stage that scores this manifest: METRES where all that is held out is in metres, else ""."""
    held_out = [*manifest.side("select"), *manifest.side("test")]
    known = bool(held_out) and all(record.columns["unit"] == METRES for record in held_out)
    return METRES if known else ""


def of_lengths(stage: Stage) -> str:
    """What stands behind a length of this stage."""
    return METRES if stage.kind == METRES else RELATIVE


def in_metres(stage: Stage) -> bool:
    return stage.kind == METRES


def named(measures: dict[str, Metric], stage: Stage) -> dict[str, Metric]:
    """The measures with the stage's unit for those that are lengths."""
    unit = of_lengths(stage)
    return {name: replace(metric, unit=unit) if metric.unit == METRES else metric for name, metric in measures.items()}


def relative(truth: dict[str, Any]) -> dict[str, Any]:
    """A sequence in a unit of its own: depths (s, h, w) have the median 1, and cameras (s, 3, 4) follow."""
    known: Tensor = truth["depths"][truth["valid"]]
    if not len(known):
        return truth
    cameras = truth["extrinsics"].clone()
    cameras[..., 3] /= known.median()
    return truth | {"depths": truth["depths"] / known.median(), "extrinsics": cameras}
