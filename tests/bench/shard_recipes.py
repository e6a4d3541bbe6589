"""The demos of the recipes at tiny scale, in two processes, whole and spread: how far apart are their losses?

    python -m tests.bench.shard_recipes

By hand: several minutes. Measured on a CPU: VGGT's strategy C and the generator 0, the map's stages 2 and 3 in full
2e-8, the VA-VAE's stages, each a GAN, 2e-7.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.core.run import SCRIPTS, read_log

ROOT = Path(__file__).resolve().parents[2]
CASES = (
    ("vggt_eth3d", "strategy_c", "train.global_batch=2"),
    ("llava_map", "stage3_full", "train.micro_batch=1"),
    ("vavae_microdoppler", "three_stages", "train.micro_batch=1"),
    ("vavae_microdoppler", "dit_scratch_s", "train.micro_batch=2"),
)


def step(folder: Path, number: int, *words: str) -> None:
    environment = os.environ | {"PIPELINE_SCALE": "tiny", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / SCRIPTS[number]), "--run", "r", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def losses(folder: Path) -> dict[str, float]:
    """ "stage/step/name" -> value of every loss that was logged."""
    return {
        f"{log.parent.name}/{one['step']}/{name}": value
        for log in sorted(folder.glob("runs/r/train/*/log.jsonl"))
        for one in read_log(log)
        for name, value in one.items()
        if name == "loss_objective" or name == "loss_critic"
    }


def main() -> None:
    for recipe, preset, batch in CASES:
        with tempfile.TemporaryDirectory() as place:
            folder, found = Path(place), []
            step(folder, 1, "--demo", "--recipe", recipe, "--preset", preset, batch)
            for switch in ("off", "on"):
                step(folder, 1, f"train.shard={switch}")
                step(folder, 4, "--processes", "2", "--force")
                found.append(losses(folder))
        whole, spread = found
        assert whole.keys() == spread.keys() and whole
        apart = max(abs(spread[name] - value) / max(abs(value), 1e-9) for name, value in whole.items())
        print(json.dumps({"recipe": recipe, "preset": preset, "losses": len(whole), "apart": apart}), flush=True)


if __name__ == "__main__":
    main()
