"""A text tokenizer of the published size where the published file is missing: enough to plan, not to train."""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from unitok_jax.systems.stand_ins import is_missing, made_up
from unitok_jax.systems.tar.config import TarConfig
from unitok_jax.systems.tar.ta_tok import TATokConfig
from unitok_jax.systems.tar.vocabulary import IMAGE_TAGS, build


def without_files(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings, its tokenizer's file made up if it is not there, with as many ids as the LM has rows."""
    if not is_missing(model, "vocabulary"):
        return model
    codes = int(model.get("ta_tok", {}).get("codebook_size", TATokConfig.codebook_size))
    scales = len(model.get("scales", TarConfig.scales))
    text = int(model["lm"]["vocab_size"]) - codes - scales - len(IMAGE_TAGS)
    return {**model, "vocabulary": made_up(f"tar {text}", lambda: _of_size(text))}


def _of_size(ids: int) -> Tokenizer:
    """A byte-level tokenizer filled up with names that no text holds."""
    tokenizer = build([], 0)
    missing = ids - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(f"<|stand_in_{i}|>", special=True) for i in range(missing)])
    return tokenizer
