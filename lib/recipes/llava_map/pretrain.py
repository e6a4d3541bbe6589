"""Makes the base of the demo and writes demo/base.safetensors (fp16) and demo/tokenizer.json:

    python -m lib.recipes.llava_map.pretrain --worlds FOLDER

The image encoder is trained on a generic road task: where in a picture are lane lines, crossings and kerbs? Its worlds are drawn from
another seed than the demo's. Q-Former and language model keep random weights of a size that passes signals on: what the demo
teaches is taught by the run itself. About 5 minutes on one core.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from lib.order import Key
from lib.run import atomic

TARGET = Path(__file__).parent / "demo"
SEED = 1007  # of the worlds; the demo's is standin.Size.seed
TRAIN_SCENES, VAL_SCENES, FRAMES, HELD_OUT = 110, 10, 6, 40
CELL_PX = 4  # of the task's answer: a quarter of the encoder's stride
SEEN_M = 45.0  # farther lines are not asked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--worlds", type=Path, required=True, help="folder for the generated worlds; a filled one is used again")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    pictures, answers = samples(args.worlds)
    write(train(pictures, answers, args.steps), args.out)


def samples(folder: Path):
    """Pictures (frames, 6, 3, h, w) uint8 and answers (frames, 6, 3, rows, columns) of a generated data set."""
    from lib.recipes.llava_map import data, roadmap, standin, tables

    size = standin.Size(TRAIN_SCENES, VAL_SCENES, FRAMES, seed=SEED)
    if not (folder / standin.VERSION).exists():
        standin.write(folder, size)
    maps = {location: roadmap.RoadMap.read(folder / "maps" / "expansion" / f"{location}.json") for location in roadmap.LOCATIONS}
    cfg = demo_config()
    pictures, answers = [], []
    for frame in tables.read_frames(folder, standin.VERSION)[0]:
        vectors = data.vectors_of(cfg, frame, maps[frame.location])
        pictures.append(read(cfg, folder, frame))
        answers.append(answer(cfg, frame, vectors))
    return np.stack(pictures), np.stack(answers)


def demo_config():
    from lib import config
    from lib.recipes import llava_map

    return config.compose(llava_map, "stage2", True, "full", {})[0]


def read(cfg, folder: Path, frame) -> np.ndarray:
    from PIL import Image

    size_px = (cfg.data.width_px, cfg.data.height_px)
    return np.stack(
        [np.asarray(Image.open(folder / camera.filename).resize(size_px, Image.Resampling.BILINEAR)) for camera in frame.cameras]
    ).transpose(0, 3, 1, 2)


def answer(cfg, frame, vectors: list) -> np.ndarray:
    """(6, 3, rows, columns): whether a line of the class passes through the cell of the picture."""
    from lib.recipes.llava_map import geometry, polylines

    found = np.zeros((6, 3, cfg.data.height_px // CELL_PX, cfg.data.width_px // CELL_PX), np.float32)
    for vector in vectors:
        length_m = np.hypot(*np.diff(vector.vertices, axis=0).T).sum()
        points = geometry.on_ground(polylines.resample(vector.vertices, max(2, int(length_m / 0.15))))
        for view, (camera, bev_from_cam) in enumerate(zip(frame.cameras, frame.bev_from_cam(), strict=True)):
            intrinsics = geometry.scaled(camera.intrinsics, cfg.data.width_px / camera.width_px, cfg.data.height_px / camera.height_px)
            cam = geometry.transform(geometry.inverse(bev_from_cam), points)
            pixels, depth_m, seen = geometry.project(cam, intrinsics, cfg.data.width_px, cfg.data.height_px)
            column, row = (pixels[seen & (depth_m < SEEN_M)] / CELL_PX).astype(int).T
            found[view, vector.label, row, column] = 1
    return found


def train(pictures: np.ndarray, answers: np.ndarray, steps: int):
    """The image encoder after `steps` of three frames (18 pictures) each."""
    import torch
    from torch.nn import functional as F

    from lib.gradients import learning_rate
    from lib.recipes.llava_map import model

    torch.manual_seed(0)
    encoder = model.published_parts(demo_config(), None)["image"]
    cells = encoder.size.stride_px // CELL_PX
    head = torch.nn.Sequential(torch.nn.Conv2d(encoder.size.width, 3 * cells**2, 1), torch.nn.PixelShuffle(cells))
    torch.nn.init.constant_(head[0].bias, -3.0)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 2e-3, weight_decay=0.01)
    started = time.monotonic()
    for step in range(steps):
        images, wanted = batch(pictures, answers, step)
        loss = F.binary_cross_entropy_with_logits(guess(encoder, head, images, wanted), wanted, pos_weight=torch.tensor(3.0))
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(2e-3, 1e-5, step, steps, 0.1)
        optimiser.step()
        if step % 50 == 49 or step == steps - 1:
            overlap = held_out(encoder, head, pictures[-HELD_OUT:], answers[-HELD_OUT:])
            print(f"step {step + 1} of {steps}  loss {loss.item():.4f}  overlap {overlap}  {time.monotonic() - started:.0f} s", flush=True)
    return encoder.eval()


def batch(pictures: np.ndarray, answers: np.ndarray, step: int):
    """Three frames in changing light, mirrored half of the time, as a function of the step."""
    import torch

    generator = Key(0, 0, step).generator()
    chosen = generator.integers(0, len(pictures) - HELD_OUT, 3)
    images, wanted = (torch.from_numpy(array[chosen]).flatten(0, 1) for array in (pictures, answers))
    light = torch.from_numpy(generator.uniform(0.7, 1.3, (len(images), 1, 1, 1)).astype(np.float32))
    images = (images * light).clamp(0, 255)
    return (images.flip(3), wanted.flip(3)) if generator.random() < 0.5 else (images, wanted)


def guess(encoder, head, images, wanted):
    """Logits in the shape of the answers; the encoder's last column hangs over the picture's edge."""
    from lib.recipes.llava_map import model

    grid = encoder.body(pixel_values=model.normalised(images)).last_hidden_state
    return head(grid)[..., : wanted.shape[-2], : wanted.shape[-1]]


def held_out(encoder, head, pictures: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Intersection over union of each class."""
    import torch

    encoder.eval()
    images, wanted = (torch.from_numpy(array).flatten(0, 1) for array in (pictures, answers))
    with torch.no_grad():
        found = guess(encoder, head, images, wanted) > 0
    encoder.train()
    both, either = (found & (wanted > 0)).sum((0, 2, 3)), (found | (wanted > 0)).sum((0, 2, 3))
    return (both / either).numpy().round(3)


def write(encoder, folder: Path) -> None:
    """base.safetensors with the published key names below image., qformer. and llm.; and a tokenizer of single bytes."""
    import torch
    from safetensors.torch import save_file

    from lib.recipes.llava_map import config, model

    torch.manual_seed(1)
    parts = model.published_parts(demo_config(), config.LLMS["demo"]) | {"image": encoder}
    for name in ("qformer", "llm"):
        for tensor in parts[name].parameters():
            if tensor.ndim == 2:
                torch.nn.init.normal_(tensor, std=tensor.shape[1] ** -0.5)  # 0.02 is for widths of thousands: here it would pass nothing on
    tensors = {
        f"{name}.{key}": tensor.to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, part in parts.items()
        for key, tensor in part.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "base.safetensors") as temporary:
        save_file(tensors, temporary)
    with atomic(folder / "tokenizer.json") as temporary:
        byte_tokenizer().save(str(temporary))
    print(f"wrote base.safetensors: {(folder / 'base.safetensors').stat().st_size / 1e6:.2f} MB")


def byte_tokenizer():
    """<unk>, <s>, </s>, <pad> and the 256 bytes, each a token; <s> begins every text, as with Llama."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


if __name__ == "__main__":
    main()
