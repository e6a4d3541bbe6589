"""A recipe of a few numbers with every name of the contract, so that the loop's promises are tested in milliseconds.

A base y = W2 tanh(W1 x) is adapted by LoRA to data of another W1. `python tests/toy.py 4 --run NAME …` runs a step with it.
"""
import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib import config, recipes  # noqa: E402
from lib.errors import Stop  # noqa: E402
from lib.recipes import Asset, Group, LoraSpec, Manifest, Metric, Objective, Parts, Plan, Prefix, Record, Row, Sampler, Split, Stage  # noqa: E402

WIDTH, SAMPLES, PER_GROUP = 8, 40, 4


@dataclass
class ModelConfig:
    width: int = WIDTH
    fault: str = ""  # what a test injects: nan-7 (a bad number in step 7), memory-5 (out of memory in step 5), slow


@dataclass
class DataConfig:
    noise: float = 0.01
    augment: bool = False


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: config.LoraConfig = field(default_factory=config.LoraConfig)
    train: config.TrainConfig = field(default_factory=config.TrainConfig)
    eval: config.EvalConfig = field(default_factory=config.EvalConfig)
    cache: config.CacheConfig = field(default_factory=config.CacheConfig)
    session: config.SessionConfig = field(default_factory=config.SessionConfig)


PRESETS = {"small": {"lora.rank": 2, "lora.alpha": 4.0, "train.epochs": 4, "train.lr": 1e-2, "train.global_batch": 4, "train.micro_batch": 2, "eval.resamples": 50}}
DEMO = {"train.epochs": 2}
TINY = {"train.epochs": 1}
EXPECTED = {"small": "an error below the base's"}
PRECISIONS = ("bf16", "fp16", "fp32")
METRICS = {"error": Metric("", True)}
MAIN_METRIC = "error"
READS = {3: ("data.",)}
CODE: dict = {}


def plan(cfg):
    return Plan(2 * WIDTH * WIDTH, 2 * WIDTH * cfg.lora.rank, {"weights": 8 * WIDTH * WIDTH})


def make_base(folder):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(dict(Network().state_dict()), folder / "base.safetensors")


def assets(cfg):
    return [Asset("base", "made", stand_in=make_base, made_from="1")]


def prepare(cfg, places, out):
    import numpy

    for i in range(SAMPLES):
        if cfg.model.fault == "slow":
            import time

            time.sleep(0.05)
        path = out / f"{i}.npy"
        if not path.exists():
            numpy.save(path, numpy.random.Generator(numpy.random.Philox(key=i)).standard_normal(WIDTH, dtype=numpy.float32))
        yield Record(f"s{i}", f"g{i // PER_GROUP}", f"asset:base/{i}", f"hash{i}", columns={"number": i})


def split(cfg, records, arrays):
    return Split("group", tuple(f"g{i}" for i in range(5, 10)))


def summarise_data(cfg, records):
    return {"records": len(records)}


def stages(cfg, manifest):
    return [Stage("adapt", cfg.train.epochs * len(manifest.side("train")) // cfg.train.global_batch)]


def Network():
    from torch import nn

    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def build(cfg, stage, places):
    from lib import weights

    network = Network()
    loaded = weights.load_strict(network, places["base"] / "base.safetensors")
    spec = LoraSpec(("0",), cfg.lora.rank, cfg.lora.alpha, cfg.lora.dropout, cfg.lora.peft)
    prefix = Prefix("identity", lambda s: [s["sample_id"]], lambda s, i: s["x"], r"net\.nothing", "augmentation changes it" if cfg.data.augment else "")
    return Parts({"net": network}, {"net": spec}, tuple(cfg.lora.full), prefix, loaded.fingerprint)


def truth(x):
    import torch

    return torch.sin(x).sum(-1, keepdim=True)


def sampler(cfg, stage, manifest: Manifest, side):
    import numpy
    import torch

    records = manifest.side("train" if side == "train" else "val")
    if side == "select":
        records = records[: cfg.eval.select_samples]

    def draw(index, key):
        record = records[index]
        x = torch.from_numpy(numpy.load(manifest.arrays / f"{record.columns['number']}.npy"))
        if side == "train":
            x = x + cfg.data.noise * torch.from_numpy(key.generator().standard_normal(WIDTH, dtype=numpy.float32))
        return {"sample_id": record.sample_id, "group": record.group, "x": x}

    return Sampler(len(records), draw)


def collate(samples):
    import torch

    return {"x": torch.stack([s["x"] for s in samples]), "names": [s["sample_id"] for s in samples], "groups": [s["group"] for s in samples]}


def objectives(cfg, stage):
    fault, _, at = cfg.model.fault.partition("-")

    def loss(parts, batch, step):
        import torch

        if fault == "memory" and step == int(at) and len(batch["x"]) > 1:
            raise torch.OutOfMemoryError("injected")
        if fault == "slow":
            import time

            time.sleep(0.02)
        error = (parts.modules["net"](batch["x"]) - truth(batch["x"])).square().mean()
        if fault == "nan" and step >= int(at):
            error = error * float("nan")
        return error, {"loss_square": error}

    return [Objective("fit", loss, (Group("all", r"net\..*", cfg.train.lr, cfg.train.weight_decay),))]


def score_batch(cfg, parts, batch):
    guess = parts.modules["net"](batch["x"]) if parts else 0 * truth(batch["x"])
    errors = (guess - truth(batch["x"])).abs()[:, 0].tolist()
    return [Row(name, group, {"error": e}) for name, group, e in zip(batch["names"], batch["groups"], errors, strict=True)]


def summarise(cfg, rows):
    rows = list(rows)
    return {"error": sum(row.numbers["error"] for row in rows) / len(rows)}


def describe(cfg, scores, base, adapted):
    return f"error: {scores['metrics']['error']}"


def predict(cfg, parts, inputs, out):
    if not Path(inputs).exists():
        raise Stop(f"{inputs} does not exist")
    (out / "prediction.txt").write_text("1\n")


def figures(cfg, base, adapted, out):
    pass


def export(cfg, parts, out):
    from safetensors.torch import save_file

    save_file(dict(parts.modules["net"].state_dict()), out / "model.safetensors")


def register():
    """Put this module into the table of recipes."""
    sys.modules["lib.recipes.toy"] = sys.modules[__name__]
    recipes.RECIPES = tuple(dict.fromkeys((*recipes.RECIPES, "toy")))
    sys.modules[__name__].__name__ = "lib.recipes.toy"


if __name__ == "__main__":
    import importlib

    root = Path(__file__).resolve().parent.parent
    sys.modules.pop("toy", None)
    toy = importlib.import_module("tests.toy")
    toy.register()
    script = next(root.glob(f"step{sys.argv.pop(1)}_*.py"))
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
