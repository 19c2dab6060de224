"""Trains Chameleon's VQGAN tokenizer on pictures: L1, LPIPS, a PatchGAN and codebook losses, in two phases.

    unitok train --config configs/unitoken/vqgan.py --workdir runs/unitoken/vqgan

Neither UniToken nor Chameleon published how the tokenizer was trained. The network here is the released one; the
losses and rates are taming-transformers' (`imagenet_vqgan.yaml`): L1 + LPIPS, hinge PatchGAN of 3 layers from step
250,001 on with the adaptive weight times 0.8, Adam (0.5, 0.9) at 4.5e-6 a picture of the batch. Restarts of codes
that nothing takes and the moving average are ours. Not run here at full size.

`arg` is words with commas between:

    vqgan.py:images=/mnt/pictures   the folder of pictures (default: data/images); they are cropped to 512 x 512
    vqgan.py:tfds=coco_captions     a prepared TensorFlow data set in its place
    vqgan.py:weights=/mnt/ckpts     where the published files lie (default: ckpts)
    vqgan.py:finetune               from the released vqgan.ckpt on; the adversary begins at once
    vqgan.py:tiny                   the demo's network on handwritten digits, two steps, to try the path

Below `weights`: ``chameleon/tokenizer/text_tokenizer.json`` (which ids are image codes), torchvision's
``vgg16-397923af.pth`` and, as ``lpips/vgg.pth``, the linear heads of the package `lpips` (v0.1).
"""

from ml_collections import ConfigDict

from configs.demo import common

FLAGS = ("finetune", "tiny")
OPTIONS = {"images": "data/images", "tfds": "", "weights": "ckpts"}
BATCH = 32


def get_config(arg: str = "") -> ConfigDict:
    flags, options = words(arg)
    config = ConfigDict()
    config.system, config.stage, config.seed = "unitoken", "vqgan", 0
    config.model = model(options["weights"])
    config.stage_options = dict(
        l1=1.0,
        l2=0.0,
        perceptual=1.0,
        codebook=0.25,
        commitment=1.0,
        adversary=dict(discriminator=dict(kind="patch", width=64, layers=3), start=250_001, weight=0.8),
        restart_every=1000,
        restart_until=100_000,
    )
    config.data = dict(train=[source(options)], batch_size=BATCH, workers=8)
    config.steps = 500_000
    config.optimizer = dict(lr=4.5e-6 * BATCH, betas=(0.5, 0.9))
    config.ema = dict(decay=0.999)
    config.init_from = dict(vgg=f"{options['weights']}/vgg16-397923af.pth", lpips=f"{options['weights']}/lpips/vgg.pth")
    config.fresh = ("vqgan", "discriminator")
    config.mesh = dict(data=1, fsdp=-1)
    config.log_every, config.checkpoint_every = 100, 5000
    if "finetune" in flags:
        config.init_from.vqgan = f"{options['weights']}/chameleon/tokenizer/vqgan.ckpt"
        config.fresh = ("discriminator",)
        config.stage_options.restart_every = config.stage_options.adversary.start = 0
    return tiny(config) if "tiny" in flags else config


def model(weights: str) -> dict:
    """The released UniToken; of its parts this stage makes the VQGAN alone."""
    lm = dict(vocab_size=65536, width=4096, ffn=11008, layers=32, heads=32, kv_heads=32, head_dim=128)
    return dict(
        image_size=512,
        vqgan=dict(resolution=512, codebook_size=8192),
        vit=dict(image_size=384, patch_size=14),
        lm=lm | dict(qk_norm="layernorm"),
        vocabulary=f"{weights}/chameleon/tokenizer/text_tokenizer.json",
    )


def words(arg: str) -> tuple[frozenset[str], dict[str, str]]:
    """The flags and the options of an `arg`; an unknown word raises ValueError."""
    pairs = [word.partition("=") for word in filter(None, arg.split(","))]
    for name, equals, _ in pairs:
        if name not in (OPTIONS if equals else FLAGS):
            known = ", ".join((*FLAGS, *(f"{option}=..." for option in OPTIONS)))
            raise ValueError(f"no such word {name + equals!r}; known: {known}")
    return frozenset(n for n, equals, _ in pairs if not equals), OPTIONS | {n: v for n, equals, v in pairs if equals}


def source(options: dict[str, str]) -> dict:
    """Where the pictures come from: a folder, or a data set of tfds."""
    if options["tfds"]:
        return dict(kind="tfds", task="image", name=options["tfds"], split="train")
    return dict(kind="folder", task="image", path=options["images"])


def tiny(config: ConfigDict) -> ConfigDict:
    """The same losses on the demo's network, with a random VGG of few channels, which still tells pictures apart."""
    config.model = common.model()
    config.data = dict(train=[common.source("image")], batch_size=4)
    config.stage_options.vgg_widths = (4, 4, 4, 4, 4)
    config.stage_options.adversary.discriminator = dict(kind="patch", width=8, layers=1)
    config.stage_options.adversary.start = 1
    config.steps, config.log_every, config.checkpoint_every = 2, 1, 2
    config.init_from, config.fresh = {}, ("vqgan", "vgg", "lpips", "discriminator")
    return config
