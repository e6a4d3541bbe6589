"""What a run costs, for `--plan`: closed forms, without torch.

A test compares the parameters with the network's. CHANGE: the formulas of your network.
"""

from lib.core.records import Footprint, Plan

from .config import Config

NUMBER_BYTES = 4  # float32


def plan(config: Config) -> Plan:
    taps, pixels = config.model.window_px**2, config.data.side_px**2
    parameters = taps * taps + taps + taps + 1
    activations = NUMBER_BYTES * config.train.micro_batch * pixels * (2 * taps + 2)
    footprint = Footprint(NUMBER_BYTES * parameters, trainable(config), {"activations": activations})
    return Plan(parameters, trainable(config), footprint)


def trainable(config: Config) -> int:
    """The adapter of `spread`, a (taps, taps) matrix: rank x (what goes in + what comes out)."""
    taps = config.model.window_px**2
    return config.lora.rank * (taps + taps)
