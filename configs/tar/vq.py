"""The VQ-VAE behind the autoregressive de-tokenizer, trained as LlamaGen's: LPIPS, and a PatchGAN from step 20,000 on.

    unitok train --config configs/tar/vq.py --workdir runs/tar/vq

Tar takes LlamaGen's published one; this is for those who want their own. Needs pictures as WebDataset shards and
LPIPS's parts. Not run at full size.
"""

from ml_collections import ConfigDict

from configs.tar import parts


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg)
    config = ConfigDict()
    config.stage = "vq"
    side = 16 if "tiny" in flags else 256
    config.model = dict(ta_tok=parts.ta_tok(flags), vq=parts.vq(flags, side))
    config.stage_options = dict(l2=1.0, codebook=1.0, commitment=0.25)
    config.fresh = ("vq",)
    config.init_from = dict()
    if "tiny" not in flags:
        config.stage_options.update(perceptual=1.0, adversary=dict(weight=0.5, adaptive=False, start=20000))
        config.fresh = ("vq", "discriminator")
        config.init_from = dict(vgg=f"{options['weights']}/vgg16.pth", lpips=f"{options['weights']}/lpips_vgg.pth")
    train = parts.pictures(options["data"], "laion_aesthetic")
    config.data = dict(train=parts.digits("image") if "tiny" in flags else train)
    config.optimizer = dict(lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, clip=1.0)
    return parts.finish(flags, config, batch=128, steps=400_000)
