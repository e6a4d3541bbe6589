"""VA-VAE on micro-Doppler spectrograms, then a user-conditional LightningDiT on its latents."""
