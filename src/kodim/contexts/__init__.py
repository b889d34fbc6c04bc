"""Networks on decoded values: what a system knows of a latent from the part of it that has been coded."""
