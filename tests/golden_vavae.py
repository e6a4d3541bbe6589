"""Golden kinds of the VA-VAE: see tests/golden.py. Stored weights have the published names."""

import torch

from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.losses import (
    LossWeights,
    Pass,
    Posterior,
    alignment_parts,
    discriminator_loss,
    generator_terms,
    gradient_norm,
    hinge,
    vanilla,
)
from lib.recipes.vavae_microdoppler.autoencoder.model import (
    build_autoencoder,
    decode,
    from_published,
    key_map,
    moments_of,
)
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.metrics import mse, psnr, ssim, to_uint8, unit_range
from lib.recipes.vavae_microdoppler.size import AutoencoderSize
from tests.golden import Case, Distance, Tolerance

# Our term -> the original's name.
SCALARS = {name: name for name in ("nll_loss", "rec_loss", "kl_loss", "vf_loss", "vf_weight")} | {
    "generator_loss": "g_loss",
    "generator_weight": "d_weight",
}
# The same for norms of gradients, whose layers have other names in every kind: our term -> the original's beginning.
GRADIENTS = {
    "nll_at_decoder": "nll_at_dec",
    "generator_at_decoder": "g_at_dec",
    "nll_at_encoder": "nll_at_enc",
    "vf_at_encoder": "vf_at_enc",
}


def autoencoder(case: Case) -> dict[str, torch.Tensor]:
    model = load_autoencoder(case)
    out = {}
    with torch.no_grad():
        for name in ("square", "rect"):
            image = case.inputs[f"image_{name}"]
            moments = moments_of(model, image)
            posterior = Posterior.of(moments)
            out |= {f"{name}.encoder_out": model.encoder(image), f"{name}.moments": moments}
            out[f"{name}.logvar"] = posterior.logvar
            out |= {f"{name}.mode": posterior.mean, f"{name}.recon_of_mode": decode(model, posterior.mean)}
        posterior = Posterior.of(out["square.moments"])
        out["recon_of_sample"] = decode(model, posterior.sample(case.inputs["noise"]))
        out["decoded_given_latent"] = decode(model, case.inputs["latent"])
    return out


def kl(case: Case) -> dict[str, torch.Tensor]:
    posterior = Posterior.of(case.inputs["moments"])
    std = (0.5 * posterior.logvar).exp()
    out = {"mean": posterior.mean, "mode": posterior.mean, "logvar_clamped": posterior.logvar, "std": std}
    out |= {"var": posterior.logvar.exp(), "sample": posterior.sample(case.inputs["noise"])}
    out |= {"kl_per_image": posterior.kl(), "kl_loss_batch_mean": posterior.kl().mean()}
    out["kl_no_sum_without_half"] = posterior.kl_elements()
    mild_moments = case.inputs["moments_mild"].clone().requires_grad_()
    mild = Posterior.of(mild_moments)
    out["kl_mild_per_image"] = mild.kl()
    (out["grad_mean_kl_mild"],) = torch.autograd.grad(mild.kl().mean(), mild_moments)
    return out | between_gaussians(case)


def between_gaussians(case: Case) -> dict[str, torch.Tensor]:
    """Quantities of the posterior class that training never uses; diffusers' class of that meaning supplies them."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    mild, other = (DiagonalGaussianDistribution(case.inputs[name]) for name in ("moments_mild", "moments_other"))
    return {"kl_mild_to_other": mild.kl(other), "nll_mild_of_noise": mild.nll(case.inputs["noise"])}


def vf_losses(case: Case) -> dict[str, torch.Tensor]:
    out = {}
    for pair in case.config["pairs"]:
        for setting in case.config["settings"]:
            projected = case.inputs[f"{pair}.z_proj"].clone().requires_grad_()
            margins = setting["distmat_margin"], setting["cos_margin"]
            distance, cosine = alignment_parts(projected, case.inputs[f"{pair}.f"], *margins)
            values = {"distmat": distance, "cos": cosine}
            values["total"] = setting["distmat_weight"] * distance + setting["cos_weight"] * cosine
            for name, value in values.items():
                key = f"{pair}.{setting['name']}.{name}"
                out[key] = value
                (out[f"{key}.grad_z_proj"],) = torch.autograd.grad(value, projected, retain_graph=True)
    return out


def patchgan(case: Case) -> dict[str, torch.Tensor]:
    real, fake = case.inputs["real"], case.inputs["fake"]
    out = {"given.hinge_d": hinge(case.inputs["given_logits_real"], case.inputs["given_logits_fake"])}
    out["given.vanilla_d"] = vanilla(case.inputs["given_logits_real"], case.inputs["given_logits_fake"])
    for mode in ("eval", "train"):
        critic = load_critic(case, "loss.discriminator.").train(mode == "train")
        logits_real, logits_fake = critic(real), critic(fake)
        out |= {f"{mode}.logits_real": logits_real, f"{mode}.logits_fake": logits_fake}
        out[f"{mode}.g_loss"] = -logits_fake.mean()
        out[f"{mode}.hinge_d"] = hinge(logits_real, logits_fake)
        out[f"{mode}.vanilla_d"] = vanilla(logits_real, logits_fake)
    gradients = torch.autograd.grad(out["train.hinge_d"], list(critic.parameters()))
    out |= {f"train.grad_hinge.{name}": g for (name, _), g in zip(critic.named_parameters(), gradients, strict=True)}
    out |= {f"train.buffers_after.{name}": buffer for name, buffer in critic.named_buffers()}
    fresh, image = load_critic(case, "loss.discriminator.").train(), fake.clone().requires_grad_()
    (out["train.g_loss_input_grad"],) = torch.autograd.grad(-fresh(image).mean(), image)
    adopt = case.config["adopt"]
    out["adopt_weight"] = torch.tensor([adopt["weight"] * (step >= adopt["threshold"]) for step in adopt["steps"]])
    return out


def metrics(case: Case) -> dict[str, torch.Tensor]:
    image, recon = case.inputs["image"], case.inputs["recon"]
    bytes_a, bytes_b = to_uint8(image), to_uint8(recon)
    unit_a, unit_b = unit_range(image), unit_range(recon)
    uint8_error = mse(bytes_a.float(), bytes_b.float())
    official = ssim(image.clamp(-1, 1), recon.clamp(-1, 1), 2.0)
    return {
        "image_uint8": bytes_a,
        "recon_uint8": bytes_b,
        "mse_uint8_per_image": uint8_error,
        "psnr_uint8_per_image": psnr(uint8_error, 255.0),
        "psnr_uint8_mean": psnr(uint8_error, 255.0).mean(),
        "ssim_official_per_image": official,
        "ssim_official_batch": official.mean(),
        "ssim_01_clamped_per_image": ssim(unit_a, unit_b, 1.0),
        "mse_01_clamped_per_image": mse(unit_a, unit_b),
        "psnr_01_clamped_per_image": psnr(mse(unit_a, unit_b), 1.0),
        "mse_pm1_raw_per_image": mse(image, recon),
        "psnr_pm1_raw_peak2_per_image": psnr(mse(image, recon), 2.0),
        "l1_pm1_raw_per_image": (image - recon).abs().flatten(1).mean(1),
    }


def losses_small(case: Case) -> dict[str, torch.Tensor]:
    """One-layer networks, so that the adaptive weights can be checked alone."""
    out = {}
    for setting in case.config["settings"]:
        names = ("enc.weight", "dec.weight", "proj.weight")
        leaf = {name: case.weights[name].clone().requires_grad_() for name in names}
        critic = load_critic(case, "disc.").train()
        with torch.no_grad():
            list(critic.main)[-1].weight.mul_(setting.get("disc_last_conv_scale", 1.0))
        image = case.inputs["image"]
        moments = torch.nn.functional.conv2d(image, leaf["enc.weight"], case.weights["enc.bias"], stride=4)
        sample = Posterior.of(moments).sample(case.inputs["posterior_noise"])
        recon = torch.nn.functional.conv_transpose2d(sample, leaf["dec.weight"], case.weights["dec.bias"], stride=4)
        projected = torch.nn.functional.conv2d(sample, leaf["proj.weight"])
        p = Pass(image, recon, Posterior.of(moments), projected, case.inputs["vf_feature"])
        layers = leaf["dec.weight"], leaf["enc.weight"]
        terms = generator_terms(p, weights_of(setting), given_perceptual(case), critic, *layers, critic_factor(setting))
        gradients = torch.autograd.grad(terms["total"], list(leaf.values()))
        values = named(terms, setting) | {f"grad.{name}": g for name, g in zip(leaf, gradients, strict=True)}
        for ours, theirs in GRADIENTS.items():
            values[f"gradnorm.{theirs}"] = terms[ours]
        values |= critic_values(critic, image, recon, setting)
        out |= {"moments": moments, "recon": recon, "z_proj": projected}
        out |= {f"{setting['name']}.{name}": value for name, value in values.items()}
    return out


def losses_full(case: Case) -> dict[str, torch.Tensor]:
    out = {}
    for setting in case.config["settings"]:
        nets = Networks(case)
        training = setting.get("mode") != "val"
        nets.autoencoder.train(training), nets.critic.train(training)
        with torch.set_grad_enabled(training):
            given = case.inputs["image"], case.inputs["posterior_noise"], case.inputs["vf_feature"]
            values, p = nets.generator(setting, *given)
            values |= critic_values(nets.critic, p.image, p.recon, setting)
        norm = nets.critic.main[3]
        values |= {"disc.bn3_batches_after": norm.num_batches_tracked, "disc.bn3_running_mean_after": norm.running_mean}
        out |= {f"{setting['name']}.{name}": value for name, value in values.items()}
    return out | shared_outputs(case)


def shared_outputs(case: Case) -> dict[str, torch.Tensor]:
    nets = Networks(case)
    p, moments = nets.run(case.inputs["image"], case.inputs["posterior_noise"], case.inputs["vf_feature"])
    recon = p.recon.detach().requires_grad_()
    distance = nets.perceptual(p.image, recon)
    out = {"moments": moments, "recon": recon, "z_proj": p.projected, "perceptual_per_image": distance}
    (out["perceptual_sum_grad_wrt_recon"],) = torch.autograd.grad(distance.sum(), recon)
    return out


def train_steps(case: Case) -> dict[str, torch.Tensor]:
    """The original's loop: its counter advances by 2 per batch, because it counts both optimisers."""
    nets, setting, out = Networks(case), dict(case.config["setting"]), {}
    nets.autoencoder.train(), nets.critic.train()
    trained = list(nets.autoencoder.parameters()) + ([] if case.config["proj_fix"] else [nets.projection])
    generator = torch.optim.Adam(trained, lr=case.config["learning_rate"], betas=(0.5, 0.9))
    critic = torch.optim.Adam(nets.critic.parameters(), lr=case.config["learning_rate"], betas=(0.5, 0.9))
    for step in range(case.config["steps"]):
        setting["global_step"] = 2 * step
        image = case.inputs["image_hwc"][step].permute(0, 3, 1, 2)
        p, _ = nets.run(image, case.inputs["posterior_noise"][step], case.inputs["vf_feature"][step])
        terms = nets.terms(p, setting)
        generator.zero_grad()
        terms["total"].backward()
        generator.step()
        critic.zero_grad()
        judged = discriminator_loss(nets.critic, image, p.recon, hinge)
        loss = critic_factor(setting) * judged["discriminator_loss"]
        loss.backward()
        critic.step()
        values = named(terms, setting, logvar=nets.logvar) | {"disc.disc_loss": loss}
        values |= {f"disc.{name}": judged[name] for name in ("logits_real", "logits_fake")}
        out |= {f"step{step}.{name.partition('.')[2]}": value for name, value in values.items()}
    return out | {
        f"after.{name}": Distance(relative(tensor, case.expected.get(f"after.{name}")))
        for name, tensor in nets.published().items()
    }


def relative(ours: torch.Tensor, expected: torch.Tensor | None) -> float:
    """The README's measure: L2 of the difference over L2 (single entries may differ where a gradient is about 0)."""
    if expected is None:
        return float("inf")
    return float((ours.detach() - expected.reshape(ours.shape)).norm() / expected.norm().clamp_min(1e-12))


class Networks:
    """The whole of a training: built from a case's published names, and back."""

    def __init__(self, case: Case):
        self.autoencoder, self.critic = load_autoencoder(case), load_critic(case, "loss.discriminator.")
        self.perceptual = Perceptual(tuple(case.config["vgg_widths"])).eval()
        self.perceptual.load_state_dict(part(case, "loss.perceptual_loss."))
        self.projection = case.weights["linear_proj.weight"].clone().requires_grad_()
        self.logvar = case.weights["loss.logvar"]

    def run(self, image, noise, feature) -> tuple[Pass, torch.Tensor]:
        moments = moments_of(self.autoencoder, image)
        posterior = Posterior.of(moments)
        sample = posterior.sample(noise)
        projected = torch.nn.functional.conv2d(sample, self.projection)
        return Pass(image, decode(self.autoencoder, sample), posterior, projected, feature), moments

    def layers(self) -> dict[str, torch.Tensor]:
        autoencoder = self.autoencoder
        watched = {"decoder.conv_out": autoencoder.decoder.conv_out, "encoder.conv_in": autoencoder.encoder.conv_in}
        watched["encoder.conv_out"] = autoencoder.encoder.conv_out
        return {f"{name}.weight": layer.weight for name, layer in watched.items()} | {
            "linear_proj.weight": self.projection
        }

    def terms(self, p: Pass, setting: dict) -> dict[str, torch.Tensor]:
        layers = self.layers()
        return generator_terms(
            p, weights_of(setting), self.perceptual, self.critic, layers["decoder.conv_out.weight"],
            layers["encoder.conv_out.weight"], critic_factor(setting), self.logvar,
        )  # fmt: skip

    def generator(self, setting: dict, image, noise, feature) -> tuple[dict[str, torch.Tensor], Pass]:
        p, _ = self.run(image, noise, feature)
        if not setting.get("use_vf", True):
            p = Pass(p.image, p.recon, p.posterior)
        terms = self.terms(p, setting)
        values = named(terms, setting, self.logvar)
        if torch.is_grad_enabled():
            aligned = p.feature is not None
            watched = {name: t for name, t in self.layers().items() if aligned or name != "linear_proj.weight"}
            gradients = torch.autograd.grad(terms["total"], list(watched.values()), retain_graph=True)
            values |= {f"grad.{name}": g for name, g in zip(watched, gradients, strict=True)}
            at = {ours: f"gradnorm.{theirs}oder_conv_out" for ours, theirs in GRADIENTS.items()}
            values |= {theirs: terms[ours] for ours, theirs in at.items() if ours in terms}
        return values, p

    def published(self) -> dict[str, torch.Tensor]:
        state = self.autoencoder.state_dict()
        names = {theirs: state[ours] for theirs, ours in key_map(self.autoencoder).items()}
        names |= {f"loss.discriminator.{name}": tensor for name, tensor in self.critic.state_dict().items()}
        return names | {"linear_proj.weight": self.projection, "loss.logvar": self.logvar}


def load_autoencoder(case: Case):
    """The level that attends is found by its side length at the nominal resolution."""
    config = case.config
    sides = [config["resolution"] >> level for level in range(len(config["ch_mult"]))]
    size = AutoencoderSize(
        config["ch"], tuple(config["ch_mult"]), config["num_res_blocks"],
        tuple(level for level, side in enumerate(sides) if side in config["attn_resolutions"]),
        config["z_channels"], config["embed_dim"], config.get("norm_groups", 32), config["resolution"],
    )  # fmt: skip
    model, parts = build_autoencoder(size), ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    stored = {name: tensor for name, tensor in case.weights.items() if name.startswith(parts)}
    model.load_state_dict(from_published(stored, model))
    return model.eval()


def load_critic(case: Case, prefix: str) -> PatchCritic:
    state, layers = part(case, prefix), case.config.get("n_layers", case.config.get("disc_layers", 3))
    critic = PatchCritic(width=state["main.0.weight"].shape[0], layers=layers)
    critic.load_state_dict(state)
    return critic


def part(case: Case, prefix: str) -> dict[str, torch.Tensor]:
    mine = {name: tensor for name, tensor in case.weights.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor.clone() for name, tensor in mine.items()}


def weights_of(setting: dict) -> LossWeights:
    return LossWeights(
        perceptual=setting["perceptual_weight"],
        kl=setting["kl_weight"],
        critic=setting["disc_weight"],
        alignment=setting["vf_weight"],
        adaptive_alignment=setting["adaptive_vf"],
        distance_margin=setting.get("distmat_margin", 0),
        cosine_margin=setting.get("cos_margin", 0),
        distance=setting.get("distmat_weight", 1.0),
        cosine=setting.get("cos_weight", 1.0),
        averaged=setting.get("pp_style", False),
    )


def critic_factor(setting: dict) -> float:
    return setting["disc_factor"] * (setting["global_step"] >= setting["disc_start"])


def named(terms: dict, setting: dict, logvar=0.0) -> dict[str, torch.Tensor]:
    values = {f"gen.{theirs}": terms[ours] for ours, theirs in SCALARS.items() if ours in terms}
    values |= {"gen.total_loss": terms["total"], "gen.logvar": torch.as_tensor(logvar)}
    return values | {"gen.disc_factor": torch.tensor(critic_factor(setting))}


def critic_values(critic: PatchCritic, image, recon, setting: dict) -> dict[str, torch.Tensor]:
    kind = {"hinge": hinge, "vanilla": vanilla}[setting.get("disc_loss", "hinge")]
    judged = discriminator_loss(critic, image, recon, kind)
    loss = critic_factor(setting) * judged["discriminator_loss"]
    out = {"disc.disc_loss": loss, "disc.logits_real": judged["logits_real"], "disc.logits_fake": judged["logits_fake"]}
    if loss.requires_grad:
        out["disc.grad_norm_all"] = torch.stack([gradient_norm(loss, p) for p in critic.parameters()]).norm()
    return out


def given_perceptual(case: Case):
    """A distance whose value and derivative are stored: value_b + sum((recon - stopped recon) * gradient_b)."""
    value, gradient = case.inputs["perceptual_per_image"], case.inputs["perceptual_grad_wrt_recon"]
    return lambda image, recon: (value + ((recon - recon.detach()) * gradient).sum((1, 2, 3))).reshape(-1, 1, 1, 1)


KINDS = {
    "vavae_autoencoder": autoencoder,
    "vavae_kl": kl,
    "vavae_vf_losses": vf_losses,
    "vavae_patchgan": patchgan,
    "vavae_metrics": metrics,
    "vavae_losses_small": losses_small,
    "vavae_losses": losses_full,
    "vavae_train_steps": train_steps,
}
TOLERANCES = (
    Tolerance("vavae_autoencoder", r".*", atol=1e-4),
    Tolerance("vavae_kl", r".*", rtol=1e-6, of_max=1e-6),
    Tolerance("vavae_vf_losses", r".*grad_z_proj", of_max=1e-6, atol=1e-8),
    Tolerance("vavae_vf_losses", r".*", atol=1e-6),
    Tolerance("vavae_patchgan", r".*num_batches_tracked"),
    Tolerance("vavae_patchgan", r"train\.buffers_after.*", atol=1e-6),
    Tolerance("vavae_patchgan", r".*grad.*", of_max=1e-5),
    Tolerance("vavae_patchgan", r".*", atol=1e-5),
    Tolerance("vavae_metrics", r".*_uint8"),
    Tolerance("vavae_metrics", r"psnr.*", atol=1e-3),
    Tolerance("vavae_metrics", r"ssim.*", atol=1e-5),
    Tolerance("vavae_metrics", r".*", of_max=1e-5),
    Tolerance("vavae_losses_small", r".*", of_max=1e-5),
    Tolerance("vavae_losses", r".*bn3_batches_after"),
    Tolerance("vavae_losses", r"recon|moments|z_proj", atol=1e-4),
    Tolerance("vavae_losses", r".*\.grad\..*|perceptual_sum_grad.*", of_max=1e-3),
    Tolerance("vavae_losses", r".*", of_max=1e-4),
    Tolerance("vavae_train_steps", r"after\..*", atol=1e-4),
    Tolerance("vavae_train_steps", r".*", rtol=1e-3),
)
WAIVED = ()
