"""What belongs to the size of a network: parameters of its parts and of the adapters, the regexes of what is trained,
the frozen blocks. Closed forms, no torch.
"""

from lib.recipes.hamer.config import Config, ModelConfig

CRITIC = 1_545_211
READOUTS = 6 * 16 + 10 + 3


def backbone_parameters(model: ModelConfig) -> int:
    width, hidden = model.width, model.mlp_ratio * model.width
    patch = 3 * model.patch_px**2 * width + width + (model.patches + 1) * width
    block = 4 * width + 4 * width * width + 4 * width + 2 * width * hidden + hidden + width
    return patch + model.depth * block + 2 * width


def head_parameters(model: ModelConfig) -> int:
    width, inner, hidden = model.decoder_width, model.decoder_heads * model.decoder_head_width, model.decoder_mlp
    attention = 2 * width + 3 * inner * width + inner * width + width
    cross = 2 * width + 2 * inner * model.width + 2 * inner * width + width
    feed_forward = 2 * width + 2 * width * hidden + hidden + width
    query = READOUTS if model.mean_token else 1
    return model.decoder_depth * (attention + cross + feed_forward) + query * width + 2 * width + READOUTS * (width + 1)


def adapted_blocks(config: Config) -> range:
    first = config.model.depth - config.lora.last_blocks if config.lora.last_blocks else 0
    return range(first, config.model.depth)


def targets(config: Config) -> tuple[str, ...]:
    """Regexes over whole names of HaMeR's submodules.

    A plain "proj" would also hit the patch embedding, "to_out" a Sequential.
    """
    blocks = rf"backbone\.blocks\.({'|'.join(map(str, adapted_blocks(config)))})"
    layer = r"mano_head\.transformer\.transformer\.layers\.\d+"
    backbone = {
        "attn": rf"{blocks}\.attn\.(qkv|proj)",
        "mlp": rf"{blocks}\.mlp\.fc[12]",
        "patch": r"backbone\.patch_embed\.proj",
    }
    head = {
        "attn": rf"{layer}\.[01]\.fn\.(to_qkv|to_kv|to_q|to_out\.0)",
        "mlp": rf"{layer}\.2\.fn\.net\.[03]",
        "readouts": r"mano_head\.dec(pose|shape|cam)",
    }
    wanted, last_blocks = config.lora.targets, config.lora.last_blocks
    chosen = [backbone[name] for name in wanted.backbone if not (name == "patch" and last_blocks)]
    if config.model.init == "vitpose":
        return tuple(chosen)  # there the whole head is new and trained fully
    chosen += [head[name] for name in wanted.head if not (name == "readouts" and config.lora.full_readouts)]
    return tuple(chosen)


def fully_trained(config: Config) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>" of what is trained without adapters."""
    if config.model.init == "vitpose":
        return (r"hamer\.mano_head\..*", *config.lora.full)
    if config.lora.full_readouts:
        return (r"hamer\.mano_head\.dec(pose|shape|cam)\.(weight|bias)", *config.lora.full)
    return tuple(config.lora.full)


def adapter_parameters(config: Config) -> int:
    """A and B of every target. Full size: rank 4 2 869 684, rank 8 5 739 368, rank 16 11 478 736."""
    model, chosen = config.model, config.lora.targets
    width, hidden, inner = model.width, model.mlp_ratio * model.width, model.decoder_heads * model.decoder_head_width
    per_rank = 0
    if "attn" in chosen.backbone:
        per_rank += len(adapted_blocks(config)) * (4 * width + 2 * width)
    if "mlp" in chosen.backbone:
        per_rank += len(adapted_blocks(config)) * 2 * (width + hidden)
    if "patch" in chosen.backbone and not config.lora.last_blocks:
        per_rank += 3 * model.patch_px**2 + width
    if model.init != "vitpose":
        wide = model.decoder_width
        self_attention, cross = (wide + 3 * inner) + (inner + wide), (width + 2 * inner) + 2 * (wide + inner)
        per_rank += model.decoder_depth * (self_attention + cross) if "attn" in chosen.head else 0
        per_rank += model.decoder_depth * 2 * (wide + model.decoder_mlp) if "mlp" in chosen.head else 0
        per_rank += 3 * wide + READOUTS if "readouts" in chosen.head and not config.lora.full_readouts else 0
    return config.lora.rank * per_rank


def trainable_parameters(config: Config) -> int:
    """Without `lora.full`, whose regexes only the network itself can count."""
    full = CRITIC if config.loss.adversarial else 0
    if config.model.init == "vitpose":
        full += head_parameters(config.model)
    elif config.lora.full_readouts:
        full += READOUTS * (config.model.decoder_width + 1)
    return adapter_parameters(config) + full


def frozen_blocks(config: Config) -> int:
    """How many blocks run before the first trained tensor; -1 = the patch embedding itself is trained."""
    backbone = config.lora.targets.backbone
    patch_trained = "patch" in backbone and not config.lora.last_blocks
    if patch_trained or any("backbone" in pattern for pattern in config.lora.full):
        return -1
    return adapted_blocks(config).start if set(backbone) - {"patch"} else config.model.depth
