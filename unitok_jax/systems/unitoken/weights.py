"""The published checkpoints of UniToken and of what it starts from (specification, section 1), as tables of rules."""

from unitok_jax.backbones.decoder_lm_rules import decoder_table, meta_chameleon_table
from unitok_jax.backbones.lpips_rules import lpips_artefacts
from unitok_jax.backbones.siglip_rules import siglip_table, siglip_text_table
from unitok_jax.backbones.taming_vae_rules import chameleon_vqmodel_table, vqgan_table
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import LINEAR

_VQMODEL = Table((), {r"model\.vqmodel\..*": "the encoder of the discrete tokenizer, which is loaded from vqgan.ckpt"})
_NO_TEXT = {r"text_model\..*|logit_(scale|bias)": "the text tower, which this config has not (model.text)"}
_ADAPTER = Table(
    (
        Rule("adapter.0.weight", "adapter/fc1/kernel", LINEAR),
        Rule("adapter.0.bias", "adapter/fc1/bias"),
        Rule("adapter.2.weight", "adapter/fc2/kernel", LINEAR),
        Rule("adapter.2.bias", "adapter/fc2/bias"),
    )
)


def artefacts(config: UniTokenConfig) -> dict[str, Table]:
    """Tables by name.

    ``unitoken``: UniToken base and AnyRes, stages I and II. ``lumina_mgpt``: the LM it starts from. ``chameleon``: the
    Hugging Face conversion, LM and discrete encoder; ``chameleon_lm`` without the encoder. ``chameleon_meta``: the LM
    as Meta released it. ``vqgan``: Chameleon's ``vqgan.ckpt``. ``siglip``: both towers. ``siglip_vision``: the vision
    tower by itself. And what the tokenizer's perceptual loss reads, see `lpips_artefacts`.
    """
    lm, per_head = (decoder_table(config.lm, rows).under("", "lm/") for rows in ("groups", "heads"))
    vit = siglip_table(config.vit)
    text = siglip_text_table(config.text).under("", "text/") if config.text else Table((), _NO_TEXT)
    return {
        "unitoken": lm + vit.under("vit.", "vit/") + _ADAPTER + _VQMODEL,
        "lumina_mgpt": lm + _VQMODEL,
        "chameleon": per_head + chameleon_vqmodel_table().under("model.vqmodel.", "vqgan/"),
        "chameleon_lm": per_head + _VQMODEL,
        "chameleon_meta": meta_chameleon_table(config.lm).under("", "lm/"),
        "vqgan": vqgan_table().under("", "vqgan/"),
        "siglip": vit.under("vision_model.", "vit/") + text,
        "siglip_vision": vit.under("", "vit/"),
        **lpips_artefacts(),
    }
