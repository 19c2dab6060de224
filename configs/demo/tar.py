"""What the stages of Tar's demo share: a Tar small enough to train on two CPU cores in minutes.

Pictures are 16 x 16; TA-Tok gives one 16 codes of 256 at scale 1 and 4 at scale 2, the VQ-VAE 16 codes of 256.
"""

from ml_collections import ConfigDict

from configs.demo import common

source = common.source
LM_WIDTH, ROWS, TEXT = 128, 639, 376  # of the language model and its table; the first rows stand for text
WORDS = dict(name="words", rows=ROWS, used=TEXT)


def model(*parts: str) -> ConfigDict:
    """`config.model` with some of the parts ``lm``, ``text`` and ``ar`` (with ``vq``)."""
    config = ConfigDict()
    config.scales = (1, 2)
    config.constrain = True
    tower = dict(width=96, ffn=192, layers=2, heads=4, image_size=16, patch_size=4)
    decoder = dict(
        width=96,
        ffn=192,
        layers=1,
        heads=4,
        image_size=4,
        patch_size=1,
        channels=32,
        position_resize="bilinear_antialias",
    )
    config.ta_tok = dict(encoder=tower, decoder=decoder, codebook_size=256, select_layer=-1)
    if "text" in parts:
        config.text = dict(width=64, ffn=128, layers=2, heads=2, vocab_size=ROWS, max_length=6, projection=96)
    if "vq" in parts or "ar" in parts:
        config.vq = dict(
            channels=32,
            multipliers=(1, 2),
            patch=2,
            res_blocks=1,
            z_channels=64,
            embed_dim=8,
            codebook_size=256,
            resolution=16,
            groups=8,
            l2_norm=True,
        )
    if "ar" in parts:
        config.ar = dict(
            layers=2,
            heads=4,
            width=96,
            multiple_of=32,
            codes=256,
            condition=96,
            condition_tokens=16,
            tokens=16,
            dropout=0.0,
            unroll=2,
        )
        config.drawing = dict(sampling=dict(temperature=0.5), guidance=2.0)
    if "lm" in parts:
        config.lm = dict(
            vocab_size=ROWS,
            width=LM_WIDTH,
            ffn=352,
            layers=3,
            heads=4,
            kv_heads=2,
            head_dim=32,
            qkv_bias=True,
            tied_embeddings=True,
            unroll=3,
        )
    return config


def stage(name: str, batch: int, steps: int, lr: float, task: str = "image") -> ConfigDict:
    """A recipe but for its model and where its parts come from."""
    config = ConfigDict()
    config.system, config.stage, config.seed = "tar", name, 0
    config.data = dict(
        train=[source(task)], validation=dict(held_out=[source(task, split="held_out")]), batch_size=batch
    )
    config.steps = steps
    config.optimizer = dict(
        lr=lr,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip=1.0,
        schedule=dict(name="cosine", warmup=30, floor=0.02),
    )
    config.log_every, config.checkpoint_every, config.eval_every = 50, steps, steps
    return config
