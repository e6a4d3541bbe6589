"""step 2 --import: a state dict of VGGT that PEFT wrapped."""

import pytest
import torch

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.network import adapters, checkpoint
from lib.recipes.vggt_eth3d import adopt as adopting
from tests.recipes.vggt_eth3d.test_assemble import BASE, STAGE, assemble, with_random_adapters


def adopt(config, file):
    """(what is said, the parts that were filled)."""
    parts = assemble.build(config, STAGE, {"base": BASE})
    adapters.attach(parts)
    said, settings = adopting.adopt(config, Foreign(file, file.parent, dict, lambda: parts))
    assert settings == "train.accept_seen=true"
    return said, parts


def test_the_guides_checkpoint_gives_its_adapters_and_one_with_a_lost_base_is_refused(settings, tmp_path):
    config = settings()
    trained, wrapped = with_random_adapters(config)
    state = dict(wrapped["vggt"].state_dict()) | {"base_model.model.track_head.fmap.weight": torch.ones(2)}
    torch.save({"model": state, "prev_epoch": 19}, tmp_path / "checkpoint_19.pt")
    said, parts = adopt(config, tmp_path / "checkpoint_19.pt")
    mine, theirs = adapters.trainable(parts), adapters.trainable(trained)
    assert mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert "rank 16; alpha is not in such a file, so it is the run's, 32" in said and "are the published ones" in said
    under = {name for name in state if ".base_layer." in name}
    lost = {name: tensor + 1 if name in under else tensor for name, tensor in state.items()}
    torch.save({"model": lost}, tmp_path / "lost.pt")
    with pytest.raises(
        Stop, match=rf"{len(under)} tensors of \d+ \([\d,]+ numbers\), {len(under)} of them under"
    ) as stop:
        adopt(config, tmp_path / "lost.pt")
    assert "step4_train.py" in stop.value.command
    with pytest.raises(Stop, match=r"has adapters that this run has not, of \d+ layers") as stop:
        adopt(settings(lora__strategy="a"), tmp_path / "checkpoint_19.pt")
    assert stop.value.command == "python step1_setup.py lora.strategy=b"
    plain = {name: tensor for name, tensor in checkpoint.contiguous(state).items() if ".lora_" not in name}
    torch.save(plain, tmp_path / "plain.pt")
    with pytest.raises(Stop, match="holds no adapters"):
        adopt(config, tmp_path / "plain.pt")


def test_another_kind_of_file_ends_in_a_sentence(settings, tmp_path):
    with pytest.raises(Stop, match=r"notes\.txt is nothing that this recipe imports"):
        adopting.adopt(settings(), Foreign(tmp_path / "notes.txt", tmp_path, dict, dict))
