"""Qwen2.5's text tokenizer: the ids that follow its 151,643 words, and a stand-in where its file is missing."""

from pathlib import Path

from etils import epath
from tokenizers import AddedToken, Tokenizer, models

from unitok_jax.errors import UserError
from unitok_jax.weights.hub import is_hub_id, locate

WORDS = 151643  # byte-pair words; the names below follow
ADDED = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
NEWLINE = 198
SPARE = 512  # rows that a published Qwen table has at most beyond its tokenizer's ids: 271 (1.5B, 3B), 399 (7B)


def tokenizer_file(place: str) -> Path | epath.Path:
    """The tokenizer JSON at a path, or of a hub id: ``owner/name``, with ``@revision`` and ``:file`` if need be.

    Raises:
        UserError: if there is neither.
    """
    if is_hub_id(place):
        return locate(place if ":" in place else f"{place}:tokenizer.json").path
    file = epath.Path(place)
    if not file.exists():
        raise UserError(f"{place}: no such tokenizer file; expected a Hugging Face tokenizer.json, or a hub id")
    return file


def stand_in() -> Tokenizer:
    """A tokenizer with Qwen2.5's special ids and its largest one, that knows no word but a newline."""
    words = {"?": 0, "\n": NEWLINE} | {name: WORDS + i for i, name in enumerate(ADDED)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ADDED])
    return tokenizer
