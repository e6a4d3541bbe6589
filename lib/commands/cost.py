"""What a run costs, for `--plan`: memory on each card, the smallest machine, bytes to fetch and to keep, hours.

Everything is an estimate from closed forms and a few published figures; no torch.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lib.core import machine
from lib.core.contract import Recipe
from lib.core.errors import Stop
from lib.core.footprint import can_shard, card_bytes, fits
from lib.core.records import Asset, Footprint, Pace, Plan
from lib.core.words import counted

CARDS = (1, 2, 4, 8)
SAVED_BYTES = 4 + 8  # of a trained number in a checkpoint: the weight and Adam's moments


Tries = list[tuple[Footprint, dict[str, Any]]]  # what is kept on the device, under which changed settings


class Machine(NamedTuple):
    """A machine that people can rent: its cards, the memory of each, their compute capability."""

    name: str
    cards: int
    card_bytes: int
    capability: tuple[int, int]


MACHINES = (  # the smallest first; none from before Turing (7.5), for which current wheels of torch have no kernels
    Machine("2 x T4 16 GB", 2, 16_000_000_000, (7, 5)),
    Machine("a card of 24 GB", 1, 24_000_000_000, (8, 6)),
    Machine("a card of 40 GB", 1, 40_000_000_000, (8, 0)),
    Machine("a card of 80 GB", 1, 80_000_000_000, (8, 0)),
)


def of_run(recipe: Recipe, config: Any, plan: Plan) -> dict[str, Any]:
    """Everything of the costs that is not in the recipe's own plan, as JSON values; None where it is not known yet."""
    return {
        "needs": needs(recipe, config, plan),
        "cards": per_card(plan.footprint) if plan.footprint else None,
        "machines": machines(recipe, config) if plan.footprint else None,
        "bytes": disk(recipe, config, plan),
        "hours": hours(plan.pace) if plan.pace else None,
    }


# ---------------------------------------------------------------------------------------------- what must be brought


def assets_of(recipe: Recipe, config: Any) -> list[Asset] | None:
    """The recipe's assets; None where the settings do not say yet where one comes from (`needs` says which)."""
    try:
        return recipe.assets(config)
    except Stop:
        return None


def needs(recipe: Recipe, config: Any, plan: Plan) -> list[str]:
    """What must be fetched, brought or known, in sentences: the recipe's own ones, then one for each asset."""
    try:
        found = [sentence(asset) for asset in recipe.assets(config) if asset.kind in ("hub", "licensed", "folder")]
    except Stop as stop:
        found = [f"{stop.cause} ({stop.command})" if stop.command else stop.cause]
    return [*plan.needs, *found]


def sentence(asset: Asset) -> str:
    size = f" ({asset.size_bytes / 1e9:.1f} GB)" if asset.size_bytes else ""
    if asset.kind == "folder" and asset.source and Path(asset.source).exists():
        return f"{asset.name}: {asset.source}, used in place"
    verb = {"hub": "step 2 fetches it ", "licensed": "you bring it: ", "folder": "you bring it: "}[asset.kind]
    return f"{asset.name}{size}: {verb}{asset.how_to_get}"


# ---------------------------------------------------------------------------------------------- memory


def per_card(footprint: Footprint) -> dict[str, dict[int, int]]:
    """Bytes on each of 1, 2, 4, 8 cards, whole and sharded; sharded {} where there is nothing to divide."""
    several = CARDS[1:] if can_shard(footprint) else ()
    return {
        "whole": {cards: card_bytes(footprint, cards) for cards in CARDS},
        "sharded": {cards: card_bytes(footprint, cards, sharded=True) for cards in several},
    }


def machines(recipe: Recipe, config: Any) -> dict[str, str]:
    """Machine -> what a training on it takes, up to the first one that needs no other setting."""
    found: dict[str, str] = {}
    known: dict[str, Tries] = {}
    for one in MACHINES:
        device = {"name": one.name, "capability": list(one.capability), "in_wheel": True}
        try:
            precision, _ = machine.precision([device], config.train.precision, recipe.PRECISIONS)
        except Stop as stop:
            found[one.name] = f"does not do: {stop.cause}"
            continue
        if precision not in known:
            known[precision] = list(lighter(recipe, changed(config, "train.precision", precision)))
        found[one.name], as_it_is = on_machine(known[precision], one)
        if as_it_is:
            break
    return found


def on_machine(tries: Tries, one: Machine) -> tuple[str, bool]:
    """(what a machine needs: settings, then cards; whether it needs neither)"""
    for footprint, settings in tries:
        if how := held_by(footprint, one):
            return f"{how}{said(settings)}", not settings
    for cards in CARDS:
        for footprint, settings in tries:
            if cards > one.cards and can_shard(footprint) and fits(footprint, one.card_bytes, cards, sharded=True):
                return f"{cards} such cards, sharded{said(settings)}", False
    return f"does not fit{said(tries[-1][1], 'even with')}", False


def held_by(footprint: Footprint, one: Machine) -> str:
    """How a machine holds it: whole, or divided over its own cards; "" where it does not."""
    if fits(footprint, one.card_bytes):
        return "fits"
    sharded = one.cards > 1 and can_shard(footprint) and fits(footprint, one.card_bytes, one.cards, sharded=True)
    return "fits, sharded over its cards" if sharded else ""


def said(settings: dict[str, Any], before: str = "with") -> str:
    words = " ".join(f"{key}={shown(value)}" for key, value in settings.items())
    return f" {before} {words}" if words else ""


def lighter(recipe: Recipe, config: Any) -> Iterator[tuple[Footprint, dict[str, Any]]]:
    """The settings as they are, then with what needs less memory, each on top of those before: (what they need, what
    was changed). Recomputed activations first, then less data in a sample, fewer samples at once, fewer bits.
    """
    plan = recipe.plan(config)
    own, micro = plan.lighter, config.train.micro_batch
    settings: dict[str, Any] = {}
    less_data = [(key, value) for key, value in own.items() if key.startswith("data.")]
    fewer = [("train.micro_batch", micro >> halved) for halved in range(1, micro.bit_length())]
    last = [(key, value) for key, value in own.items() if not key.startswith("data.")]
    assert plan.footprint, "asked for sizes that are known"
    yield plan.footprint, {}
    least = card_bytes(plan.footprint)
    for key, value in [("train.gradient_checkpointing", True), *less_data, *fewer, *last]:
        try:
            tried = changed(config, key, value)
        except Stop:  # the recipe refuses it together with the others
            continue
        footprint = recipe.plan(tried).footprint
        if footprint and card_bytes(footprint) < least:
            config, least, settings = tried, card_bytes(footprint), settings | {key: value}
            yield footprint, settings


def changed(config: Any, key: str, value: Any) -> Any:
    """The settings with another value of one. Stop: the recipe refuses it."""
    section, _, name = key.partition(".")
    made = copy.deepcopy(config)
    part = getattr(made, section)
    setattr(part, name, value)
    for one in (part, made):
        if hasattr(one, "__post_init__"):
            one.__post_init__()
    return made


def shown(value: Any) -> str:
    """A value as `key=value` takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------- disk, hours


def disk(recipe: Recipe, config: Any, plan: Plan) -> dict[str, Any]:
    """Bytes that are fetched and kept; None where not known yet. unknown: assets of a size that nobody has stated."""
    assets = assets_of(recipe, config)
    brought = [asset for asset in assets or () if asset.kind in ("hub", "licensed")]
    count = config.train.keep_checkpoints + config.train.keep_best
    saved = SAVED_BYTES + 4 * bool(config.train.ema)
    return {
        "download": None if assets is None else sum(asset.size_bytes for asset in brought),
        "unknown": [asset.name for asset in brought if not asset.size_bytes],
        "checkpoints": count * saved * plan.trainable if plan.footprint else None,
        "features": int(config.cache.quota_gb * 1e9) if config.cache.policy != "none" else 0,
        "kept": kept(config, plan),
    }


def kept(config: Any, plan: Plan) -> str:
    """What cache.policy means for this run, in a sentence."""
    policy = config.cache.policy
    measured = "step 4 measures computing against reading, and says what it keeps" if policy == "auto" else ""
    if policy not in ("auto", "blocks") or not plan.blocks_bytes:
        return f"cache.policy={policy}" + (f": {measured}" if measured else "")
    half = plan.blocks_bytes / 2  # bf16 and fp16
    fit = int(config.cache.quota_gb * 1e9 // half)
    size = f"what the frozen blocks make of an epoch of samples takes {gigabytes(int(half))} in bf16 or fp16"
    distinct = min(fit, config.data.distinct_epochs or max(1, config.train.epochs // 10))
    pays = f"pays from epoch {distinct + 1}" if distinct else "does not fit"
    found = f"cache.policy={policy}: {size}; with cache.quota_gb={config.cache.quota_gb:g} it {pays}"
    return f"{found}; {measured}" if measured else found


def hours(pace: Pace) -> dict[str, Any]:
    """The estimate: hours of all epochs, or of a thousand samples where the data decide how many there are."""
    samples = pace.samples * pace.epochs if pace.samples else 1000.0
    return {
        "hours": samples / pace.samples_per_second / 3600,
        "samples": samples,
        "of": f"{counted(pace.samples, 'sample')} x {pace.epochs:g} epochs" if pace.samples else "each 1 000 samples",
        "card": pace.card,
        "source": pace.source,
    }


# ---------------------------------------------------------------------------------------------- lines


def lines(costs: dict[str, Any]) -> Iterator[str]:
    """What `--plan` prints of `of_run`."""
    if costs["cards"]:
        yield f"GB on each of {', '.join(map(str, CARDS))} cards: {', '.join(rows(costs['cards']))}"
        yield from (f"  {name:<16} {words}" for name, words in costs["machines"].items())
    else:
        yield "memory, machines: not known yet"
    size = costs["bytes"]
    rest = f", and what is not known of {', '.join(size['unknown'])}" if size["unknown"] else ""
    yield f"fetches {gigabytes(size['download'])}{rest}"
    features = f"frozen features of {gigabytes(size['features'])} at most"
    yield f"keeps checkpoints of {gigabytes(size['checkpoints'])}, {features}"
    yield size["kept"]
    one = costs["hours"]
    if one:
        time = f"{one['hours']:,.0f}" if one["hours"] >= 10 else f"{one['hours']:.1f}"
        yield f"about {time} hours on one {one['card']} for {one['of']} (an estimate: {one['source']})"
    else:
        yield "hours: not known, nobody has measured such a training; step 4 shows the time left from its first steps"
    yield from (f"needs: {need}" for need in costs["needs"])


def gigabytes(size_bytes: int | None) -> str:
    return "not known yet" if size_bytes is None else f"{size_bytes / 1e9:.1f} GB"


def rows(cards: dict[str, dict[int, int]]) -> Iterator[str]:
    for name, row in cards.items():
        if row:
            yield f"{name} {' / '.join(f'{row[count] / 1e9:.1f}' if count in row else '–' for count in CARDS)}"
