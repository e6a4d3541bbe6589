"""The language model, as transformers builds it from its own config.json: Llama, Qwen, Mistral, Phi and their like.

Rotary frequencies, norms, activations, biases and scalings are whatever the file says. What this recipe asks of a
family is tried and not believed: that it obeys the attention mask and the position ids.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.core.errors import FAILED, Stop, first_line
from lib.recipes.llava_map.language_model import ELSEWHERE, read_config
from lib.recipes.llava_map.layout import Layout
from lib.recipes.llava_map.sizes import DEMO_LLM

TRIED = 4  # random inputs of the mask's audit: a token's share of the attention may vanish in one of them


def demo() -> Any:
    """The demo's Llama: random weights of a small size."""
    from transformers import LlamaConfig

    sizes: dict[str, Any] = dict(DEMO_LLM)
    return built(LlamaConfig(**sizes, rms_norm_eps=1e-5))


def from_folder(folder: Path) -> Any:
    """The body of a causal language model without its head: 32 000 logits for 2 000 tokens would cost 0.4 GB a sample.

    Stop: config.json is not there or damaged, or names a family that transformers does not build, or not with
    attention that takes a mask.
    """
    from transformers import AutoConfig

    read_config(folder)
    try:
        return built(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except Stop:
        raise
    except Exception as error:  # transformers has no common class for what a configuration may do to it
        raise Stop(
            f"transformers cannot build the model of {folder / 'config.json'}: {first_line(error)}", ELSEWHERE
        ) from error


def built(config: Any) -> Any:
    """A bare model with scaled-dot-product attention, which takes the bool mask as it is; eager would add it.

    Dropout is off: a frozen network's would be noise, and recomputed activations ask for training mode.
    """
    from transformers import AutoModel

    for name in config.to_dict():
        if name.endswith(("dropout", "pdrop")):
            setattr(config, name, 0.0)
    config.use_cache = False
    return AutoModel.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def blocks(llm: Any) -> tuple[Any, str]:
    """The module that holds the list of transformer blocks, and the list's name in it. Stop: there is no such list."""
    count = llm.config.num_hidden_layers
    for name, part in llm.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            owner, _, leaf = name.rpartition(".")
            return llm.get_submodule(owner), leaf
    raise Stop(f"{type(llm).__name__} has no list of {count} transformer blocks", ELSEWHERE)


def parts_to_shard(llm: Any) -> tuple[str, ...]:
    """What may be spread over processes (Parts.shard): the table of words, and every block."""
    owner, leaf = blocks(llm)
    names = {id(part): re.escape(name) for name, part in llm.named_modules()}
    return names[id(llm.get_input_embeddings())], names[id(getattr(owner, leaf))] + r"\.\d+"


def through(llm: Any, scene: Tensor, prompt: Any, asked: Tensor, instances: int) -> Tensor:
    """The language model's last states at the map queries. Its weights may be frozen, but gradients pass through it.

    scene (batch, scene tokens, hidden); prompt.ids (words,), of which the first prompt.before come before the scene;
    asked (batch, map tokens, hidden) -> like asked.
    """
    words = llm.get_input_embeddings()(prompt.ids).expand(len(scene), -1, -1)
    first, rest = words[:, : prompt.before], words[:, prompt.before :]
    sequence = torch.cat([first.to(scene.dtype), scene, rest.to(scene.dtype), asked], dim=1)
    layout = Layout(sequence.shape[1] - asked.shape[1], instances, asked.shape[1] // instances - 1)
    return masked_states(llm, sequence.to(words.dtype), layout)[:, layout.prefix :]


def recompute(llm: Any, wanted: bool) -> None:
    """Switches on gradient checkpointing: 0.5 GB a sample instead of 9 for Vicuna-7B.

    transformers recomputes in training mode only, which a frozen model never is in; there is no dropout that this
    would wake.
    """
    owner, name = blocks(llm)
    first = getattr(owner, name)[0]
    if wanted and torch.is_grad_enabled() and not getattr(first, "gradient_checkpointing", False):
        llm.gradient_checkpointing_enable({"use_reentrant": False})
    if getattr(first, "gradient_checkpointing", False):
        llm.train(torch.is_grad_enabled())


def masked_states(llm: Any, sequence: Tensor, layout: Layout, places: Tensor | None = None) -> Tensor:
    """Last hidden states (batch, length, hidden), each token seeing what the layout allows.

    places (length,): position ids, where not the layout's.
    """
    batch, device = len(sequence), sequence.device
    mask = layout.allowed().to(device)[None, None].expand(batch, -1, -1, -1)
    places = (layout.position_ids() if places is None else places).to(device)[None].expand(batch, -1)
    output = llm(inputs_embeds=sequence, attention_mask=mask, position_ids=places, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


# ---------------------------------------------------------------------------------------------- what is tried


def refuse_unfit(llm: Any) -> None:
    """Stop: attention does not obey its mask or the position ids, or the family does not take what it is given.

    Whether a mask is obeyed depends on the version of transformers and on the kind of attention (0/1 floats and eager
    attention let everything through without a word; a recurrent layer never looks at it).
    """
    try:
        for _ in one_block_each(llm):
            refuse_leaking_mask(llm)
            refuse_other_positions(llm)
    except Stop:
        raise
    except Exception as error:  # a family with other arguments, another shape of its mask, …
        raise Stop(f"{type(llm).__name__} cannot be used here: {first_line(error)}", ELSEWHERE) from error


def one_block_each(llm: Any) -> Iterator[None]:
    """The model with a single block, once for each kind of block; through a second one news would travel on."""
    owner, name = blocks(llm)
    every = getattr(owner, name)
    kinds = getattr(llm.config, "layer_types", None) or [""] * len(every)
    seen: dict[Any, int] = {}  # kind -> the first block of it
    for number, (kind, block) in enumerate(zip(kinds, every, strict=True)):
        seen.setdefault((kind, tuple(type(part).__name__ for part in block.modules())), number)
    try:
        for number in seen.values():
            setattr(owner, name, every[number : number + 1])
            yield
    finally:
        setattr(owner, name, every)


@torch.no_grad()
def refuse_leaking_mask(llm: Any) -> None:
    """Changes one token after another: exactly the rows may move that are allowed to see it; else Stop."""
    layout = Layout(prefix=3, instances=2, points=2)
    allowed = layout.allowed()
    seen = torch.zeros_like(allowed)
    for seed in range(TRIED):
        rows = inputs(llm, 2, layout, seed)
        changed = torch.where(
            torch.eye(layout.length, dtype=torch.bool, device=rows.device)[..., None], rows[1], rows[0]
        )
        states = masked_states(llm, torch.cat([rows[:1], changed]), layout)
        seen |= (states[1:] != states[:1]).any(-1).T.cpu()  # (row, changed token)
        if torch.equal(seen, allowed):
            return
        if (seen & ~allowed).any():
            break
    raise Stop(
        f"{type(llm).__name__} does not obey the attention mask: a token saw what it must not, or not what it should",
        "choose another model.llm, and install the versions of constraints.txt",
        FAILED,
    )


@torch.no_grad()
def refuse_other_positions(llm: Any) -> None:
    """Two instances with the same tokens and position ids have the same states; else Stop.

    What rounding leaves between them is told apart from positions by how far a running index moves them.
    """
    layout = Layout(prefix=3, instances=2, points=2)
    [rows] = inputs(llm, 1, layout, 0)
    one = layout.points + 1
    rows[-one:] = rows[-2 * one : -one]

    def apart(places: Tensor) -> tuple[float, float]:
        states = masked_states(llm, rows[None], layout, places)[0].float()
        return float((states[-2 * one : -one] - states[-one:]).norm()), float(states.norm())

    same, size = apart(layout.position_ids())
    running, _ = apart(torch.arange(layout.length))
    if same > running / 2 and same > 4 * torch.finfo(rows.dtype).eps * size:
        raise Stop(
            f"{type(llm).__name__} does not follow the position ids: two equal instances came out differently",
            "choose another model.llm",
            FAILED,
        )


def inputs(llm: Any, count: int, layout: Layout, seed: int) -> Tensor:
    """Random token embeddings (count, length, hidden) in the model's own type."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(count, layout.length, llm.config.hidden_size, generator=generator)
    weight: Tensor = llm.get_input_embeddings().weight
    return random.to(weight.device, weight.dtype)


def refuse_short_sight(llm: Any, length: int, places: int) -> None:
    """Stop: attention of the family reaches less far than the sequence is long, or there are too few positions."""
    config, remedy = llm.config, "lower model.tokens_per_view, or choose another model.llm"
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window and window < length and (kinds is None or "sliding_attention" in kinds):
        raise Stop(f"model.llm looks back {window} tokens, and a sample has {length}", remedy)
    most = getattr(config, "max_position_embeddings", None)
    if most and most < places:
        raise Stop(f"model.llm has {most} positions, and a sample takes {places}", remedy)
