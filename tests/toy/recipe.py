"""The functions of the toy recipe. Faults are injected by `train.fault`."""

import os
import time
from pathlib import Path

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.records import (
    Footprint,
    FrozenFeatures,
    Group,
    LoraSpec,
    Manifest,
    Metric,
    Objective,
    Parts,
    Plan,
    Row,
    Sampler,
    Stage,
)
from lib.core.run import write_text

from . import WIDTH
from .sources import base_tensors


def plan(config):
    parameters = WIDTH * (WIDTH + 1) + WIDTH + 1
    trained = config.lora.rank * (3 * WIDTH + 1)
    return Plan(parameters, trained, Footprint(4 * parameters, trained, {}))


def truth(x):
    """The base with one outer product added to W1."""
    import torch

    tensors, draw = base_tensors(), torch.Generator().manual_seed(2)
    moved = (
        tensors["0.weight"] + torch.outer(torch.randn(WIDTH, generator=draw), torch.randn(WIDTH, generator=draw)) / 2
    )
    return torch.tanh(x @ moved.T + tensors["0.bias"]) @ tensors["2.weight"].T + tensors["2.bias"]


def stages(config, manifest):
    steps = (
        config.train.epochs
        * len(manifest.side("train"))
        // config.train.global_batch
        // (2 if config.train.plan == "short" else 1)
    )
    names = ("adapt", "again", "once_more")[: config.train.stages]
    made = [Stage(name, steps, before) for name, before in zip(names, ("base", *names[:-1]), strict=True)]
    return [*made[:-1], Stage(made[-1].name, steps, after=names[-2])] if config.train.stand else made


def stage_inputs(config, stage, manifest, asset_dirs, earlier, cache, pause):
    """A file that names the checkpoint it was made from; made once."""
    if earlier is None:
        return None
    before, checkpoint = earlier
    folder = cache / f"stage_inputs-{before.name}-{checkpoint.name}"
    if not (folder / "made.txt").exists():
        pause()
        write_text(folder / "made.txt", checkpoint.name)
    return folder


def decide(config, score):
    if config.train.plan != "auto":
        return {}
    return {"train.plan": "short" if score()["error"] < 0.1 else "long"}


BLOCKS = ("0", "2")


def network():
    from torch import nn

    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def build(config, stage, asset_dirs):
    import torch

    from lib.network import weights

    with torch.device("meta"):
        net = network()
    loaded = weights.load_strict(net, asset_dirs["base"] / "base.safetensors", shard=BLOCKS)
    spec = LoraSpec(("0", "2"), config.lora.rank, config.lora.alpha, config.lora.dropout, config.lora.peft)
    prefix = FrozenFeatures(
        "identity",
        lambda s: [s["sample_id"]],
        lambda s, i: s["x"],
        r"net\.nothing",
        "augmentation changes it" if config.data.augment else "",
    )
    modules = {"net": net, "seen": running_mean()} if config.train.running else {"net": net}
    full, shard = tuple(config.lora.full), {"net": BLOCKS}
    return Parts(modules, {"net": spec}, full, prefix, loaded.fingerprint, buffers=(r"seen\..*",), shard=shard)


def running_mean():
    import torch

    module = torch.nn.Module()
    module.register_buffer("mean", torch.zeros(WIDTH))
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    return module


def sampler(config, stage, manifest: Manifest, side):
    import numpy as np
    import torch

    records = manifest.side(side)
    if side == "select":
        records = records[: config.eval.select_samples]

    def draw(index, key):
        record = records[index]
        x = torch.from_numpy(np.load(checked(manifest.arrays / f"{record.columns['number']}.npy")))
        if side == "train":
            x = x + config.data.noise * torch.from_numpy(key.generator().standard_normal(WIDTH, dtype=np.float32))
        return {"sample_id": record.sample_id, "group": record.group, "x": x}

    return Sampler(len(records), draw)


def collate(config, stage, samples):
    import torch

    return {
        "x": torch.stack([s["x"] for s in samples]),
        "names": [s["sample_id"] for s in samples],
        "groups": [s["group"] for s in samples],
    }


def objectives(config, stage):
    group = Group("all", r"net\..*", config.train.lr, config.train.weight_decay)
    if not config.train.second_loss:
        return [Objective("fit", squared_error(config.train.fault), (group,))]
    first, second = Group("front", r"net\.0\..*", config.train.lr), Group("back", r"net\.2\..*", config.train.lr)
    return [
        Objective("fit", squared_error(config.train.fault), (first,)),
        Objective("back", squared_error(""), (second,), every_steps=2, from_step=2),
    ]


def squared_error(fault):
    kind, _, at = fault.partition("-")

    def loss(parts, batch, step):
        x, y = batch["x"], truth(batch["x"])
        if seen := parts.modules.get("seen"):
            seen.mean.lerp_(x.mean(0), 0.5)
            seen.count += 1
        now = step >= int(at or 0)
        if kind in ("memory", "full") and step == int(at) and (kind == "full" or len(x) > 1):
            run_out_of_memory()
        if kind == "inf" and now:
            x = x / 0
        if kind == "slow":
            time.sleep(0.02)
        error = (parts.modules["net"](x) - y).square().mean()
        return error * (float("nan") if kind == "nan" and now else 1.0), {"loss_square": error}

    return loss


def run_out_of_memory():
    """On the last of the processes alone: all of them must agree on what follows."""
    import torch

    if int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        raise torch.OutOfMemoryError("injected")


def measures(config, stage):
    return {"error": Metric("", True, title="Mean error", meaning="Distance to the true number.", front=True)}


def score_batch(config, stage, parts, batch):
    if config.train.fault == "slow":
        time.sleep(0.02)
    guess = parts.modules["net"](batch["x"]) if parts else 0 * truth(batch["x"])
    errors = (guess - truth(batch["x"])).abs()[:, 0].tolist()
    return [
        Row(name, group, {"error": e}, texts={"guess": f"{name} {y:.6f}"})
        for name, group, e, y in zip(batch["names"], batch["groups"], errors, guess[:, 0].tolist(), strict=True)
    ]


def summarise(config, stage, rows):
    rows = list(rows)
    return {"error": sum(row.numbers["error"] for row in rows) / len(rows)}


def describe(config, stage, scores, base, adapted):
    return f"error: {scores['metrics']['error']}"


def predict(config, stage, parts, inputs, out):
    import torch

    if not Path(inputs).exists():
        raise Stop(f"{inputs} does not exist")
    guess = parts.modules["net"](torch.ones(1, WIDTH))
    write_text(out / "prediction.txt", f"{float(guess)!r}\n")


def adopt(config, given):
    from lib.network import foreign

    file, net = given.file, given.attached().modules["net"]
    layers, _, same = foreign.read(file, net)
    return f"rank {foreign.fill(net, layers, file, 'other settings')}, {same} the same", "train.accept_seen=true"


def figures(config, stage, base, adapted, out):
    (out / "guesses.txt").write_text("\n".join(row.texts["guess"] for row in adapted))


def export(config, stage, parts, out):
    from safetensors.torch import save_file

    save_file(dict(parts.modules["net"].state_dict()), out / "model.safetensors")
