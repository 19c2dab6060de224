"""UniToken's vocabulary: the ids that lay out images and turns, and the text tokenizer beside them.

Source: Chameleon's ``text_tokenizer.json`` and the constants of the released code (``../shared/specs``, section 7
of UniToken's). In the reserved range the id of ``<reservedNNNNN>`` is NNNNN + 4 there; here every id is looked up
by its string, so that a small vocabulary with the same strings works the same way.
"""

import dataclasses
import functools
import itertools
import pathlib
import string
from collections.abc import Callable, Iterable, Sequence

from etils import epath
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from unitok_jax.errors import UserError

TINY = pathlib.Path(__file__).parent / "assets" / "tiny_tokenizer.json"
_NAMES = {
    "bos": "<s>",
    "pad": "<pad>",
    "eos": "</s>",
    "eoi": "<eoss>",
    "boi": "<racm3:break>",
    "sep": "<sentinel:0>",
    "end_of_turn": "<reserved08706>",
    "newline": "<reserved08799>",
    "grid": "<reserved08800>",
}


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids with a meaning. The defaults are those of the released checkpoints.

    Attributes:
        bos: begins every sequence.
        pad: never part of a released sequence; stands here for a blanked code.
        eos: never part of a released sequence; a published config names it.
        boi, eoi, sep: begin of image, end of image, the separator between codes and features.
        end_of_turn: ends every question and every answer; stops decoding.
        newline: ends each row of codes (and each row of an AnyRes feature grid).
        grid: ``grid + k`` says k grid units (of two latents each) high or wide, 0 <= k < `grids`.
        code_offset, codes: image code c has id ``code_offset + c``, c < `codes`.
        image_prefix: what stands before BOI in an answer that is an image (a lone space).
        image: stands for a finished image in decoded text; lies outside the embedding table.
    """

    bos: int = 0
    pad: int = 1
    eos: int = 2
    eoi: int = 8196
    boi: int = 8197
    sep: int = 8198
    end_of_turn: int = 8710
    newline: int = 8803
    grid: int = 8804
    grids: int = 256
    code_offset: int = 4
    codes: int = 8192
    image_prefix: tuple[int, ...] = (16853,)
    image: int = 65536


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token ids with the text tokenizer that they belong to.

    Attributes:
        ids: the ids with a meaning.
        size: rows of the embedding table.
        encode: text to ids, no special tokens added.
        decode: ids to text, special tokens left out.
    """

    ids: TokenIds
    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def code_name(code: int) -> str:
    """The vocabulary's name of an image code: its decimal digits as letters, A = 0, such as ``IMGIMGBAFZ`` for 105."""
    return "IMGIMG" + "".join(string.ascii_uppercase[int(digit)] for digit in str(code)) + "Z"


def _grid_name(units: int) -> str:
    return f"<reserved{8800 + units:05d}>"


@functools.lru_cache(maxsize=8)
def load(path: str | None = None) -> Vocabulary:
    """Reads a tokenizer JSON (``text_tokenizer.json``, ``tokenizer.json``); None is the small bundled one.

    Raises:
        UserError: for a missing file, a missing special token, or image codes whose ids are not ``offset + code``.
    """
    file = epath.Path(path) if path else epath.Path(TINY)
    if not file.exists():
        raise UserError(f"{file}: no such tokenizer file; expected a Hugging Face tokenizers JSON")
    tokenizer = Tokenizer.from_str(file.read_text())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    missing = [name for name in _NAMES.values() if name not in vocab]
    if missing:
        raise UserError(f"{file}: lacks the token {missing[0]!r}, which UniToken's rows need")
    encode = functools.partial(_encode, tokenizer)
    size = max(vocab.values()) + 1
    ids = TokenIds(
        **{field: vocab[name] for field, name in _NAMES.items()},
        **_code_ids(vocab, str(file)),
        grids=next(k for k in itertools.count() if vocab.get(_grid_name(k)) != vocab[_grid_name(0)] + k),
        image_prefix=tuple(encode(" ")),
        image=size,
    )
    return Vocabulary(ids, size, encode, functools.partial(tokenizer.decode, skip_special_tokens=True))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _code_ids(vocab: dict[str, int], where: str) -> dict[str, int]:
    """Asserts that image codes have affine ids; returns their offset and count."""
    count = sum(name.startswith("IMGIMG") and name.endswith("Z") for name in vocab)
    if code_name(0) not in vocab:
        raise UserError(f"{where}: lacks the token {code_name(0)!r}, which UniToken's rows need")
    offset = vocab[code_name(0)]
    for code in range(count):
        if vocab.get(code_name(code)) != offset + code:
            raise UserError(f"{where}: image code {code} ({code_name(code)}) must have id {offset + code}")
    return {"code_offset": offset, "codes": count}


def build(texts: Iterable[str], codes: int, grid_units: int, merges: int) -> Tokenizer:
    """Makes a small vocabulary of the released layout: specials, image codes, reserved ids, then byte-level BPE.

    Args:
        texts: what the merges are learnt from; any other text falls back on bytes.
        codes: image codes.
        grid_units: the largest grid that can be said, in units of two latents.
        merges: the most text tokens beyond the 256 bytes.
    """
    specials = ["<s>", "<pad>", "</s>", "<unk>", *map(code_name, range(codes))]
    specials += ["<eoss>", "<racm3:break>", "<sentinel:0>", "<reserved08706>", "<reserved08799>"]
    specials += [_grid_name(k) for k in range(grid_units + 1)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(specials) + len(alphabet) + merges
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
