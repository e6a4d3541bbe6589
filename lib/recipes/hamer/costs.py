"""What a run costs, in closed forms: parts of the peak memory, and what it needs."""

from lib.core.records import Block, Footprint, Plan
from lib.recipes.hamer import size
from lib.recipes.hamer.config import Config

HALF = {"bf16": 2, "fp16": 2, "fp32": 4, "auto": 4}  # bytes of an activation


def plan(config: Config) -> Plan:
    model = config.model
    critic = size.CRITIC if config.loss.adversarial else 0
    parameters = size.backbone_parameters(model) + size.head_parameters(model) + critic
    trainable, half = size.trainable_parameters(config), HALF[config.train.precision]
    blocks = model.depth - max(size.frozen_blocks(config), 0)
    kept = 24 * model.width  # values kept per token and block, adapters and their dropout included
    per_block = config.train.micro_batch * model.patches * kept * half
    activations = blocks * per_block
    if config.train.gradient_checkpointing:  # one block, and the input of every other
        activations = blocks * per_block // 24 + per_block
    block = 4 * size.block_parameters(model)
    return Plan(
        parameters,
        trainable,
        Footprint(
            4 * (size.backbone_parameters(model) + frozen_head(config)) - model.depth * block,
            trainable,
            {"activations": activations},
            model.depth * (Block(block, block),),
            averaged=bool(config.train.ema),
        ),
    )


def frozen_head(config: Config) -> int:
    """Parameters of the head that stay as they are."""
    if config.model.init == "vitpose":
        return 0
    readouts = size.readout_parameters(config.model) if config.lora.full_readouts else 0
    return size.head_parameters(config.model) - readouts
