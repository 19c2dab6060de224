"""Every recipe at full size starts from files that its system's tables can read, part by part."""

from pathlib import Path

import pytest

from unitok_jax.config import load_config
from unitok_jax.errors import UserError
from unitok_jax.systems import base

CONFIGS = Path(__file__).parents[2] / "configs"
ARGS = {  # besides the recipe's own default
    "dualtoken/tokenizer": ("siglip1", "stage2"),
    "tar/ar": ("512",),
    "unitoken/vqgan": ("finetune",),
    "uniwetok/tokenizer": ("stage2", "stage3", "wetok"),
    "uniwetok/c2i": ("bitdance",),
    "uniwetok/lm": ("bitdance,P64", "chat"),
}


def recipes() -> list[str]:
    files = sorted(path for path in CONFIGS.glob("*/*.py") if path.parent.name != "demo")
    names = [f"{f.parent.name}/{f.stem}" for f in files if "def get_config" in f.read_text()]
    return [f"{name}.py:{arg}" for name in names for arg in ("", *ARGS.get(name, ()))]


@pytest.mark.parametrize("recipe", recipes())
def test_an_artefact_holds_every_published_part(recipe):
    config = load_config(str(CONFIGS / recipe))
    try:
        system = base.build(config.system, base.without_files(config.system, config.model.to_dict()))
    except UserError as error:
        if "no such" not in str(error):
            raise
        pytest.skip(f"needs a published text tokenizer: {error}")
    published = {part: place for part, place in config.init_from.items() if not place.startswith("runs/")}
    for part, place in published.items():
        wanted = place.partition("#")[2] or part
        held = [name for name, table in system.artefacts.items() if wanted in table.parts]
        assert held, f"init_from.{part} = {place}: no artefact of {config.system} holds {wanted}"
