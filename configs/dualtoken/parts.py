"""What DualToken's recipes share: sizes of the released models, data, optimizers, and the words of their argument.

Words, separated by commas: ``256`` (the released 256-pixel model; 384 otherwise), ``siglip1`` (the paper's backbone),
``weights=DIR`` and ``data=DIR`` (where published files and data lie), ``tiny`` (sizes for a test on a CPU).
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

WIDTH = 1152
TOWER = ("^vit/", "^prequant/(?!.*attention/k/bias)", "^postquant/(?!.*attention/k/bias)", "^decoder/")


def read(arg: str, known: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """The argument's words and its ``key=value`` pairs.

    Raises:
        ValueError: for a word that the recipe does not know.
    """
    options = {"weights": "weights", "data": "data"}
    flags = set()
    for word in filter(None, arg.split(",")):
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        elif word in ("256", "siglip1", "tiny", *known):
            flags.add(word)
        else:
            raise ValueError(f"{word!r}; known: 256, siglip1, tiny, {', '.join(known)}, weights=DIR, data=DIR")
    return flags, options


def model(flags: set[str]) -> ConfigDict:
    """`config.model` of the tokenizer."""
    if "tiny" in flags:
        return tiny()
    config, small = ConfigDict(), "256" in flags
    depth, grid = (4, 16) if small else (8, 24)
    config.vit = dict(image_size=256, patch_size=16) if small else dict(image_size=384, patch_size=14)
    config.vit.update(dtype="bfloat16", remat=True)
    config.pix = dict(features=32, size=16384, depth=depth, kind="rq")
    config.sem = dict(features=32, size=16384, depth=depth, kind="rq_ema", ema_vectors="per_depth")
    config.decoder = dict(
        latent_shape=(grid, grid), attn_resolutions=(grid,), resolution=256 if small else 384, dtype="bfloat16"
    )
    config.text = dict(vocab_size=32000 if "siglip1" in flags else 256000, dtype="bfloat16")
    return config


def tiny() -> ConfigDict:
    """The same shape of things, small enough to train two steps in a test."""
    config = ConfigDict()
    config.vit = dict(width=32, ffn=48, layers=4, heads=2, image_size=16, patch_size=4)
    config.layer_recon, config.layer_shortcut, config.layer_sem = 2, 1, 3
    config.pix = dict(features=8, size=16, depth=2, kind="rq")
    config.sem = dict(features=8, size=16, depth=2, kind="rq_ema", ema_vectors="per_depth")
    config.decoder = dict(
        latent_shape=(4, 4),
        in_channels=16,
        channels=8,
        multipliers=(1, 1, 2),
        res_blocks=1,
        attn_resolutions=(4,),
        resolution=16,
        groups=4,
    )
    config.text = dict(width=16, ffn=16, layers=1, heads=2, vocab_size=380, max_length=6, projection=32)
    return config


def tower(flags: set[str], weights: str) -> str:
    """Where the published tower lies that the tokenizer starts from."""
    size = "so400m-patch16-256" if "256" in flags else "so400m-patch14-384"
    return f"{weights}/{'siglip' if 'siglip1' in flags else 'siglip2'}-{size}"


def lm(flags: set[str], config: ConfigDict, weights: str) -> ConfigDict:
    """Adds the language model, Qwen2.5-3B with its text tokenizer, to `config.model`; the text tower goes."""
    config.text = None
    if "tiny" in flags:
        config.lm = dict(vocab_size=512, width=32, ffn=48, layers=2, heads=2, kv_heads=1, head_dim=16, qkv_bias=True)
        config.head = dict(layers=2, heads=2)
        return config
    config.vocabulary = f"{weights}/Qwen2.5-3B/tokenizer.json"
    config.lm = dict(
        vocab_size=151936,
        width=2048,
        ffn=11008,
        layers=36,
        heads=16,
        kv_heads=2,
        head_dim=128,
        rope_theta=1e6,
        norm_eps=1e-6,
        qkv_bias=True,
        tied_embeddings=True,
        remat=True,
        dtype="bfloat16",
    )
    config.head = dict(layers=3, heads=16, ffn="per_depth" if "per_depth" in flags else "shared")
    return config


def pictures(flags: set[str], folder: str) -> dict:
    """`config.data` of the tokenizer: CC12M's shards, pictures alone; 256 a step, as released on 8 GPUs."""
    if "tiny" in flags:
        return dict(train=[dict(kind="digits", task="image", split="train")], batch_size=4, prefetch=0)
    train = [dict(kind="webdataset", task="image", path=f"{folder}/cc12m/*.tar")]
    return dict(train=train, batch_size=256, workers=8)


def adamw(lr: float, **more) -> dict:
    """The released tokenizer's optimizer: half a cosine after a rise over 10,000 steps whose first update moves."""
    schedule = dict(name="cosine", warmup=10_000, warmup_offset=1)
    return dict(lr=lr, betas=(0.5, 0.9), eps=1e-8, weight_decay=1e-4, schedule=schedule) | more


def stage(flags: set[str], config: ConfigDict) -> ConfigDict:
    """What all recipes end with; ``tiny`` cuts the run to two steps from nothing."""
    config.system, config.seed = "dualtoken", 0
    config.mesh = dict(data=1, fsdp=-1)
    config.log_every, config.checkpoint_every, config.eval_every = 50, 2000, 0
    if "tiny" in flags:
        config.fresh = (*config.get("fresh", ()), *config.get("init_from", {}))
        config.init_from = {}
        config.steps, config.log_every = 2, 1
    else:
        config.compute_dtype = "bfloat16"
    return config
