"""What UniWeTok's recipes share: the words of `get_config(arg)`, the models, the data.

`arg` is words with commas between; each recipe adds its own:

    tokenizer.py:weights=/mnt/ckpts      where the published checkpoints lie (default: ckpts)
    tokenizer.py:data=/mnt/sets          where the data lies (default: data)
    tokenizer.py:bitdance                BitDance's tokenizer d16c32: 16 pixels and 32 bits a token, a plain decoder
    tokenizer.py:d32c128  d32c256        its tokenizers of 32 pixels and 128 or 256 bits a token
    tokenizer.py:tiny                    a model of a few thousand parameters and two steps, to try the path
"""

from ml_collections import ConfigDict

OPTIONS = {"data": "data", "weights": "ckpts"}

# BitDance's generators: width, layers, heads, head blocks, adaptive-norm layers.
GENERATORS = {"B": (768, 24, 12, 6, 2), "L": (1024, 32, 16, 8, 2), "H": (1280, 40, 20, 12, 3)}

# BitDance's convolutional tokenizers by the word that takes one: the published file and its sizes. Those of d32c256's
# network are known from its ae_config.json alone; here they are d32c128's.
_D32 = dict(channels=128, multipliers=(1, 1, 2, 2, 4, 8), res_blocks=4)
AES = {
    "bitdance": (
        "ae_d16c32",
        dict(channels=256, multipliers=(1, 1, 2, 2, 4), res_blocks=4, z_channels=32, bit_groups=4, generative=False),
    ),
    "d32c128": ("ae_d32c128", dict(z_channels=128, bit_groups=16, **_D32)),
    "d32c256": ("ae_d32c256", dict(z_channels=256, bit_groups=32, **_D32)),
}


def read(arg: str, flags: tuple[str, ...], options: dict[str, str] | None = None) -> tuple[frozenset[str], dict]:
    """The flags and the options of an `arg`; an unknown word raises ValueError."""
    found, values = set(), {**OPTIONS, **(options or {})}
    flags = ("tiny", *AES, *flags)
    for word in filter(None, arg.split(",")):
        name, equals, value = word.partition("=")
        if equals and name in values:
            values[name] = value
        elif not equals and name in flags:
            found.add(name)
        else:
            raise ValueError(f"no such word {word!r}; known: {', '.join((*flags, *(f'{o}=...' for o in values)))}")
    return frozenset(found), values


def vae(flags: frozenset[str], tiny: bool, **changes) -> ConfigDict:
    """`config.model.vae`: UniWeTok's tokenizer (32 pixels a token, 128 bits), or the one that a word of `AES` names."""
    name = next((word for word in AES if word in flags), None)
    if tiny:
        small = dict(channels=16, multipliers=(1, 1, 2), res_blocks=1, z_channels=16, bit_groups=2)
        conv = dict(kind="conv", attn_blocks=0, generative=name != "bitdance")
        return ConfigDict({**small, **(conv if name else dict(attn_blocks=1, heads=2)), **changes})
    own = dict(kind="conv", attn_blocks=0, **AES[name][1]) if name else {}
    return ConfigDict({**own, "remat": True, "dtype": "bfloat16", **changes})


def published_vae(flags: frozenset[str], weights: str) -> str:
    """Where a frozen tokenizer comes from: its published file, or the run of UniWeTok's own."""
    name = next((word for word in AES if word in flags), None)
    return f"{weights}/bitdance/{AES[name][0]}.safetensors" if name else "runs/uniwetok/tokenizer"


def factor(vae: ConfigDict) -> int:
    """Pixels a side of a token."""
    return 2 ** (len(vae.get("multipliers", (1, 1, 2, 2, 4, 8))) - 1)


def pictures(kind: str, data: str, tiny: bool, **options) -> dict:
    """A source of pictures: `kind` names a folder of WebDataset shards below `data`."""
    if tiny:
        return dict(kind="digits", task="image", size=32, **options)
    return dict(kind="webdataset", task="image", path=f"{data}/{kind}/*.tar", **options)


def finish(config: ConfigDict, tiny: bool) -> ConfigDict:
    """What all recipes end with."""
    config.seed = 0
    config.mesh = dict(data=1, fsdp=-1)
    config.log_every, config.checkpoint_every = (1, 2) if tiny else (50, 5000)
    if tiny:
        config.steps, config.data.batch_size = 2, 2
    return config
