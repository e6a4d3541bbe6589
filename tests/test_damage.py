"""Whatever of a finished run is damaged, step 5 says the same scores or says what is broken."""

import os
import random

import pytest

from lib.core.run import existing

RECORDS = (
    "run.json", "1_setup.json", "2_download.json", "3_prepare.json", "4_train.json", "5_evaluate.json", "assets.json",
    "split.json", "manifest.csv", "train/adapt/best.json", "train/adapt/done.json", "train/adapt/log.jsonl",
    "eval/scores.json", "eval/per_sample.csv", "report.html", "../../places.json", "../../cache/hashes.json",
)  # fmt: skip
PLACES = 2  # of each file


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
