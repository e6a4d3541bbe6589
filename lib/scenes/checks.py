"""What settings of scenes must not say of one another. Imported where a configuration is checked, and nowhere else."""

from collections.abc import Callable, Iterable

from lib.core.errors import Stop
from lib.scenes.sections import Settings


def refuse_without_region(config: Settings) -> None:
    if config.loss.region_weight != 1 and not config.data.region_masks:
        given = f"loss.region_weight={config.loss.region_weight}"
        raise Stop(f"{given} has no region to weigh: set data.region_masks too")


def refuse_uneven_batches(config: Settings) -> None:
    """Stop: several samples at once that may have different lengths."""
    fewest, most = config.data.frames
    if config.train.micro_batch > 1 and fewest != most:
        given = f"train.micro_batch={config.train.micro_batch}"
        one_by_one = f"train.micro_batch=1 and train.global_batch={config.train.global_batch}"
        raise Stop(
            f"{given} needs samples of one length, but data.frames={config.data.frames}: "
            f"take data.frames=[{most},{most}], or {one_by_one}"
        )


def refuse_long_stand_in(config: Settings) -> None:
    """Stop: samples or sequences that are longer than the demo's scenes."""
    views = config.data.stand_in_views
    for key, shortest in (("data.frames", config.data.frames[0]), ("eval.lengths", min(config.eval.lengths))):
        if config.data.stand_in and not config.data.root and shortest > views:
            raise Stop(f"{key} asks for {shortest} views at least, but data.stand_in_views={views}")


def refuse_without_match(key: str, patterns: Iterable[str], matches: Callable[[str], list[str]]) -> None:
    for pattern in patterns:
        if not matches(pattern):
            raise Stop(f"{key} has {pattern!r}, which matches nothing that can be trained: it is a whole name")


def refuse_unkept_blocks(config: Settings, blocks: int) -> None:
    """Stop: cache.policy=blocks without frozen blocks that see several views, or without samples that come again."""
    if config.cache.policy != "blocks":
        return
    if not blocks:
        cause = "cache.policy=blocks, but no block that sees several views lies before the first trained layer"
        raise Stop(cause, "cache.policy=tokens")
    if not config.data.distinct_epochs:
        cause = "cache.policy=blocks keeps what belongs to a whole sample, and with data.distinct_epochs=0 none"
        raise Stop(f"{cause} comes again", "add data.distinct_epochs=1 or more, or leave it to cache.policy=auto")
