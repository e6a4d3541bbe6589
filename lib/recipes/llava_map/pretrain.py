"""Makes the base of the demo and writes demo/base.safetensors (fp16) and demo/tokenizer.json:

    python -m lib.recipes.llava_map.pretrain --worlds FOLDER

Two generic road tasks, on worlds that are drawn from another seed than the demo's. The image encoder says where in a picture lane
lines, crossings and kerbs are. The Q-Former, on its frozen tokens, says where on the ground ahead of that camera they are: like
BLIP-2's, it must put a picture's content into its few answers. Without that the demo hardly looks at its pictures: from a random
Q-Former, 800 steps led to mAP 0.35, and to 0.26 with another scene's pictures. The language model keeps random weights of a size
that passes signals on. About 8 minutes on one core.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.order import Key
from lib.run import atomic

TARGET = Path(__file__).parent / "demo"
SEED = 1007  # of the worlds; the demo's is standin.Size.seed
TRAIN_SCENES, VAL_SCENES, FRAMES, HELD_OUT = 110, 10, 6, 40
REACH_M = 36.0  # lines are taken from so far around the car
CELL_PX = 4  # of the encoder's answer: a quarter of its stride
SEEN_M = 45.0  # farther lines are not asked for
ASIDE_M, AHEAD_M = 16.0, 40.0  # the Q-Former's ground, seen from the camera: to both sides, and ahead
CELL_M = (2.0, 0.5)  # ahead, aside
QUERY_STD = 0.5  # of its queries at the start: they must ask for different things


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder-steps", type=int, default=250)
    parser.add_argument("--qformer-steps", type=int, default=1600)
    parser.add_argument("--worlds", type=Path, required=True, help="folder for the generated worlds; a filled one is used again")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    pictures, in_picture, on_ground = samples(args.worlds)
    encoder = train_encoder(pictures, in_picture, args.encoder_steps)
    write(encoder, train_qformer(encoder, pictures, on_ground, args.qformer_steps), args.out)


# ---------------------------------------------------------------------------------------------- tasks


def samples(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (frames, 6, 3, h, w) uint8 of a generated data set, and for both tasks where the lines of each class are, bool."""
    from lib.recipes.llava_map import geometry, roadmap, standin, tables

    size = standin.Size(TRAIN_SCENES, VAL_SCENES, FRAMES, seed=SEED)
    if not (folder / standin.VERSION).exists():
        standin.write(folder, size)
    maps = {location: roadmap.RoadMap.read(folder / "maps" / "expansion" / f"{location}.json") for location in roadmap.LOCATIONS}
    cfg = demo_config()
    found = []
    for frame in tables.read_frames(folder, standin.VERSION)[0]:
        yaw = geometry.yaw_rad(frame.world_from_bev)
        vectors = maps[frame.location].vectors(*frame.world_from_bev[:2, 3], yaw, (REACH_M, REACH_M))
        found.append((read(cfg, folder, frame), *answers(cfg, frame, vectors)))
    return tuple(np.stack(arrays) for arrays in zip(*found, strict=True))


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


def answers(cfg, frame, vectors: list) -> tuple[np.ndarray, np.ndarray]:
    """Cells that a visible line of a class passes through: (6, 3, rows, columns) in the picture, (6, 3, ahead, aside) on the ground."""
    from lib.recipes.llava_map import geometry, polylines

    in_picture = np.zeros((6, 3, cfg.data.height_px // CELL_PX, cfg.data.width_px // CELL_PX), bool)
    on_ground = np.zeros((6, 3, round(AHEAD_M / CELL_M[0]), round(2 * ASIDE_M / CELL_M[1])), bool)
    for vector in vectors:
        length_m = np.hypot(*np.diff(vector.vertices, axis=0).T).sum()
        points = geometry.on_ground(polylines.resample(vector.vertices, max(2, int(length_m / 0.15))))
        for view, (camera, bev_from_cam) in enumerate(zip(frame.cameras, frame.bev_from_cam(), strict=True)):
            intrinsics = geometry.scaled(camera.intrinsics, cfg.data.width_px / camera.width_px, cfg.data.height_px / camera.height_px)
            cam = geometry.transform(geometry.inverse(bev_from_cam), points)
            pixels, depth_m, seen = geometry.project(cam, intrinsics, cfg.data.width_px, cfg.data.height_px)
            column, row = (pixels[seen & (depth_m < SEEN_M)] / CELL_PX).astype(int).T
            in_picture[view, vector.label, row, column] = True
            near = cam[seen & (depth_m < AHEAD_M) & (np.abs(cam[:, 0]) < ASIDE_M)]
            ahead, aside = (near[:, 2] / CELL_M[0]).astype(int), ((near[:, 0] + ASIDE_M) / CELL_M[1]).astype(int)
            on_ground[view, vector.label, ahead, aside] = True
    return in_picture, on_ground


def overlap(found, wanted) -> np.ndarray:
    """Intersection over union of each class; (pictures, 3, …) bool."""
    both, either = (found & wanted).sum((0, 2, 3)), (found | wanted).sum((0, 2, 3))
    return (both / either).numpy().round(3)


# ---------------------------------------------------------------------------------------------- training


def fit(networks: list, loss_of: Callable, check: Callable, steps: int, peak: float) -> None:
    """`steps` of AdamW; prints the loss and what `check` finds on held-out frames."""
    import torch

    from lib.gradients import learning_rate

    optimiser = torch.optim.AdamW([p for network in networks for p in network.parameters()], peak, weight_decay=0.02)
    started = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(peak, 1e-5, step, steps, 0.1)
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 99 or step == steps - 1:
            print(f"step {step + 1} of {steps}  loss {loss.item():.4f}  overlap {check()}  {time.monotonic() - started:.0f} s", flush=True)


def train_encoder(pictures: np.ndarray, answer: np.ndarray, steps: int):
    """The image encoder after `steps` of three frames (18 pictures) each."""
    import torch
    from torch.nn import functional as F

    from lib.recipes.llava_map import model

    torch.manual_seed(0)
    encoder = model.published_parts(demo_config(), None)["image"]
    cells = encoder.size.stride_px // CELL_PX
    head = torch.nn.Sequential(torch.nn.Conv2d(encoder.size.width, 3 * cells**2, 1), torch.nn.PixelShuffle(cells))
    torch.nn.init.constant_(head[0].bias, -3.0)
    held_out = torch.from_numpy(pictures[-HELD_OUT:]).flatten(0, 1), torch.from_numpy(answer[-HELD_OUT:]).flatten(0, 1)

    def guess(images):
        """Logits in the shape of the answers; the encoder's last column hangs over the picture's edge."""
        grid = encoder.body(pixel_values=model.normalised(images)).last_hidden_state
        return head(grid)[..., : answer.shape[-2], : answer.shape[-1]]

    def loss_of(step: int):
        images, wanted = batch(pictures, answer, step)
        return F.binary_cross_entropy_with_logits(guess(images), wanted, pos_weight=torch.tensor(3.0))

    @torch.no_grad()
    def check():
        encoder.eval()
        found = guess(held_out[0]) > 0
        encoder.train()
        return overlap(found, held_out[1])

    fit([encoder, head], loss_of, check, steps, 2e-3)
    return encoder.eval()


def batch(pictures: np.ndarray, answer: np.ndarray, step: int):
    """Three frames in changing light, mirrored half of the time, as a function of the step."""
    import torch

    generator = Key(0, 0, step).generator()
    chosen = generator.integers(0, len(pictures) - HELD_OUT, 3)
    images, wanted = (torch.from_numpy(array[chosen]).flatten(0, 1) for array in (pictures, answer))
    light = torch.from_numpy(generator.uniform(0.7, 1.3, (len(images), 1, 1, 1)).astype(np.float32))
    images, wanted = (images * light).clamp(0, 255), wanted.float()
    return (images.flip(3), wanted.flip(3)) if generator.random() < 0.5 else (images, wanted)


def train_qformer(encoder, pictures: np.ndarray, answer: np.ndarray, steps: int):
    """The Q-Former after `steps` of eight frames (48 views) each. One linear layer reads its answers: what they know must lie open."""
    import torch
    from torch.nn import functional as F

    from lib.recipes.llava_map import model

    torch.manual_seed(0)
    qformer = model.new_qformer(demo_config())
    scaled_for_small_width(qformer)
    torch.nn.init.normal_(qformer.query_tokens, std=QUERY_STD)
    width = qformer.query_tokens.shape[2]
    head = torch.nn.Linear(qformer.query_tokens.shape[1] * width, answer[0, 0].size)
    torch.nn.init.constant_(head.bias, -3.5)
    with torch.no_grad():  # as model.image_tokens gives them to lib.prefix, for each frame and its mirror image
        tokens = torch.stack([image_tokens(encoder, frame) for frame in pictures])  # (frames, 2, 6, tokens, width)
    wanted = torch.from_numpy(np.stack([answer, answer[..., ::-1]], axis=1))  # (frames, 2, 6, 3, ahead, aside)

    def guess(frames, mirrored):
        views = F.layer_norm(tokens[frames, mirrored].float(), tokens.shape[-1:]).flatten(0, 1)  # as qformer.Bridge begins
        return head(qformer(qformer.query_tokens.expand(len(views), -1, -1), views).flatten(1)).view(len(views), *answer.shape[2:])

    def loss_of(step: int):
        generator = Key(0, 1, step).generator()
        chosen = generator.integers(0, len(tokens) - HELD_OUT, 8), generator.integers(0, 2, 8)
        return F.binary_cross_entropy_with_logits(guess(*chosen), wanted[chosen].flatten(0, 1).float(), pos_weight=torch.tensor(2.0))

    @torch.no_grad()
    def check():
        last = np.arange(len(tokens) - HELD_OUT, len(tokens))
        return overlap(guess(last, 0 * last) > 0, wanted[last, 0].flatten(0, 1))

    fit([qformer, head], loss_of, check, steps, 2e-3)
    return qformer


def image_tokens(encoder, frame: np.ndarray):
    """Tokens of a frame's pictures and of their mirror images: (2, 6, tokens, width) half."""
    import torch

    from lib.recipes.llava_map import model

    both = torch.from_numpy(np.stack([frame, frame[..., ::-1]]))
    return model.image_tokens(encoder, both).half()


# ---------------------------------------------------------------------------------------------- what is shipped


def scaled_for_small_width(part) -> None:
    """Random matrices that keep a signal's size; transformers' 0.02 is for widths of thousands: here it would pass nothing on."""
    import torch

    for tensor in part.parameters():
        if tensor.ndim == 2:
            torch.nn.init.normal_(tensor, std=tensor.shape[1] ** -0.5)


def write(encoder, qformer, folder: Path) -> None:
    """base.safetensors with the published key names below image., qformer. and llm.; and a tokenizer of single bytes."""
    import torch
    from safetensors.torch import save_file

    from lib.recipes.llava_map import config, model

    torch.manual_seed(1)
    llm = model.bare_llama(config.LLMS["demo"])
    scaled_for_small_width(llm)
    tensors = {
        f"{name}.{key}": tensor.to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, part in (("image", encoder), ("qformer", qformer), ("llm", llm))
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
