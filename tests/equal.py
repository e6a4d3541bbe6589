"""What must be the same after any interruption."""

from pathlib import Path


def equal_files(folder: Path) -> dict[str, bytes]:
    """What is bit-equal: the last and the best checkpoint, log.jsonl, scores.json, per_sample.csv."""
    from lib.core.run import read_json

    stage = folder / "train" / "adapt"
    names = {max(p.name for p in stage.glob("step-*"))}
    if best := read_json(stage / "best.json"):  # a stage without evaluations keeps its last checkpoint
        names.add(f"step-{best['step']:06d}")
    files = [
        p
        for name in names
        for p in (stage / name).rglob("*")
        if p.is_file() and p.name not in ("state.json", "sha256.json")
    ]
    files += [stage / "log.jsonl", folder / "eval" / "scores.json", folder / "eval" / "per_sample.csv"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
