"""The published checkpoints of UniWeTok and BitDance (specification, section 2), as tables of rules."""

from unitok_jax.backbones.binary_vae_rules import binary_vae_table, training_container_table
from unitok_jax.backbones.bitdance_rules import bitdance_table
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.backbones.flow_head_rules import flow_head_table
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import LINEAR

_VAE = {r"vae\..*": "the frozen tokenizer, which the model carries along; it is published by itself too"}


def artefacts(config: UniWeTokConfig) -> dict[str, Table]:
    """Tables by name.

    ``tokenizer``: a released binary tokenizer, or a training run's (its moving average). ``tokenizer_container``: what
    such a run's checkpoint is, for writing. ``c2i``: a class-conditional model with the tokenizer that it carries;
    ``c2i_alone``: without. ``lm``, ``vision_head``, ``projector``, ``ae``: the files of a released text-to-image model.
    ``full_state``: the same as one training state.
    """
    vae = binary_vae_table(config.vae)
    tables = {
        "tokenizer": vae.under("", "vae/"),
        "tokenizer_container": training_container_table(config.vae).under("", "vae/"),
    }
    if config.generator is not None:
        generator = bitdance_table(config.generator).under("", "generator/")
        tables["c2i"] = generator + vae.under("vae.", "vae/")
        tables["c2i_alone"] = generator + Table((), _VAE)
    if config.lm is not None:
        lm = decoder_table(config.lm)
        head, projector = flow_head_table(config.flow), _projector()
        tables |= {
            "lm": lm.under("", "lm/"),
            "vision_head": head.under("", "flow/"),
            "projector": projector.under("", "projector/"),
            "ae": tables["tokenizer"],
            "full_state": lm.under("llm_model.", "lm/")
            + head.under("vision_diffusion_head.", "flow/")
            + projector.under("embed_vision_mlp.", "projector/")
            + vae.under("vision_encoder.", "vae/"),
        }
    return tables


def _projector() -> Table:
    return Table(
        tuple(
            rule
            for name in ("fc1", "fc2")
            for rule in (Rule(f"{name}.weight", f"{name}/kernel", LINEAR), Rule(f"{name}.bias", f"{name}/bias"))
        )
    )
