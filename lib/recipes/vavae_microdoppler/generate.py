"""Spectrograms from the stage dit: noise -> latent along the velocity field -> image. Scoring and --predict draw alike."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from lib.errors import Stop, nearest
from lib.order import Key
from lib.recipes import Parts
from lib.recipes.vavae_microdoppler import flow
from lib.recipes.vavae_microdoppler.autoencoder import decode, to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.metrics import to_uint8
from lib.run import write_json

BATCH = 16
USAGE = '--predict "users=1,5,7 n=16"'


def images(cfg: Config, parts: Parts, label: Tensor, noise: Tensor) -> Tensor:
    """label (n,), noise (n, c, h, w) -> images (n, 3, H, W) of nominal range [-1, 1]."""
    settings, dit = cfg.dit, parts.modules["dit"]
    times = flow.time_grid(settings.updates + 1, settings.shift)
    velocity = flow.velocity_of(dit, label, settings.guidance, settings.guidance_start, settings.guidance_first3)
    latent = flow.METHODS[settings.method](velocity, noise, times)[-1]
    return decode(parts.modules["autoencoder"], parts.modules["reference"].statistics.denormalise(latent.float())).float()


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    """out/<user>/000.png ... and out/<user>.png, all of them in one grid. Image `i` of a user is the same however many are asked for."""
    from PIL import Image

    reference = parts.modules["reference"]
    users, count = read_inputs(inputs, reference.users)
    for user in users:
        folder, label = out / user, reference.users.index(user)
        folder.mkdir(parents=True, exist_ok=True)
        made = [draw(cfg, parts, label, list(range(start, min(start + BATCH, count)))) for start in range(0, count, BATCH)]
        pictures = to_uint8(torch.cat(made)).numpy()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{number:03}.png")
        Image.fromarray(grid(pictures)).save(out / f"{user}.png")
        print(f"  {user}: {count} spectrograms", flush=True)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    """
    lightningdit.safetensors     the network under the published names (the last row of the class table is the null row)
    latents_stats.safetensors    mean, std (1, c, 1, 1): sample * std + mean is what the decoder takes
    vavae_published.safetensors  the autoencoder under the published names
    users.json                   users in the order of their labels, sizes of the network, sampling settings
    """
    from safetensors.torch import save_file

    modules = {name: module.float().cpu() for name, module in parts.modules.items()}
    reference = modules["reference"]
    save_file({name: tensor.contiguous() for name, tensor in modules["dit"].state_dict().items()}, out / "lightningdit.safetensors")
    save_file({"mean": reference.mean, "std": reference.std}, out / "latents_stats.safetensors")
    save_file(to_published(modules["autoencoder"]), out / "vavae_published.safetensors")
    write_json(out / "users.json", {"users": reference.users, "size": asdict(modules["dit"].size), "sampling": asdict(cfg.dit)})


def draw(cfg: Config, parts: Parts, label: int, numbers: list[int]) -> Tensor:
    """The images `numbers` of a user (n, 3, H, W), on the CPU."""
    reference = parts.modules["reference"]
    noise = [Key(cfg.train.seed, label, number).generator().standard_normal(reference.latent_shape, dtype="float32") for number in numbers]
    stacked = torch.stack([torch.from_numpy(one) for one in noise]).to(reference.mean.device)
    return images(cfg, parts, torch.full((len(numbers),), label, device=stacked.device), stacked).cpu()


def read_inputs(inputs: str, known: list[str]) -> tuple[list[str], int]:
    """"users=1,5,7 n=16" -> (names of the users, images of each). A user is named in full, or by the number in the name."""
    words = dict(word.partition("=")[::2] for word in inputs.split())
    unknown = sorted(words.keys() - {"users", "n"})
    if unknown or not words:
        raise Stop(f"--predict {inputs!r}: {unknown[0] if unknown else 'nothing'} is not understood", USAGE)
    count = words.get("n", "16")
    if not count.isdigit() or int(count) < 1:
        raise Stop(f"--predict {inputs!r}: n={count} is no number of images", USAGE)
    asked = words["users"].split(",") if "users" in words else known
    return [named(user, known) for user in asked], int(count)


def named(user: str, known: list[str]) -> str:
    if user in known:
        return user
    fitting = [name for name in known if user.isdigit() and "".join(c for c in name if c.isdigit()).lstrip("0") == user.lstrip("0")]
    if len(fitting) != 1:
        raise Stop(f"--predict: there is no user {user!r}: {nearest(user, known)}", USAGE)
    return fitting[0]


def grid(pictures):
    """(n, h, w, 3) uint8 -> one picture, about square, on white."""
    import numpy as np

    n, h, w, _ = pictures.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows, gap = -(-n // columns), 2
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        y, x = number // columns * (h + gap), number % columns * (w + gap)
        sheet[y : y + h, x : x + w] = picture
    return sheet
