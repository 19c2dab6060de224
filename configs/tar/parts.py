"""What Tar's recipes share: the words of `get_config(arg)`, the models, the optimizers, where data and weights lie.

`arg` is words with commas between:

    pretrain.py:7b                   the larger language model (default: 1.5B)
    ar.py:512                        the resolution, where a recipe has several (default: 256)
    ar.py:data=/mnt/sets             where the WebDataset shards and JSONL files lie (default: data)
    ar.py:weights=/mnt/ckpts         where the published checkpoints lie (default: ckpts)
    ar.py:tiny                       a model of a few thousand parameters and two steps, to try the path

Schedules count their warm-up in steps; the paper gives it in epochs of one pass over the data.
"""

from ml_collections import ConfigDict

OPTIONS = {"data": "data", "weights": "ckpts"}


def read(arg: str, *flags: str) -> tuple[frozenset[str], dict[str, str]]:
    """The flags and the options of an `arg`; an unknown word raises ValueError."""
    known, found, options = ("tiny", *flags), set(), dict(OPTIONS)
    for word in filter(None, arg.split(",")):
        name, equals, value = word.partition("=")
        if equals and name in OPTIONS:
            options[name] = value
        elif not equals and name in known:
            found.add(name)
        else:
            raise ValueError(f"no such word {word!r}; known: {', '.join((*known, *(f'{o}=...' for o in OPTIONS)))}")
    return frozenset(found), options


def ta_tok(flags: frozenset[str]) -> dict:
    """`config.model.ta_tok`: SigLIP2-SO400M/14 at 384 and the released decoder, or a small one."""
    if "tiny" in flags:
        return dict(
            encoder=dict(width=16, ffn=16, layers=2, heads=2, image_size=24, patch_size=4),
            decoder=dict(
                width=16,
                ffn=16,
                layers=1,
                heads=2,
                image_size=4,
                patch_size=1,
                channels=12,
                position_resize="bilinear_antialias",
            ),
            codebook_size=256,
        )
    half = dict(dtype="bfloat16", remat=True)
    decoder = dict(
        ffn=3072,
        layers=3,
        heads=12,
        image_size=16,
        patch_size=1,
        channels=1536,
        position_resize="bilinear_antialias",
    )
    return dict(encoder=half, decoder={**decoder, **half})


def lm(flags: frozenset[str]) -> dict:
    """`config.model.lm`: Qwen2.5 with Tar's vocabulary."""
    if "tiny" in flags:
        return dict(
            vocab_size=640,
            width=16,
            ffn=16,
            layers=1,
            heads=2,
            kv_heads=2,
            head_dim=8,
            qkv_bias=True,
            tied_embeddings=True,
        )
    shared = dict(
        vocab_size=217206,
        layers=28,
        head_dim=128,
        rope_theta=1e6,
        norm_eps=1e-6,
        qkv_bias=True,
        remat=True,
        dtype="bfloat16",
    )
    if "7b" in flags:
        return dict(shared, width=3584, ffn=18944, heads=28, kv_heads=4)
    return dict(shared, width=1536, ffn=8960, heads=12, kv_heads=2, tied_embeddings=True)


def vq(flags: frozenset[str], side: int) -> dict:
    """`config.model.vq`: LlamaGen's VQ-VAE, which gives a code for 16 x 16 pixels."""
    if "tiny" in flags:
        return dict(
            channels=8,
            multipliers=(1, 2),
            res_blocks=1,
            z_channels=8,
            embed_dim=4,
            codebook_size=64,
            attn_resolutions=(side // 2,),
            resolution=side,
            groups=4,
            l2_norm=True,
        )
    return dict(
        embed_dim=8,
        codebook_size=16384,
        attn_resolutions=(side // 16,),
        resolution=side,
        l2_norm=True,
        dtype="bfloat16",
    )


def ar(flags: frozenset[str], side: int) -> dict:
    """`config.model.ar`: the released size, LP, for pictures of `side` pixels."""
    if "tiny" in flags:
        return dict(
            layers=2,
            heads=2,
            width=16,
            multiple_of=16,
            codes=64,
            condition=16,
            condition_tokens=36,
            tokens=(side // 2) ** 2,
        )
    return dict(tokens=(side // 16) ** 2, remat=True, dtype="bfloat16")


def sana(flags: frozenset[str]) -> tuple[dict, dict]:
    """`config.model.sana` and `config.model.vae`: SANA-0.6B and DC-AE."""
    if "tiny" in flags:
        model = dict(
            channels=4, out_channels=4, heads=2, head_dim=8, cross_heads=2, cross_head_dim=8, layers=1, caption=16
        )
        side = dict(blocks=("ResBlock", "EfficientViTBlock"), widths=(8, 8), layers=(1, 1), kernels=((), (3,)))
        both = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()}
        return model, dict(latent=4, head_dim=4, **both)
    return dict(remat=True, dtype="bfloat16"), dict()


def pictures(folder: str, *shards: str) -> list[dict]:
    """Sources of pictures alone, for the tokenizers."""
    return [dict(kind="webdataset", path=f"{folder}/{name}/*.tar", task="image") for name in shards]


def digits(task: str) -> list[dict]:
    """What `tiny` trains on."""
    return [dict(kind="digits", task=task, split="train", size=16)]


def finish(flags: frozenset[str], config: ConfigDict, batch: int, steps: int) -> ConfigDict:
    """What all recipes have in common, and what `tiny` changes."""
    config.system, config.seed = "tar", 0
    config.compute_dtype = "bfloat16"
    config.mesh = dict(data=1, fsdp=-1)
    config.steps = steps
    config.data.batch_size, config.data.workers = batch, 8
    config.log_every, config.checkpoint_every, config.keep = 10, 1000, 2
    if "tiny" in flags:
        config.steps, config.compute_dtype = 2, "float32"
        config.data.batch_size, config.data.workers = 2, 0
        config.log_every = config.checkpoint_every = 1
        config.fresh = (*config.get("fresh", ()), *config.get("init_from", {}))
        config.init_from, config.start = dict(), dict()
    return config
