"""Fine-tuning of a pretrained Tar on 4 M better samples, judgements of its own pictures among them.

    unitok train --config configs/tar/sft.py:7b --workdir runs/tar/sft_7b

LLaVA-1.5 665K, Recap 558K and 118K, Self-Reflect 340K, 1.6 M pictures to draw, Magpie 1M, each taken as often as it is
large. Self-Reflect is yes or no to whether a picture matches its prompt; how the release words it is not public. Not
run at full size.
"""

from ml_collections import ConfigDict

from configs.tar import parts, pretrain

SETS = (("llava_665k", 665), ("llava_recap_558k", 558), ("llava_recap_118k", 118), ("self_reflect_340k", 340),
        ("gen_sft_1600k", 1600), ("magpie_1m", 1000))  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    config = pretrain.get_config(arg)
    flags, options = parts.read(arg, "1.5b", "7b", "demo")
    size = "7b" if "7b" in flags else "1.5b"
    if "tiny" in flags:
        return config
    config.data.train = [
        dict(kind="jsonl", path=f"{options['data']}/{name}.jsonl", task="conversation", weight=float(count))
        for name, count in SETS
    ]
    steps = 4_000_000 // 256
    config.steps, config.data.batch_size = steps, 64
    config.optimizer.schedule.warmup = 0.03 * steps
    config.init_from, config.start = dict.fromkeys(("lm", "ta_tok"), f"runs/tar/pretrain_{size}"), dict()
    return config
