"""Scenes of one to four digits: a UniToken that describes, answers, draws and edits them, judged exactly.

    unitok train --config configs/demo/scenes.py:tokenizer --workdir runs/scenes/tokenizer
    unitok train --config configs/demo/scenes.py:lm        --workdir runs/scenes/lm
    unitok evaluate --workdir runs/scenes/lm --suite digit_scenes

Pictures are 32 x 32: 8 x 8 codes, 4 x 4 features of a tower that learns with the language model. Only its first steps
were run here (tests/evaluation/test_digit_scenes_suite.py): there is no figure to expect yet.
"""

from ml_collections import ConfigDict

from configs.demo import common

SIZE = 32
GENERATE = ("Generate an image of {caption}",)


def get_config(arg: str = "lm") -> ConfigDict:
    return {"tokenizer": _tokenizer, "lm": _lm}[arg]()


def _source(task: str, weight: float = 1.0, split: str = "train", **options) -> dict:
    return dict(kind="digit_scenes", task=task, split=split, weight=weight, **options)


def _common(stage: str) -> ConfigDict:
    config = ConfigDict()
    config.system, config.stage = "unitoken", stage
    config.seed = 0
    config.model = common.model()
    config.model.image_size = config.model.vqgan.resolution = config.model.vit.image_size = SIZE
    config.log_every, config.checkpoint_every = 50, 500
    return config


def _optimizer(lr: float) -> dict:
    schedule = dict(name="cosine", warmup=100, floor=0.02)
    return dict(lr=lr, betas=(0.9, 0.95), weight_decay=0.05, clip=1.0, schedule=schedule)


def _tokenizer() -> ConfigDict:
    config = _common("vqgan")
    config.stage_options = dict(l2=1.0, codebook=1.0, commitment=0.25, restart_every=20, restart_until=600)
    config.data = dict(train=[_source("image")], batch_size=32)
    config.steps, config.optimizer = 1000, _optimizer(3e-3)
    config.fresh = ("vqgan",)
    return config


def _lm() -> ConfigDict:
    config = _common("lm")
    config.stage_options = dict(
        row_length=208,
        pack=True,
        images=3,
        pictures=3,
        answer_features=False,
        code_dropout=0.2,
        feature_dropout=0.1,
        condition_dropout=0.1,
    )
    asked = dict(prompts=GENERATE, fields=dict(caption="request"))
    config.data = dict(
        train=[
            _source("caption", weight=0.2),
            _source("question", weight=0.2),
            _source("generate", weight=0.2, prompts=GENERATE),
            _source("generate", weight=0.3, **asked),
            _source("edit", weight=0.1),
        ],
        validation=dict(
            captions=[_source("caption", split="held_out", count=300)],
            drawings=[_source("generate", split="held_out", count=300, **asked)],
        ),
        batch_size=16,
    )
    config.steps, config.optimizer = 4000, _optimizer(2e-3)
    config.eval_every = 1000
    config.init_from = dict(vqgan="runs/scenes/tokenizer")
    config.fresh = ("lm", "adapter", "vit")
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=96),
        draw=dict(text=dict(temperature=0.0), image=dict(temperature=0.7), guidance=2.0, max_steps=96),
        prompts=dict(generate=GENERATE[0]),
        batch_size=64,
    )
    config.evaluation = dict(prompts=16, pictures=96, edits=48)
    return config
