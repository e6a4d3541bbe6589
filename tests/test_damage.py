"""Whatever of a finished run is damaged, step 5 says the same scores or says what is broken.

DAMAGES=20 in the environment tries as many places of each kind as the suite tries once.
"""

import os
import random
import shutil
from collections import Counter

import pytest

from lib.commands import verify
from lib.core.run import existing

RECORDS = (
    "run.json", "1_setup.json", "2_download.json", "3_prepare.json", "4_train.json", "5_evaluate.json", "assets.json",
    "split.json", "manifest.csv", "train/adapt/best.json", "train/adapt/done.json", "train/adapt/log.jsonl",
    "eval/scores.json", "eval/per_sample.csv", "report.html", "../../places.json", "../../cache/hashes.json",
)  # fmt: skip
PLACES = int(os.environ.get("DAMAGES", "1"))  # of each file and of each kind of artifact
pytestmark = pytest.mark.long


def damaged(content: bytes, place: int, how: str) -> bytes:
    """One bit is another, or the end is lost."""
    if how == "cut":
        return content[:place]
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


@pytest.mark.parametrize("how", ["flipped", "cut"])
@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_never_change_a_score(step, prepared, capsys, folder, name, how):
    prepared(last=5)
    scores = existing(folder / "eval" / "scores.json")
    file = folder / name
    if not file.exists():
        pytest.skip(f"the toy recipe leaves no {name}")
    whole, status, draw = file.read_bytes(), file.stat(), random.Random(name)
    for _ in range(PLACES):
        file.write_bytes(damaged(whole, draw.randrange(len(whole)), how))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        capsys.readouterr()
        code, said = step(5), capsys.readouterr()
        if code:
            assert code in (1, 2) and said.err.startswith("error: ") and file.name in said.err, said.err
        else:
            assert existing(folder / "eval" / "scores.json") == scores
        file.write_bytes(whole)
    assert step(5) == 0 and existing(folder / "eval" / "scores.json") == scores


ARTIFACTS = {
    "prepared arrays": "cache/prepared-*/*.npy",
    "frozen features": "cache/frozen-features-*/*.units",
    "places of frozen features": "cache/frozen-features-*/*.jsonl",
    "base weights": "data/toy/base/*",
    "inputs of a stage": "cache/stage_inputs-*/*",
    "split": "runs/r/split.json",
    "records of a training": "runs/r/train/*/*.json*",
    "checkpoints": "runs/r/train/*/step-*/**/*",
    "exports": "runs/r/export/merged/*",
}
STAGES = ("train.stages=2", "train.stand=true", "train.epochs=2", "train.checkpoint_minutes=0")


def flipped_at(root, pattern, draw):
    """One bit of a random place of the files, all bytes equally likely; size and time stay. Returns the file."""
    files = [file for file in sorted(root.glob(pattern)) if file.is_file() and file.stat().st_size]
    [file] = draw.choices(files, [file.stat().st_size for file in files])
    content, status = bytearray(file.read_bytes()), file.stat()
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return file


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_a_flipped_bit_anywhere_is_refused_rebuilt_or_fallen_back_from(step, prepared, capsys, folder, tmp_path, kind):
    """Steps 4 and 5 are carried out again over the damaged file."""
    prepared(*STAGES, last=5)
    assert step(5, "--export", "merged") == 0
    scores, draw, outcomes = existing(folder / "eval" / "scores.json"), random.Random(kind), Counter()
    for _ in range(PLACES):
        kept = shutil.copytree(tmp_path, tmp_path.with_name("kept"), copy_function=shutil.copy2)
        file = flipped_at(tmp_path, ARTIFACTS[kind], draw)
        outcomes[outcome(step, capsys, folder, kind, file, scores)] += 1
        for place in ("runs", "cache", "data"):
            shutil.rmtree(tmp_path / place)
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        shutil.rmtree(kept)
    print(f"{kind}: {dict(outcomes)}")


def outcome(step, capsys, folder, kind, file, scores) -> str:
    """What became of it. A damaged export is noticed by --verify, everything else by the steps."""
    capsys.readouterr()
    if kind == "exports":
        # a wrong hash in the list is met as a file that does not have it: which of the two is damaged, nothing says
        name = "export/merged" if file.name == "sha256.json" else file.name
        assert verify.verify(folder, {}) == 1 and name in capsys.readouterr().out
        return "refused"
    codes = [step(4, "--force")] if kind != "checkpoints" and "runs/" not in ARTIFACTS[kind] else [step(4)]
    codes += [step(5, "--force")] if not codes[0] else []
    said = capsys.readouterr()
    if any(codes):
        named = [file.name, *(part for part in file.parts if part.startswith("step-"))]
        assert codes[-1] in (1, 2) and said.err.startswith("error: "), said.err
        assert any(name in said.err for name in named), said.err
        return "refused"
    found = existing(folder / "eval" / "scores.json")
    if found == scores:
        return "same scores"
    [checkpoint] = [part for part in file.parts if part.startswith("step-")]
    assert found["step"] != scores["step"] and checkpoint in said.out + said.err, said.out + said.err
    return "fallen back"
