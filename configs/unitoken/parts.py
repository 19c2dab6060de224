"""What UniToken's recipes share: the words of `get_config(arg)`, the model, the optimizer, the way rows are filled.

`arg` is words with commas between:

    base_stage2.py                       the release's settings
    base_stage2.py:paper                 where the paper says otherwise, the paper's
    base_stage2.py:packed                several examples a row
    base_stage2.py:bucketed              one a row as released, batches of similar length in rows of few lengths
    base_stage2.py:data=/mnt/sets        where the JSONL files of mixtures.py lie (default: data)
    base_stage2.py:weights=/mnt/ckpts    where the published checkpoints lie (default: ckpts)
    base_stage2.py:tiny                  a model of a few thousand parameters and two steps, to try the path; on
                                         handwritten digits, where no data= is given
"""

from ml_collections import ConfigDict

from unitok_jax.systems.unitoken.config import RELEASED_CANVASES
from unitok_jax.systems.unitoken.config import RELEASED_PROMPT as PROMPT

FLAGS = ("paper", "packed", "bucketed", "tiny")
OPTIONS = {"data": "data", "weights": "ckpts"}
TOWER = "^vit/(?!embeddings/|head/)"  # patch and position embeddings stay frozen; the pooling head is not used


def read(arg: str) -> tuple[frozenset[str], dict[str, str]]:
    """The flags and the options of an `arg`, `data` empty where digits stand in; an unknown word raises ValueError."""
    flags, options = set(), {}
    for word in filter(None, arg.split(",")):
        name, equals, value = word.partition("=")
        if equals and name in OPTIONS:
            options[name] = value
        elif not equals and name in FLAGS:
            flags.add(name)
        else:
            raise ValueError(f"no such word {word!r}; known: {', '.join((*FLAGS, *(f'{o}=...' for o in OPTIONS)))}")
    if {"packed", "bucketed"} <= flags:
        raise ValueError("packed and bucketed exclude each other")
    if "tiny" in flags:
        options = {"data": "", **options}
    return frozenset(flags), {**OPTIONS, **options}


def model(flags: frozenset[str], weights: str, anyres: bool) -> ConfigDict:
    """`config.model`: Chameleon-7B, SigLIP-SO400M/14 at 384, Chameleon's VQGAN at 512, or all of them tiny."""
    config = ConfigDict(_tiny_parts() if "tiny" in flags else _released_parts(weights))
    config.canvases = RELEASED_CANVASES if anyres else ()
    return config


def _released_parts(weights: str) -> dict:
    return dict(
        image_size=512,
        vqgan=dict(resolution=512, codebook_size=8192),
        vit=dict(image_size=384, patch_size=14, remat=True, dtype="bfloat16"),
        lm=dict(
            vocab_size=65536,
            width=4096,
            ffn=11008,
            layers=32,
            heads=32,
            kv_heads=32,
            head_dim=128,
            qk_norm="layernorm",
            dropout=0.05,
            remat=True,
            dtype="bfloat16",
        ),
        vocabulary=f"{weights}/chameleon/tokenizer/text_tokenizer.json",
    )


def _tiny_parts() -> dict:
    return dict(
        image_size=16,
        vqgan=dict(
            channels=8,
            multipliers=(1, 1, 2),
            res_blocks=1,
            z_channels=8,
            embed_dim=4,
            codebook_size=256,
            resolution=16,
            groups=4,
        ),
        vit=dict(width=16, ffn=16, layers=1, heads=2, image_size=16, patch_size=8),
        lm=dict(
            vocab_size=704,
            width=16,
            ffn=16,
            layers=1,
            heads=2,
            kv_heads=2,
            head_dim=8,
            qk_norm="layernorm",
            dropout=0.05,
        ),
    )


def rows(flags: frozenset[str], anyres: bool, captions: bool) -> dict:
    """How rows are filled: `config.stage_options`, without what is trained.

    The release cuts ids at 4096 and pads to the longest row of the batch: SEP and 729 (AnyRes: at most 3699) features
    come on top. Here the longest row has room for that, in whole blocks of 128.

    No more than those 4096 ids of an example are ever learnt, for features are not predicted. With `captions`, where
    every example reads a picture, 1,061 of them are the picture's (3 of its head, 32 x 33 codes and newlines, SEP and
    EOI), of which SEP alone is learnt: 3,072 leave room for the rest.
    """
    longest, shorter = (7808, (4992, 5504, 6016)) if anyres else (4864, (1920, 2048, 2432, 3072))
    learnt = 3072 if captions else 4096
    if "tiny" in flags:
        longest, shorter, learnt = 256, (128, 192), 160
    options = dict(row_length=longest, images=1, z_loss=1e-5, loss_positions=learnt)
    if "packed" in flags:
        options |= dict(pack=True, images=3)
    if "bucketed" in flags:
        options |= dict(row_lengths=shorter)
    if "paper" in flags:
        options |= dict(targets="paper", z_loss=0.0)
    return options


def data(flags: frozenset[str], train: list[dict], folder: str, packed_batch: int) -> dict:
    """`config.data`: 128 examples a step; under packing the rows that hold about as many.

    Batches of similar length need every record's length before the first step; what was measured is kept in `folder`.
    """
    batch = packed_batch if "packed" in flags else 128
    order = dict(order="clustered", index=f"{folder}/lengths" if folder else None) if "bucketed" in flags else {}
    train = train if folder else digits(train)
    batch, workers = (2, 0) if "tiny" in flags else (batch, 8)
    return dict(train=train, batch_size=batch, workers=workers, **order)


def digits(train: list[dict]) -> list[dict]:
    """Handwritten digits in the place of a mixture's sets: to read and, where it has such, to draw."""
    entries = [dict(kind="digits", task="caption", split="train")]
    if any(each["task"] == "generate" for each in train):
        entries.append(dict(kind="digits", task="generate", split="train", prompts=[PROMPT]))
    return entries


def optimizer(lr: float, tower_scale: float, epoch: float) -> dict:
    """`config.optimizer`: AdamW with decay on everything, 0.01 epoch of warm-up, half a cosine down to 0."""
    return dict(
        lr=lr,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.1,
        decay_all=True,
        clip=4.0,
        schedule=dict(name="cosine", warmup=0.01 * epoch),
        groups=[dict(match="^vit/", lr_scale=tower_scale)],
    )


def stage(flags: frozenset[str], config: ConfigDict) -> ConfigDict:
    """What both stages have in common beside the above, and what `tiny` changes."""
    config.system, config.stage, config.seed = "unitoken", "lm", 0
    config.compute_dtype = "bfloat16"
    config.mesh = dict(data=1, fsdp=-1)
    config.log_every, config.checkpoint_every, config.keep = 10, 1000, 2
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=512),
        draw=dict(
            text=dict(top_k=5),
            image=dict(top_k=4000),
            guidance=5.5 if "paper" in flags else 3.0,
            max_steps=1536,
        ),
        chat=dict(text=dict(top_k=5), image=dict(top_k=2000), max_steps=2048),
        prompts=dict(generate=PROMPT),
        batch_size=8,
    )
    if "tiny" in flags:
        config.steps, config.compute_dtype = 2, "float32"
        config.optimizer.schedule.warmup = 1.0
        config.log_every = 1
        config.fresh, config.init_from = ("lm", "vit", "adapter", "vqgan"), {}
        config.inference.read.max_steps = 4
        config.inference.draw.max_steps = config.inference.chat.max_steps = 40
    return config
