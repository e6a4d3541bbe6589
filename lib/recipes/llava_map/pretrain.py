"""Makes the base of the demo and writes demo/base.safetensors (fp16) and demo/tokenizer.json:

    python -m lib.recipes.llava_map.pretrain --worlds FOLDER

Two generic road tasks (pretrain_tasks.py). The image encoder says where in a picture lane lines, crossings and kerbs
are. The Q-Former, on its frozen tokens, says where on the ground ahead of that camera they are: like BLIP-2's, it must
put a picture's content into its few answers. Without that the demo hardly looks at its pictures: from a random
Q-Former, 800 steps led to mAP 0.35, and to 0.26 with another scene's pictures. The language model keeps random weights
of a size that passes signals on. About 8 minutes on one core.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F

from lib.core.order import Key
from lib.core.run import atomic
from lib.network.gradients import learning_rate
from lib.recipes.llava_map import causal, model, pretrain_tasks
from lib.recipes.llava_map.encoder import ImageEncoder
from lib.recipes.llava_map.pretrain_tasks import CELL_PX, demo_config
from lib.recipes.llava_map.qformer import QFormer
from lib.recipes.llava_map.sizes import QFORMERS

TARGET = Path(__file__).parent / "demo"
HELD_OUT = 40  # frames
PEAK_RATE, FLOOR_RATE, WARMUP_SHARE, WEIGHT_DECAY = 2e-3, 1e-5, 0.1, 0.02
QUERY_STD = 0.5  # of the Q-Former's queries at the start: they must ask for different things


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--encoder-steps", type=int, default=250)
    parser.add_argument("--qformer-steps", type=int, default=1600)
    parser.add_argument(
        "--worlds", type=Path, required=True, help="folder for the generated worlds; a filled one is used again"
    )
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    pictures, in_picture, on_ground = pretrain_tasks.samples(args.worlds)
    encoder = train_encoder(pictures, in_picture, args.encoder_steps)
    write(encoder, train_qformer(encoder, pictures, on_ground, args.qformer_steps), args.out)


# ---------------------------------------------------------------------------------------------- training


def fit(
    networks: list[nn.Module], loss_of: Callable[[int], Tensor], check: Callable[[], np.ndarray], steps: int
) -> None:
    """`steps` of AdamW; prints the loss and what `check` finds on held-out frames."""
    tensors = [tensor for network in networks for tensor in network.parameters()]
    optimiser = torch.optim.AdamW(tensors, PEAK_RATE, weight_decay=WEIGHT_DECAY)
    started = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(PEAK_RATE, FLOOR_RATE, step, steps, WARMUP_SHARE)
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 99 or step == steps - 1:
            seconds = time.monotonic() - started
            found = f"loss {loss.item():.4f}  overlap {check()}"
            print(f"step {step + 1} of {steps}  {found}  {seconds:.0f} s", flush=True)


def overlap(found: Tensor, wanted: Tensor) -> np.ndarray:
    """Intersection over union of each class; both (pictures, 3, rows, columns) bool."""
    both, either = (found & wanted).sum((0, 2, 3)), (found | wanted).sum((0, 2, 3))
    return np.round((both / either).numpy(), 3)


def train_encoder(pictures: np.ndarray, answer: np.ndarray, steps: int) -> ImageEncoder:
    """The image encoder after `steps` of three frames (18 pictures) each."""
    torch.manual_seed(0)
    encoder = model.published_parts(demo_config())["image"]
    assert isinstance(encoder, ImageEncoder)
    cells = encoder.size.stride_px // CELL_PX
    read_out = nn.Conv2d(encoder.size.width, 3 * cells**2, 1)
    nn.init.constant_(read_out.get_parameter("bias"), -3.0)
    head = nn.Sequential(read_out, nn.PixelShuffle(cells))
    held_out = torch.from_numpy(pictures[-HELD_OUT:]).flatten(0, 1), torch.from_numpy(answer[-HELD_OUT:]).flatten(0, 1)

    def guess(images: Tensor) -> Tensor:
        """Logits in the shape of the answers; the encoder's last column hangs over the picture's edge."""
        grid = encoder.body(pixel_values=model.normalised(images)).last_hidden_state
        logits: Tensor = head(grid)
        return logits[..., : answer.shape[-2], : answer.shape[-1]]

    def loss_of(step: int) -> Tensor:
        images, wanted = batch(pictures, answer, step)
        return F.binary_cross_entropy_with_logits(guess(images), wanted, pos_weight=torch.tensor(3.0))

    @torch.no_grad()
    def check() -> np.ndarray:
        encoder.eval()
        found = guess(held_out[0]) > 0
        encoder.train()
        return overlap(found, held_out[1])

    fit([encoder, head], loss_of, check, steps)
    return encoder.eval()


def batch(pictures: np.ndarray, answer: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
    """Three frames in changing light, mirrored half of the time, as a function of the step: (18, 3, …) each."""
    generator = Key(0, 0, step).generator()
    chosen = generator.integers(0, len(pictures) - HELD_OUT, 3)
    images, wanted = (torch.from_numpy(array[chosen]).flatten(0, 1) for array in (pictures, answer))
    light = torch.from_numpy(generator.uniform(0.7, 1.3, (len(images), 1, 1, 1)).astype(np.float32))
    images, wanted = (images * light).clamp(0, 255), wanted.float()
    return (images.flip(3), wanted.flip(3)) if generator.random() < 0.5 else (images, wanted)


def train_qformer(encoder: ImageEncoder, pictures: np.ndarray, answer: np.ndarray, steps: int) -> QFormer:
    """The Q-Former after `steps` of eight frames (48 views) each.

    One linear layer reads its answers, so what they know must be easy to read.
    """
    torch.manual_seed(0)
    qformer = QFormer(QFORMERS["demo"])
    scale_for_small_width(qformer)
    nn.init.normal_(qformer.query_tokens, std=QUERY_STD)
    _, queries, width = qformer.query_tokens.shape
    head = nn.Linear(queries * width, answer[0, 0].size)
    nn.init.constant_(head.bias, -3.5)
    with torch.no_grad():
        tokens = torch.stack([image_tokens(encoder, frame) for frame in pictures])  # (frames, 2, 6, tokens, width)
    wanted = torch.from_numpy(np.stack([answer, answer[..., ::-1]], axis=1))  # (frames, 2, 6, 3, ahead, aside)

    def guess(frames: np.ndarray, mirrored: np.ndarray) -> Tensor:
        chosen = tokens[frames, mirrored].float()
        views = F.layer_norm(chosen, tokens.shape[-1:]).flatten(0, 1)  # as qformer.Bridge begins
        answers: Tensor = qformer(qformer.query_tokens.expand(len(views), -1, -1), views)
        logits: Tensor = head(answers.flatten(1))
        return logits.view(len(views), *answer.shape[2:])

    def loss_of(step: int) -> Tensor:
        generator = Key(0, 1, step).generator()
        chosen = generator.integers(0, len(tokens) - HELD_OUT, 8), generator.integers(0, 2, 8)
        right = wanted[chosen].flatten(0, 1).float()
        return F.binary_cross_entropy_with_logits(guess(*chosen), right, pos_weight=torch.tensor(2.0))

    @torch.no_grad()
    def check() -> np.ndarray:
        last = np.arange(len(tokens) - HELD_OUT, len(tokens))
        return overlap(guess(last, 0 * last) > 0, wanted[last, 0].flatten(0, 1))

    fit([qformer, head], loss_of, check, steps)
    return qformer


def image_tokens(encoder: ImageEncoder, frame: np.ndarray) -> Tensor:
    """Tokens of a frame's pictures and of their mirror images, as the cache keeps them: (2, 6, tokens, width) half."""
    both = torch.from_numpy(np.stack([frame, frame[..., ::-1]]))
    return model.image_tokens(encoder, both).half()


# ---------------------------------------------------------------------------------------------- what is shipped


def scale_for_small_width(part: nn.Module) -> None:
    """Random matrices that keep a signal's size.

    transformers' 0.02 is for widths of thousands: here it would pass nothing on.
    """
    for tensor in part.parameters():
        if tensor.ndim == 2:
            nn.init.normal_(tensor, std=tensor.shape[1] ** -0.5)


def write(encoder: nn.Module, qformer: nn.Module, folder: Path) -> None:
    """base.safetensors (published key names below image., qformer. and llm.) and a tokenizer of single bytes."""
    torch.manual_seed(1)
    llm = causal.demo()
    scale_for_small_width(llm)
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


def byte_tokenizer() -> Tokenizer:
    """<unk>, <s>, </s>, <pad> and the 256 bytes, each a token; <s> begins every text, as with Llama."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


if __name__ == "__main__":
    main()
