"""How long a training of scenes is."""

from lib.core.records import Manifest, Stage
from lib.scenes import units
from lib.scenes.sections import Settings


def stages(config: Settings, manifest: Manifest) -> list[Stage]:
    """One leg: data.samples_per_epoch samples in each epoch, whatever the manifest holds.

    Its kind says whether what is held out is known to be in metres, for the measures know the stage alone.
    """
    steps_per_epoch = -(-config.data.samples_per_epoch // config.train.global_batch)
    return [Stage("adapt", config.train.epochs * steps_per_epoch, kind=units.of_held_out(manifest))]
