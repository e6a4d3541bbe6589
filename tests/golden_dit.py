"""Golden kinds of the LightningDiT: see tests/golden.py. Stored weights have the published names."""

from functools import partial

import torch

from lib.recipes.vavae_microdoppler.dit import flow
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT, Rope, position_table, time_frequencies
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.recipes.vavae_microdoppler.size import DiTSize
from tests.golden import Case, Tolerance


def load(case: Case) -> LightningDiT:
    c = case.config
    size = DiTSize(
        c["depth"], c["hidden_size"], c["num_heads"], c["input_size"], c["in_channels"], c["num_classes"],
        c["patch_size"], c["mlp_ratio"], c["use_swiglu"], c["use_rope"], c["use_rmsnorm"], c["use_qknorm"],
        not c["wo_shift"],
    )  # fmt: skip
    model = LightningDiT(size)
    model.load_state_dict(case.weights)
    torch.testing.assert_close(case.weights["pos_embed"][0], position_table(size.width, size.side), rtol=0, atol=1e-6)
    if size.rope:
        for name, table in Rope(size.width // size.heads, size.side).named_buffers():
            torch.testing.assert_close(case.weights[f"feat_rope.{name}"], table, rtol=0, atol=1e-6)
    return model.eval()


def keep(out: dict[str, torch.Tensor], name: str, _module, _inputs, tokens: torch.Tensor) -> None:
    out[name] = tokens


def forward(case: Case) -> dict[str, torch.Tensor]:
    model, out = load(case), {}
    x, t, y = case.inputs["x"].clone().requires_grad_(), case.inputs["t"], case.inputs["y"]
    hooks = [(0, "tokens_after_block_0"), (len(model.blocks) - 1, "tokens_after_last_block")]
    for index, name in hooks:
        model.blocks[index].register_forward_hook(partial(keep, out, name))
    out["velocity"] = model(x, t, y)
    probed = (out["velocity"] * case.inputs["probe"]).sum()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(probed, [x, *trained])
    whole = torch.stack([g.norm() for g in gradients[1:]]).norm()
    out |= {"grad_x_of_probe": gradients[0], "grad_norm_all_parameters": whole}
    out |= {"t_frequencies": time_frequencies(t), "t_embedding": model.t_embedder(t)}
    out["y_embedding"] = model.y_embedder(y)
    out["y_embedding_forced_drop"] = model.y_embedder(torch.where(case.inputs["drop_ids"] == 1, model.null, y))
    return out | {"patch_tokens_without_pos": model.x_embedder(x)}


def transport(case: Case) -> dict[str, torch.Tensor]:
    x0, x1, t = (case.inputs[name] for name in ("x0", "x1", "t"))
    x_t, velocity = flow.path(x1, x0, t)
    out = {"x_t": x_t, "target_velocity": velocity}
    for name, with_cosine in (("mse_only", False), ("mse_plus_cos", True)):
        predicted = case.inputs["model_output"].clone().requires_grad_()
        squared, cosine = flow.velocity_losses(predicted, velocity)
        total = squared.mean() + (cosine.mean() if with_cosine else 0)
        out |= {f"{name}.loss_per_sample": squared, f"{name}.cos_loss_per_sample": cosine, f"{name}.total": total}
        (out[f"{name}.grad_model_output"],) = torch.autograd.grad(total, predicted)
    deviates = case.inputs["normal_deviates"]
    out["t_lognormal_mu0"] = flow.lognormal_times(deviates)
    out["t_lognormal_shifted"] = flow.lognormal_times(deviates, case.config["shifted_mu"])
    drawn = flow.lognormal_times(torch.randn(case.config["n_stat"], generator=torch.Generator().manual_seed(0)))
    levels = case.expected["quantile_levels"]  # which quantiles were stored
    quantiles = torch.quantile(drawn[:: len(drawn) // 200_000 or 1], levels.float())
    out |= {"t_sample_mean": drawn.mean(), "t_sample_std": drawn.std()}
    return out | {"quantile_levels": levels, "t_sample_quantiles": quantiles}


def sampler(case: Case) -> dict[str, torch.Tensor]:
    model, noise, label, out = load(case), case.inputs["noise"], case.inputs["y"], {}
    with torch.no_grad():
        for run in case.config["runs"]:
            out |= {f"{run['name']}.{name}": value for name, value in integrate(model, noise, label, run).items()}
        for t in case.config["probe_times"]:
            for first3, name in ((True, "first3"), (False, "all")):
                scale, start = case.config["probe_scale"], case.config["probe_interval_start"]
                pair = flow.guided_pair(model, noise, t, label, scale, start, first3)
                out[f"probe_t{t}.guided_{name}"] = torch.cat(pair)
    mean, std = case.inputs["latent_mean"], case.inputs["latent_std"]
    statistics = LatentStatistics(mean, std, case.config["latent_multiplier"])
    first = case.config["runs"][0]["name"]
    return out | {f"denormalised_{first}": statistics.denormalise(out[f"{first}.final_latent"])}


def integrate(model: LightningDiT, noise: torch.Tensor, label: torch.Tensor, run: dict) -> dict[str, torch.Tensor]:
    times = flow.time_grid(run["num_steps"], run["timestep_shift"])
    start = run["cfg_interval_start"] if run["cfg_interval"] else 0.0
    first3 = run["guided_channels"] == "first3"
    states = flow.METHODS[run["method"]](flow.velocity_of(model, label, run["cfg_scale"], start, first3), noise, times)
    out = {"time_grid": times, "final_latent": states[-1], "trajectory": torch.stack(states)}
    if run["cfg_scale"] != 1.0:  # the original carries the null half along, without using it
        null = noise
        for state, now, then in zip(states[:-1], times[:-1].tolist(), times[1:].tolist(), strict=True):
            null = null + (then - now) * flow.guided_pair(model, state, now, label, run["cfg_scale"], start, first3)[1]
        out["final_null_half"] = null
    return out


def latent_norm(case: Case) -> dict[str, torch.Tensor]:
    shards = range(case.config["shards"])
    latents = torch.cat([case.inputs[f"shard{k}.latents"] for k in shards])
    found = LatentStatistics.of(latents)
    statistics = LatentStatistics(found.mean, found.std, case.config["latent_multiplier"])
    normalised = statistics.normalise(latents)
    out = {"labels": torch.cat([case.inputs[f"shard{k}.labels"] for k in shards]), "mean": found.mean, "std": found.std}
    return out | {"normalised": normalised, "denormalised": statistics.denormalise(normalised)}


KINDS = {"dit_forward": forward, "dit_transport": transport, "dit_sampler": sampler, "dit_latent_norm": latent_norm}
TOLERANCES = (
    Tolerance("dit_forward", r"grad_.*", of_max=1e-5),
    Tolerance("dit_forward", r".*", atol=2e-5),
    Tolerance("dit_transport", r"t_sample_.*", atol=5e-3),
    Tolerance("dit_transport", r".*", atol=1e-6, of_max=1e-6),
    Tolerance("dit_sampler", r"dopri5.*final_latent|.*dopri5.*trajectory", atol=1e-2),
    Tolerance("dit_sampler", r".*", atol=1e-4),
    Tolerance("dit_latent_norm", r"labels"),
    Tolerance("dit_latent_norm", r".*", of_max=1e-6),
)
WAIVED = ()
