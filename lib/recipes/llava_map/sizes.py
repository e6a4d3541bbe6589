"""Sizes of published networks, as tables: `--plan` needs neither torch nor a file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSize:
    """An image encoder: kind "resnet", "clip" or "blip2"."""

    kind: str
    width: int  # of a token
    stride_px: int
    stem: int = 64  # resnet from here
    widths: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    block: str = "bottleneck"  # or "basic"
    layers: int = 0  # clip and blip2 from here
    heads: int = 16
    mlp: int = 0
    image_px: int = 0  # that the position table was made for


@dataclass(frozen=True)
class RaySize:
    """Where image tokens look, as a code: depths along a ray, frequencies of each coordinate, widths of its network."""

    depths: int = 32
    octaves: int = 32
    per_depth: int = 64
    widths: tuple[int, ...] = (1024, 512, 256)


@dataclass(frozen=True)
class QFormerSize:
    width: int = 768
    layers: int = 12
    heads: int = 12
    encoder_width: int = 1408  # of BLIP-2's own image encoder
    queries: int = 32
    dropout: float = 0.1
    rays: RaySize = RaySize()


# model.encoder -> size. Where the published weights are is in sources.py.
ENCODERS = {
    "resnet50": EncoderSize("resnet", 2048, 32, 64, (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "clip_l14_336": EncoderSize("clip", 1024, 14, layers=24, heads=16, mlp=4096, image_px=336),
    "blip2_vitg": EncoderSize("blip2", 1408, 14, layers=39, mlp=6144, image_px=224),
    "demo": EncoderSize("resnet", 128, 16, 32, (48, 96, 128), (1, 1, 2), "basic"),
}
# model.qformer -> size; "scratch" is BLIP-2's architecture with random weights, and says so.
QFORMERS = {
    "blip2": QFormerSize(),
    "scratch": QFormerSize(),
    "demo": QFormerSize(96, 4, 4, 128, 16, 0.0, RaySize(8, 8, 16, (64, 64))),
}
# The demo's own language model, as a config.json would say it.
DEMO_LLM = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 256, "vocab_size": 264,
}  # fmt: skip
# What a plan counts published language models by, before step 2: their config.json is not here yet, and `--plan` does
# not ask for it. The networks are built from that file alone.
PLANNED = {
    "lmsys/vicuna-7b-v1.5": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000,
    },
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": {
        "hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
        "intermediate_size": 5632, "vocab_size": 32000,
    },
}  # fmt: skip
