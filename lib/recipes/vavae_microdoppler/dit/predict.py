"""Spectrograms of users on demand, and the networks of the stage dit for others."""

import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop, nearest
from lib.core.order import Key
from lib.core.records import Parts, Stage
from lib.core.run import atomic, write_json
from lib.network import weights
from lib.recipes.vavae_microdoppler.autoencoder.model import to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit.generate import images
from lib.recipes.vavae_microdoppler.metrics import to_uint8

BATCH = 16
USAGE = '--predict "users=1,5,7 n=16"'


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """out/<user>/000.png ... and out/<user>.png, all of them in one grid; inputs: "users=1,5,7 n=16".

    Image `i` of a user is the same however many are asked for. Stop: words that are not understood, unknown users.
    """
    reference = parts.modules["reference"]
    users, count = read_inputs(inputs, reference.users)
    for user in users:
        folder, label = out / user, reference.users.index(user)
        folder.mkdir(parents=True, exist_ok=True)
        batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
        pictures = to_uint8(torch.cat([draw(config, parts, label, batch) for batch in batches])).numpy()
        for number, picture in enumerate(pictures):
            write_png(folder / f"{number:03}.png", picture)
        write_png(out / f"{user}.png", grid(pictures))
        print(f"  {user}: {count} spectrograms", flush=True)


def export(config: Config, stage: Stage, parts: Parts, out: Path) -> None:
    """lightningdit.safetensors       the network under the published names; the class table's last row is the null row
    latents_stats.safetensors      mean, std (1, c, 1, 1): sample * std + mean is what the decoder takes
    vavae_published.safetensors    the autoencoder under the published names
    users.json                     users in the order of their labels, sizes of the network, sampling settings
    """
    from safetensors.torch import save_file

    modules = {name: module.float().cpu() for name, module in parts.modules.items()}
    reference, dit = modules["reference"], modules["dit"]
    state = {name: tensor.contiguous() for name, tensor in dit.state_dict().items()}
    save_file(state, out / "lightningdit.safetensors")
    save_file({"mean": reference.mean, "std": reference.std}, out / "latents_stats.safetensors")
    save_file(to_published(modules["autoencoder"]), out / "vavae_published.safetensors")
    sampling = {"users": reference.users, "size": asdict(dit.size), "sampling": asdict(config.dit)}
    write_json(out / "users.json", sampling)


def read_export(config: Config, stage: Stage, parts: Parts, folder: Path) -> None:
    """Stop: a tensor of the diffusion network is missing or has another shape."""
    weights.load_strict(parts.modules["dit"], folder / "lightningdit.safetensors")


def network(config: Config, stage: Stage, parts: Parts) -> "Generator":
    return Generator(config, parts)


class Generator(torch.nn.Module):
    """Spectrograms of a user. `parts` are its networks: dit, autoencoder, reference."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__()
        self.config, self.parts = config, torch.nn.ModuleDict(parts.modules)
        self.users: list[str] = parts.modules["reference"].users

    def sample(self, user: str, count: int) -> Tensor:
        """(count, 3, h, w) of nominal range [-1, 1], on the CPU: the first `count` of --predict. Stop: no such user."""
        label = self.users.index(named(user, self.users))
        with torch.no_grad():
            return draw(self.config, Parts(dict(self.parts.items())), label, range(count))


def draw(config: Config, parts: Parts, label: int, numbers: range) -> Tensor:
    """The images `numbers` of a user (n, 3, H, W), on the CPU."""
    reference = parts.modules["reference"]
    generators = [Key(config.train.seed, label, number).generator() for number in numbers]
    noise = [generator.standard_normal(reference.latent_shape, dtype="float32") for generator in generators]
    stacked = torch.stack([torch.from_numpy(one) for one in noise]).to(reference.mean.device)
    return images(config, parts, torch.full((len(numbers),), label, device=stacked.device), stacked).cpu()


def read_inputs(inputs: str, known: list[str]) -> tuple[list[str], int]:
    """Words like "users=1,5,7 n=16" -> (names of the users, images of each). A user is named in full, as the folder is
    called, or by the number in the name.
    """
    try:
        words = dict(word.partition("=")[::2] for word in joined(shlex.split(inputs)))
    except ValueError as error:
        raise Stop(f"--predict {inputs!r}: {error}", USAGE) from error
    unknown = sorted(words.keys() - {"users", "n"})
    if unknown or not words:
        raise Stop(f"--predict {inputs!r}: {unknown[0] if unknown else 'nothing'} is not understood", USAGE)
    count = words.get("n", "16")
    if not count.isdigit() or int(count) < 1:
        raise Stop(f"--predict {inputs!r}: n={count} is not a number of images", USAGE)
    asked = words["users"].split(",") if "users" in words else known
    return [named(user, known) for user in asked], int(count)


def joined(words: list[str]) -> list[str]:
    """What has no "=" belongs to the name before it: users=ID_1,it speaker names two users."""
    found: list[str] = []
    for word in words:
        if "=" in word or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


def named(user: str, known: list[str]) -> str:
    if user in known:
        return user
    numbers = {name: "".join(c for c in name if c.isdigit()).lstrip("0") for name in known}
    fitting = [name for name, number in numbers.items() if user.isdigit() and number == user.lstrip("0")]
    if len(fitting) != 1:
        raise Stop(f"--predict: there is no user {user!r}: {nearest(user, known)}", USAGE)
    return fitting[0]


def write_png(path: Path, picture: np.ndarray) -> None:
    """picture: (h, w, 3) uint8."""
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def grid(pictures: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) uint8 -> one picture (H, W, 3), about square, on white."""
    n, h, w, _ = pictures.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows, gap = -(-n // columns), 2
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        y, x = number // columns * (h + gap), number % columns * (w + gap)
        sheet[y : y + h, x : x + w] = picture
    return sheet
