"""A golden's DualToken: its config from the reference's."""

from unitok_jax.backbones.pixel_decoder import PixelDecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.quantizers.residual import ResidualConfig
from unitok_jax.systems.dualtoken.config import DualTokenConfig


def tokenizer_config(given, **more):
    """The config of a ``tokenizer_eval`` or ``train_step`` case."""
    net, vision, text = given["rqvaesiglip"], given["siglip_vision"], given["siglip_text"]
    ema = given.get("ema_vectors", "per_depth")
    return DualTokenConfig(
        vit=SiglipConfig(
            width=vision["hidden"],
            ffn=vision["inter"],
            layers=vision["layers"],
            heads=vision["heads"],
            eps=given.get("layer_norm_eps", 1e-6),
            image_size=vision["image"],
            patch_size=vision["patch"],
        ),
        text=SiglipTextConfig(
            width=text["hidden"],
            ffn=text["inter"],
            layers=text["layers"],
            heads=text["heads"],
            eps=given.get("layer_norm_eps", 1e-6),
            vocab_size=text["vocab"],
            max_length=text["maxpos"],
            projection=vision["hidden"],
        ),
        layer_recon=net["layer_recon"],
        layer_shortcut=net["layer_shortcut"],
        layer_sem=net["layer_sem"],
        weight_shortcut=net["weight_shortcut"] or 0.0,
        pix=quantizer(net["vq_pix"], ema),
        sem=quantizer(net["vq_sem"], ema),
        decoder=decoder(net),
        prequant_sem=given.get("prequant_sem", True),
        postquant_causal=given.get("postquant_causal", True),
        **more,
    )


def quantizer(vq, ema_vectors):
    (height, width, features), (rows, columns, depth) = vq["latent_shape"], vq["code_shape"]
    return ResidualConfig(
        features=features,
        size=vq["n_embed"],
        depth=depth,
        kind=vq["bottleneck_type"],
        ema_vectors=ema_vectors,
        decay=vq["decay"],
        restart=vq["restart_unused_codes"],
        shared=vq["shared_codebook"],
        merge=(height // rows, width // columns),
    )


def decoder(net):
    conv = net["ddconfig"]
    return PixelDecoderConfig(
        latent_shape=tuple(net["decoder_latent_shape"]) if net["decoder_latent_shape"] else None,
        in_channels=conv["decoder_in_channels"],
        channels=conv["ch"],
        multipliers=tuple(conv["ch_mult"]),
        res_blocks=conv["num_res_blocks"],
        attn_resolutions=tuple(conv["attn_resolutions"]),
        resolution=conv["resolution"],
        out_channels=conv["out_ch"],
    )
