"""Step 3: one vector a sample."""

import time

from lib.core.records import Record, Split
from lib.core.run import atomic

from . import WIDTH

SAMPLES, PER_GROUP = 44, 4  # five groups to train on, five to test, one to choose the checkpoint


def prepare(config, asset_dirs, out):
    import numpy as np

    for i in range(SAMPLES):
        if config.train.fault == "slow":
            time.sleep(0.02)
        path = out / f"{i}.npy"
        if not path.exists():
            drawn = np.random.Generator(np.random.Philox(key=i)).standard_normal(WIDTH, dtype=np.float32)
            with atomic(path) as temporary, open(temporary, "wb") as file:
                np.save(file, drawn * np.float32(config.data.scale))
        yield Record(f"s{i}", f"g{i // PER_GROUP}", f"asset:base/{i}", f"hash{i}", columns={"number": i})


def split(config, records, out):
    return Split("group", tuple(f"g{i}" for i in range(5, 10)), select_groups=("g10",))


def summarise_data(config, records):
    return {"records": len(records)}
