"""The language model learns to read and to draw: 100 M samples of five tasks.

    unitok train --config configs/tar/pretrain.py:1.5b --workdir runs/tar/pretrain_1.5b

Understanding, generation and text stand 2 : 2 : 1 as in the paper (`:demo` takes the 2 : 4 : 1 of the public demo, its
60,000 steps of 64 and its public sets); generation is text to image with pictures varied and edited among it. Needs
TA-Tok and Qwen2.5-1.5B or -7B Instruct, whose tables are grown as they are read. Not run at full size.
"""

from ml_collections import ConfigDict

from configs.tar import parts
from unitok_jax.systems.tar.release import INFERENCE

VARY = ("Generate an image similar to <|image|>.",)  # the released prompt


def _mixture(folder: str, demo: bool) -> list[dict]:
    """JSONL files of conversations, as the release lists them; weights within a group follow its sizes in millions."""
    if demo:
        files = (("llava_recap_558k", 1.4), ("llava_recap_118k", 0.6), ("imagenet1k_t2i_flux", 4.0), ("magpie_1m", 1.0))
        tasks = [(name, "conversation", weight, ()) for name, weight in files]
    else:
        tasks = [
            ("recap_cc12m", "caption", 2 * 12 / 32, ()),
            ("datacomp_20m", "caption", 2 * 20 / 32, ()),
            ("synthetic_t2i_23m", "generate", 2 * 23 / 38, ("{caption}",)),
            ("synthetic_i2i", "variation", 2 * 7.5 / 38, VARY),
            ("synthetic_ti2i", "conversation", 2 * 7.5 / 38, ()),
            ("text_28m", "conversation", 1.0, ()),
        ]
    entries = []
    for name, task, weight, prompts in tasks:
        entry = dict(kind="jsonl", path=f"{folder}/{name}.jsonl", task=task, weight=weight)
        entries.append(dict(entry, prompts=prompts) if prompts else entry)
    return entries


def _tiny() -> list[dict]:
    """All five tasks on digits."""
    drawn = (("caption", {}), ("generate", dict(prompts=("{caption}",))), ("variation", dict(prompts=VARY)))
    words = tuple(dict(prompt=f"what is after {n}?", text=str(n + 1)) for n in range(9))
    return [
        *(dict(entry, **more) for task, more in drawn for entry in parts.digits(task)),
        dict(kind="digit_edits", task="edit", split="train", size=16),
        dict(kind="memory", task="text", records=words),
    ]


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, "1.5b", "7b", "demo")
    demo, tiny = "demo" in flags, "tiny" in flags
    config = ConfigDict()
    config.stage = "lm"
    config.model = dict(lm=parts.lm(flags), ta_tok=parts.ta_tok(flags))
    size = "7b" if "7b" in flags else "1.5b"
    qwen = f"{options['weights']}/Qwen2.5-{size.upper()}-Instruct"
    if not tiny:
        config.model.vocabulary = f"{qwen}/tokenizer.json"
    config.stage_options = dict(row_length=192 if tiny else 2048, pack=True, images=2 if tiny else 8, labels="released")
    config.data = dict(train=_tiny() if tiny else _mixture(options["data"], demo))
    # Rows are packed: about four examples each, so that a batch has the paper's 1024 (the demo's 64).
    batch, steps = (16, 60_000) if demo else (256, 100_000_000 // 1024)
    config.optimizer = dict(lr=5e-5, betas=(0.9, 0.999), clip=1.0, schedule=dict(name="cosine", warmup=0.03 * steps))
    config.init_from = dict(lm=qwen, ta_tok=f"{options['weights']}/ta_tok.pth")
    config.start = dict(lm=dict(name="grown", rows=152_064 if size == "7b" else 151_936))
    config.inference = ConfigDict(INFERENCE)
    config.inference.batch_size = 8
    return parts.finish(flags, config, batch, steps)
