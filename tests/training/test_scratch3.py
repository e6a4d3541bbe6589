import torch
from lib.core.run import read_json
from lib.network.batches import Batches
from tests.training.test_loop import stop_at, log

def test_l(step, prepared, folder, monkeypatch, capsys):
    from lib.training import one_step
    prepared("train.epochs=2", "train.micro_batch=1")
    real = one_step.accumulate
    def acc(training, number, objective):
        if training.step >= 3 and not training.gradient_checkpointing:
            raise torch.OutOfMemoryError("injected")
        return real(training, number, objective)
    monkeypatch.setattr(one_step, "accumulate", acc)
    stop_at(monkeypatch, 6)
    print("A", step(4))
    s = read_json(folder/"4_train.json")
    print(s["fingerprint"]["config"].get("train.gradient_checkpointing"))
    print("B", step(4))
    print(read_json(folder/"4_train.json")["fingerprint"]["config"].get("train.gradient_checkpointing"))
    print("C", step(4), step(5))
    out = capsys.readouterr(); print(out.out[-2500:], out.err)
    assert 0

def test_e(step, prepared, folder, tmp_path, monkeypatch, capsys):
    from lib.recipes.toy import recipe
    real = recipe.score_batch
    def noisy(config, stage, parts, batch):
        noise = torch.randn(len(batch["x"]), 8) / 2
        return real(config, stage, parts, batch | {"x": batch["x"] + noise})
    monkeypatch.setattr(recipe, "score_batch", noisy)
    found = []
    prepared("train.epochs=2")
    for words in ([], ["eval.batch=4"]):
        assert step(4, "--force", *words) == 0
        import json
        found.append((read_json(folder/"train/adapt/best.json"), [json.loads(l)["eval"] for l in open(folder/"train/adapt/log.jsonl") if "eval" in l]))
    capsys.readouterr()
    for f in found: print(f)
    assert 0
