"""Where this run's assets lie on this machine: step 2's work, and the look-up of the later steps.

assets.json (in the run) says what an asset is, by hashes; places.json (outside the runs) says where it is here. A run
folder that was moved to another machine has the first and lacks the second, which makes step 2 stale and nothing else.
"""
from collections.abc import Iterator
from pathlib import Path

from lib import assets, find
from lib.cli import Job
from lib.errors import Stop
from lib.recipes import Asset
from lib.run import read_json, write_json


def bring_all(job: Job) -> list[Path]:
    """Find, fetch or make every asset of the recipe, file by file; what only a person can fetch is listed at the end."""
    memo, records = assets.Memo(job.run.cache / "hashes.json"), []
    wanted = job.recipe.assets(job.config)
    for done, asset in enumerate(wanted):
        job.advance(done, len(wanted), "assets")
        made = bring(job, asset, memo)
        if not made.missing:
            find.remember(job.run, job.record["recipe"], asset.name, made.path)
            print(f"  {asset.name} ({asset.kind}): {len(made.files)} files" + (f", licence: {made.licence}" if made.licence else ""), flush=True)
        elif not asset.required:
            print(f"  {asset.name}: not here ({made.how_to_get}); going on without it", flush=True)
        records.append(made)
    assets.require(made for made, asset in zip(records, wanted, strict=True) if asset.required)
    write_json(job.run.assets, {made.name: assets.to_json(made) for made in records if not made.missing})
    return [job.run.assets]


def bring(job: Job, asset: Asset, memo: assets.Memo) -> assets.AssetRecord:
    """Where it was before, else where the inputs hold it, else fetched or made in data/<recipe>/<asset>."""
    folder = job.run.data(job.record["recipe"], asset.name)
    found = None
    if asset.kind in ("hub", "licensed", "made"):
        found = find.recall(job.run, job.record["recipe"], asset)
        if found is None or not find.may_hold(asset, found):
            found = find.find_asset(asset, find.places(job.args.inputs), memo)
        if found is not None and found != folder:
            print(f"  {asset.name}: found in {found}", flush=True)
    return assets.bring(asset, folder, memo, lambda: not job.clock.has_time(), found)


def of(job: Job) -> dict[str, Path]:
    """The folder of every asset, after a cheap check that no file changed since step 2."""
    memo = assets.Memo(job.run.cache / "hashes.json")
    return dict(checked(job, memo))


def checked(job: Job, memo: assets.Memo) -> Iterator[tuple[str, Path]]:
    known = read_json(job.run.places) or {}
    for name, stored in (read_json(job.run.assets) or {}).items():
        folder = Path(known[f"{job.record['recipe']}/{name}"])
        for file, sha256 in stored["files"].items():
            path = folder / file
            if not path.is_file() or memo.sha256(path) != sha256:
                raise Stop(f"{name}: {path} changed or went since step 2", job.run.command(2, "--force"))
        yield name, folder
