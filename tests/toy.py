"""A recipe of a few numbers with every name of the contract, so that the loop's promises are tested in milliseconds.

The base is y = W2 tanh(W1 x); the data follow the same formula with another W1, one outer product away, which adapters of
rank 2 can learn. `python tests/toy.py 4 --run NAME …` runs a step with it in a process of its own.
"""
import os
import sys
import time
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


@dataclass
class DataConfig:
    noise: float = 0.01
    augment: bool = False


@dataclass
class TrainConfig(config.TrainConfig):
    """`fault` is what a test injects, at the optimiser step after the dash: nan-7 (the loss), inf-7 (a module's output),
    memory-5 (until a micro-batch holds one sample), full-5 (whatever it holds), slow (20 ms a step)."""

    fault: str = ""
    stages: int = 1
    stand: bool = False  # the last stage stands on a file made from the stage before it
    plan: str = "long"  # auto: what the base decides: short (half the steps) if it is good, else long
    second_loss: bool = False


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: config.LoraConfig = field(default_factory=config.LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: config.EvalConfig = field(default_factory=config.EvalConfig)
    cache: config.CacheConfig = field(default_factory=config.CacheConfig)
    session: config.SessionConfig = field(default_factory=config.SessionConfig)


PRESETS = {"small": {"lora.rank": 2, "lora.alpha": 4.0, "train.epochs": 4, "train.lr": 3e-2, "train.global_batch": 4, "train.micro_batch": 2, "eval.resamples": 50}}
DEMO = {"train.epochs": 2}
TINY = {"train.epochs": 1}
EXPECTED = {"small": "an error below the base's"}
PRECISIONS = ("bf16", "fp16", "fp32")
READS = {3: ("data.",)}
CODE: dict = {}


def plan(cfg):
    parameters = WIDTH * (WIDTH + 1) + WIDTH + 1
    return Plan(parameters, cfg.lora.rank * (3 * WIDTH + 1), {"weights": 4 * parameters})


def base_tensors():
    import torch

    draw = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (WIDTH, WIDTH), "0.bias": (WIDTH,), "2.weight": (1, WIDTH), "2.bias": (1,)}
    return {name: torch.randn(shape, generator=draw) * WIDTH**-0.5 for name, shape in shapes.items()}


def truth(x):
    """The base with one outer product added to W1."""
    import torch

    tensors, draw = base_tensors(), torch.Generator().manual_seed(2)
    moved = tensors["0.weight"] + torch.outer(torch.randn(WIDTH, generator=draw), torch.randn(WIDTH, generator=draw)) / 2
    return torch.tanh(x @ moved.T + tensors["0.bias"]) @ tensors["2.weight"].T + tensors["2.bias"]


def make_base(folder):
    from safetensors.torch import save_file

    save_file(base_tensors(), folder / "base.safetensors")


def assets(cfg):
    return [Asset("base", "made", stand_in=make_base, made_from="1")]


def prepare(cfg, places, out):
    import numpy

    for i in range(SAMPLES):
        if cfg.train.fault == "slow":
            time.sleep(0.02)
        path = out / f"{i}.npy"
        if not path.exists():
            numpy.save(path, numpy.random.Generator(numpy.random.Philox(key=i)).standard_normal(WIDTH, dtype=numpy.float32))
        yield Record(f"s{i}", f"g{i // PER_GROUP}", f"asset:base/{i}", f"hash{i}", columns={"number": i})


def split(cfg, records, arrays):
    return Split("group", tuple(f"g{i}" for i in range(5, 10)))


def summarise_data(cfg, records):
    return {"records": len(records)}


def stages(cfg, manifest):
    steps = cfg.train.epochs * len(manifest.side("train")) // cfg.train.global_batch // (2 if cfg.train.plan == "short" else 1)
    names = ("adapt", "again", "once_more")[: cfg.train.stages]
    made = [Stage(name, steps, before) for name, before in zip(names, ("base", *names[:-1]), strict=True)]
    return [*made[:-1], Stage(made[-1].name, steps, after=names[-2])] if cfg.train.stand else made


def groundwork(cfg, stage, manifest, places, earlier, cache, pause):
    """A file that names the checkpoint it was made from; made once."""
    if earlier is None:
        return None
    before, checkpoint = earlier
    folder = cache / f"groundwork-{before.name}-{checkpoint.name}"
    if not (folder / "made.txt").exists():
        pause()
        folder.mkdir(parents=True)
        (folder / "made.txt").write_text(checkpoint.name)
    return folder


def decide(cfg, score):
    if cfg.train.plan != "auto":
        return {}
    return {"train.plan": "short" if score()["error"] < 0.1 else "long"}


def network():
    from torch import nn

    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def build(cfg, stage, places):
    from lib import weights

    net = network()
    loaded = weights.load_strict(net, places["base"] / "base.safetensors")
    spec = LoraSpec(("0", "2"), cfg.lora.rank, cfg.lora.alpha, cfg.lora.dropout, cfg.lora.peft)
    prefix = Prefix("identity", lambda s: [s["sample_id"]], lambda s, i: s["x"], r"net\.nothing", "augmentation changes it" if cfg.data.augment else "")
    return Parts({"net": net}, {"net": spec}, tuple(cfg.lora.full), prefix, loaded.fingerprint)


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
    group = Group("all", r"net\..*", cfg.train.lr, cfg.train.weight_decay)
    if not cfg.train.second_loss:
        return [Objective("fit", squared_error(cfg.train.fault), (group,))]
    first, second = Group("front", r"net\.0\..*", cfg.train.lr), Group("back", r"net\.2\..*", cfg.train.lr)
    return [Objective("fit", squared_error(cfg.train.fault), (first,)), Objective("back", squared_error(""), (second,), every_steps=2, from_step=2)]


def squared_error(fault):
    kind, _, at = fault.partition("-")

    def loss(parts, batch, step):
        x, y = batch["x"], truth(batch["x"])
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

    if int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
        raise torch.OutOfMemoryError("injected")


def measures(cfg, stage):
    return {"error": Metric("", True)}


def score_batch(cfg, parts, batch):
    if cfg.train.fault == "slow":
        time.sleep(0.02)
    guess = parts.modules["net"](batch["x"]) if parts else 0 * truth(batch["x"])
    errors = (guess - truth(batch["x"])).abs()[:, 0].tolist()
    return [
        Row(name, group, {"error": e}, texts={"guess": f"{name} {y:.6f}"})
        for name, group, e, y in zip(batch["names"], batch["groups"], errors, guess[:, 0].tolist(), strict=True)
    ]


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
    (out / "guesses.txt").write_text("\n".join(row.texts["guess"] for row in adapted))


def export(cfg, parts, out):
    from safetensors.torch import save_file

    save_file(dict(parts.modules["net"].state_dict()), out / "model.safetensors")


def equal_files(folder: Path) -> dict[str, bytes]:
    """What design.md calls bit-equal: the last and the best checkpoint, log.jsonl, scores.json, per_sample.csv."""
    from lib.run import read_json

    stage = folder / "train" / "adapt"
    names = {max(p.name for p in stage.glob("step-*")), f"step-{read_json(stage / 'best.json')['step']:06d}"}
    files = [p for name in names for p in (stage / name).rglob("*") if p.is_file() and p.name not in ("state.json", "sha256.json")]
    files += [stage / "log.jsonl", folder / "eval" / "scores.json", folder / "eval" / "per_sample.csv"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def register():
    """Puts this module into the table of recipes, for good."""
    import tests.toy

    sys.modules["lib.recipes.toy"] = tests.toy
    tests.toy.__name__ = "lib.recipes.toy"
    recipes.RECIPES = (*recipes.RECIPES, "toy")


def main():
    """Runs a step script with this module in the table of recipes; the children that the step starts come here again."""
    register()
    if sys.argv[1:2] and sys.argv[1].isdigit():
        os.environ["TOY_STEP"] = sys.argv.pop(1)
    script = next(Path(__file__).resolve().parent.parent.glob(f"step{os.environ['TOY_STEP']}_*.py"))
    exec(compile(script.read_text(), script, "exec"), {"__name__": "__main__", "__file__": str(script)})  # sys.argv[0] stays this file


if __name__ == "__main__":
    main()
