"""Recipes: variants, overrides, and mistakes told in one line."""

import pytest

from unitok_jax.config import config_hash, load_config, to_json
from unitok_jax.errors import UserError

RECIPE = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

def get_config(arg=""):
    config = ConfigDict(dict(steps=10, rate=0.1, name="x", on=True, views=(1, 2), none=None))
    config.update(dict(later=placeholder(int), options=[dict(a=1)], model=dict(width=3)))
    config.lm_width = config.model.get_ref("width")
    if arg:
        config.update({"small": dict(steps=5)}[arg])
    return config
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return str(path)


def test_a_variant(recipe):
    assert load_config(recipe).steps == 10
    assert load_config(f"{recipe}:small").steps == 5


def test_overrides_keep_types_and_references(recipe):
    config = load_config(
        recipe,
        ["--config.steps=3", "--config.rate=1", "--config.on=false", "--config.name=a=b", "config.model.width=9"],
    )
    assert (config.steps, config.rate, config.on, config.name) == (3, 1.0, False, "a=b")
    assert type(config.rate) is float
    assert config.lm_width == 9


def test_overrides_of_tuples_placeholders_and_list_items(recipe):
    config = load_config(recipe, ["--config.views=(3, 4)", "--config.later=7", "--config.options[0].a=2"])
    assert (config.views, config.later, config.options[0]["a"]) == ((3, 4), 7, 2)


def test_a_config_is_locked(recipe):
    with pytest.raises(AttributeError):
        load_config(recipe).stps = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("config.stps=3", "config has no key 'stps'. Did you mean steps?"),
        ("config.model.wdth=3", "config.model has no key 'wdth'. Did you mean width?"),
        ("config.steps.k=3", "config.steps is a value, it has no keys"),
        ("config.steps", "an override reads --config.key=value"),
        ("steps=3", "an override reads --config.key=value"),
        ("config.steps=abc", "config.steps=abc"),
        ("config.steps=1.5", "config.steps=1.5"),
        ("config.on=maybe", "config.on=maybe"),
        ("config.none=3", "config.none is None and has no type"),
        ("config.options[3].a=3", "no such key or index"),
        ("config.options[0].b=3", "no such key or index"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(recipe, override, message):
    with pytest.raises(UserError) as error:
        load_config(recipe, [f"--{override}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nraise OSError('gone')\n", "recipe.py:2: the config file fails with OSError: gone"),
        ("def get_config(:\n", "recipe.py:1: the config file fails with SyntaxError"),
        ("x = 1\n", "has no function get_config"),
        ("def get_config():\n    return {}\n", "must return an ml_collections.ConfigDict, not dict"),
    ],
)
def test_a_broken_recipe_is_told_with_its_line(tmp_path, text, message):
    path = tmp_path / "recipe.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.py") as error:
        load_config(str(path))
    assert message in str(error.value)


def test_wrong_file_and_variant_names(recipe, tmp_path):
    with pytest.raises(UserError, match=r"recip\.py: no such config file. Did you mean .*recipe\.py\?"):
        load_config(str(tmp_path / "recip.py"))
    with pytest.raises(UserError, match="no variant 'smal'"):
        load_config(f"{recipe}:smal")
    (tmp_path / "plain.py").write_text("from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()\n")
    with pytest.raises(UserError, match="has no variants; drop ':x'"):
        load_config(f"{tmp_path}/plain.py:x")


def test_hash_follows_content_alone(recipe):
    config = load_config(recipe)
    assert config_hash(config) == config_hash(load_config(recipe, ["--config.steps=10"]))
    assert config_hash(config) != config_hash(load_config(recipe, ["--config.steps=11"]))
    assert to_json(config).index('"lm_width"') < to_json(config).index('"views"')


@pytest.mark.parametrize(
    ("folder", "line"),
    [("configs/mine", "from configs.mine import shared_a as shared"), ("apart", "import shared_b as shared")],
)
def test_a_recipe_imports_its_neighbours(tmp_path, folder, line):
    home = tmp_path / folder
    home.mkdir(parents=True)
    for name in ("shared_a", "shared_b"):
        (home / f"{name}.py").write_text("from ml_collections import ConfigDict\nCONFIG = ConfigDict(dict(steps=3))\n")
    (home / "recipe.py").write_text(f"{line}\n\ndef get_config():\n    return shared.CONFIG\n")
    assert load_config(str(home / "recipe.py")).steps == 3
