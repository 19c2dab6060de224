"""What UniWeTok's recipes share: the words of `get_config(arg)`, the models, the data.

`arg` is words with commas between; each recipe adds its own:

    tokenizer.py:weights=/mnt/ckpts      where the published checkpoints lie (default: ckpts)
    tokenizer.py:data=/mnt/sets          where the data lies (default: data)
    tokenizer.py:tiny                    a model of a few thousand parameters and two steps, to try the path
"""

from ml_collections import ConfigDict

OPTIONS = {"data": "data", "weights": "ckpts"}

# BitDance's generators: width, layers, heads, head blocks, adaptive-norm layers.
GENERATORS = {"B": (768, 24, 12, 6, 2), "L": (1024, 32, 16, 8, 2), "H": (1280, 40, 20, 12, 3)}

# (height, width) of the pictures that the text-to-image models draw: those of 1024^2 pixels, then those of 512^2.
LARGE = (
    (1024, 1024), (2048, 512), (1920, 512), (1536, 640), (1280, 768), (1152, 896),
    (896, 1152), (768, 1280), (640, 1536), (512, 1920), (512, 2048),
)  # fmt: skip
SMALL = ((512, 512), (1024, 256), (896, 256), (640, 384), (384, 640), (256, 896), (256, 1024))


def read(arg: str, flags: tuple[str, ...], options: dict[str, str] | None = None) -> tuple[frozenset[str], dict]:
    """The flags and the options of an `arg`; an unknown word raises ValueError."""
    found, values = set(), {**OPTIONS, **(options or {})}
    flags = ("tiny", *flags)
    for word in filter(None, arg.split(",")):
        name, equals, value = word.partition("=")
        if equals and name in values:
            values[name] = value
        elif not equals and name in flags:
            found.add(name)
        else:
            raise ValueError(f"no such word {word!r}; known: {', '.join((*flags, *(f'{o}=...' for o in values)))}")
    return frozenset(found), values


def hybrid(tiny: bool, **changes) -> ConfigDict:
    """UniWeTok's tokenizer: 32 pixels a token, 128 bits."""
    if tiny:
        small = dict(
            channels=16, multipliers=(1, 1, 2), res_blocks=1, z_channels=16, bit_groups=2, attn_blocks=1, heads=2
        )
        return ConfigDict({**small, **changes})
    return ConfigDict({"remat": True, **changes})


def bitdance_ae(tiny: bool) -> ConfigDict:
    """The tokenizer of BitDance's released generators: 16 pixels a token, 32 bits, a plain decoder."""
    if tiny:
        return ConfigDict(
            dict(kind="conv", channels=16, multipliers=(1, 1, 2), res_blocks=1, z_channels=16, bit_groups=2,
                 attn_blocks=0, generative=False)
        )  # fmt: skip
    return ConfigDict(
        dict(kind="conv", channels=256, multipliers=(1, 1, 2, 2, 4), res_blocks=4, z_channels=32, bit_groups=4,
             attn_blocks=0, generative=False)
    )  # fmt: skip


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
