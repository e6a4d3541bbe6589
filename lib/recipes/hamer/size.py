"""What belongs to the size of a network: parameters of its parts and of the adapters, the regexes of what is trained,
the frozen blocks. Closed forms, no torch.
"""

from lib.recipes.hamer.config import HEAD_TARGETS, Config, ModelConfig

CRITIC = 1_545_211
READOUTS = 6 * 16 + 10 + 3


def backbone_parameters(model: ModelConfig) -> int:
    width = model.width
    patch = 3 * model.patch_px**2 * width + width + (model.patches + 1) * width
    return patch + model.depth * block_parameters(model) + 2 * width


def block_parameters(model: ModelConfig) -> int:
    """Of one transformer block of the backbone."""
    width, hidden = model.width, model.mlp_ratio * model.width
    return 4 * width + 4 * width * width + 4 * width + 2 * width * hidden + hidden + width


def readout_parameters(model: ModelConfig) -> int:
    return READOUTS * (model.decoder_width + 1)


def head_parameters(model: ModelConfig) -> int:
    width, inner, hidden = model.decoder_width, model.decoder_heads * model.decoder_head_width, model.decoder_mlp
    attention = 2 * width + 3 * inner * width + inner * width + width
    cross = 2 * width + 2 * inner * model.width + 2 * inner * width + width
    feed_forward = 2 * width + 2 * width * hidden + hidden + width
    query = READOUTS if model.mean_token else 1
    layers = model.decoder_depth * (attention + cross + feed_forward)
    return layers + query * width + 2 * width + readout_parameters(model)


def adapted_blocks(config: Config) -> range:
    first = config.model.depth - config.lora.last_blocks if config.lora.last_blocks else 0
    return range(first, config.model.depth)


def targets(config: Config) -> tuple[str, ...]:
    """Regexes over whole names of HaMeR's submodules, one for each kind of layer.

    A plain "proj" would also hit the patch embedding, "to_out" a Sequential, and in a deeper network more blocks.
    """
    blocks = rf"backbone\.blocks\.({'|'.join(map(str, adapted_blocks(config)))})"
    layer = r"mano_head\.transformer\.transformer\.layers\.\d+"
    backbone = {"qkv": rf"{blocks}\.attn\.qkv", "proj": rf"{blocks}\.attn\.proj"}
    backbone |= {"fc1": rf"{blocks}\.mlp\.fc1", "fc2": rf"{blocks}\.mlp\.fc2", "patch": r"backbone\.patch_embed\.proj"}
    head = {"to_qkv": rf"{layer}\.0\.fn\.to_qkv", "to_kv": rf"{layer}\.1\.fn\.to_kv", "to_q": rf"{layer}\.1\.fn\.to_q"}
    head |= {"to_out": rf"{layer}\.[01]\.fn\.to_out\.0", "net": rf"{layer}\.2\.fn\.net\.[03]"}
    head |= {name: rf"mano_head\.{name}" for name in HEAD_TARGETS["readouts"]}
    return tuple([backbone[name] for name in config.adapted_backbone] + [head[name] for name in config.adapted_head])


def fully_trained(config: Config) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>" of what is trained without adapters."""
    if config.model.init == "vitpose":
        return (r"hamer\.mano_head\..*", *config.lora.full)
    if config.lora.full_readouts:
        return (r"hamer\.mano_head\.dec(pose|shape|cam)\.(weight|bias)", *config.lora.full)
    return tuple(config.lora.full)


def adapter_parameters(config: Config) -> int:
    """A and B of every target. Full size: rank 4 2 869 684, rank 8 5 739 368, rank 16 11 478 736."""
    model = config.model
    width, hidden, wide = model.width, model.mlp_ratio * model.width, model.decoder_width
    inner, depth, blocks = model.decoder_heads * model.decoder_head_width, model.decoder_depth, adapted_blocks(config)
    ends = {  # inputs and outputs of all layers of a kind together
        "qkv": len(blocks) * 4 * width, "proj": len(blocks) * 2 * width,
        "fc1": len(blocks) * (width + hidden), "fc2": len(blocks) * (hidden + width),
        "patch": 3 * model.patch_px**2 + width,
        "to_qkv": depth * (wide + 3 * inner), "to_kv": depth * (width + 2 * inner), "to_q": depth * (wide + inner),
        "to_out": 2 * depth * (inner + wide), "net": 2 * depth * (wide + model.decoder_mlp),
        "decpose": wide + 6 * 16, "decshape": wide + 10, "deccam": wide + 3,
    }  # fmt: skip
    return config.lora.rank * sum(ends[name] for name in config.adapted_backbone + config.adapted_head)


def trainable_parameters(config: Config) -> int:
    """Without `lora.full`, whose regexes only the network itself can count."""
    full = CRITIC if config.loss.adversarial else 0
    if config.model.init == "vitpose":
        full += head_parameters(config.model)
    elif config.lora.full_readouts:
        full += readout_parameters(config.model)
    return adapter_parameters(config) + full


def frozen_blocks(config: Config) -> int:
    """How many blocks run before the first trained tensor; -1 = the patch embedding itself is trained."""
    if "patch" in config.adapted_backbone or any("backbone" in pattern for pattern in config.lora.full):
        return -1
    return adapted_blocks(config).start if config.adapted_backbone else config.model.depth
