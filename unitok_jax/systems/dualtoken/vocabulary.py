"""DualToken's words: Qwen2.5's tokenizer and the ids of its vocabulary that lay out turns and pictures.

No id is added: a picture stands between ``<|vision_start|>`` and ``<|vision_end|>``, one ``<|image_pad|>`` a position.
Ids are looked up by name, so that a small vocabulary with the same names works the same way.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from unitok_jax.errors import UserError
from unitok_jax.systems.qwen_tokenizer import tokenizer_file

TINY = pathlib.Path(__file__).parent / "assets" / "tiny_tokenizer.json"
NAMES = {
    "end_of_text": "<|endoftext|>",
    "turn_start": "<|im_start|>",
    "turn_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image_pad": "<|image_pad|>",
}


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids with a meaning; the defaults are Qwen2.5's.

    Attributes:
        end_of_text: stands for padding, and ends a decode.
        turn_start, turn_end: around each message.
        vision_start, vision_end: around each picture.
        image_pad: holds the place of a position of codes.
    """

    end_of_text: int = 151643
    turn_start: int = 151644
    turn_end: int = 151645
    vision_start: int = 151652
    vision_end: int = 151653
    image_pad: int = 151655

    @property
    def pad(self) -> int:
        """What a text is filled up with for a text tower."""
        return self.end_of_text


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids with the text tokenizer that they belong to.

    Attributes:
        ids: the ids with a meaning.
        size: one more than the largest id.
        encode: text to ids, no special tokens added or recognised.
        decode: ids to text, special tokens left out.
    """

    ids: TokenIds
    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


@functools.lru_cache(maxsize=8)
def load(path: str | None = None) -> Vocabulary:
    """Reads a tokenizer JSON (Qwen2.5's ``tokenizer.json``); None is the small bundled one.

    Raises:
        UserError: for a missing file or a missing special token.
    """
    tokenizer, where = read_tokenizer(path)
    known = tokenizer.get_vocab(with_added_tokens=True)
    missing = [name for name in NAMES.values() if name not in known]
    if missing:
        raise UserError(f"{where}: lacks the token {missing[0]!r}, which DualToken's rows need")
    ids = TokenIds(**{field: known[name] for field, name in NAMES.items()})

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return Vocabulary(ids, max(known.values()) + 1, encode, functools.partial(tokenizer.decode))


@functools.lru_cache(maxsize=8)
def load_text(path: str, length: int) -> tuple[Callable[[str], list[int]], int]:
    """A text tower's own tokenizer: text to at most `length` ids with its special ones, and how many ids it has.

    Raises:
        UserError: for a missing file.
    """
    tokenizer, _ = read_tokenizer(path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    known = tokenizer.get_vocab(with_added_tokens=True)
    return lambda text: tokenizer.encode(text).ids, max(known.values()) + 1


def read_tokenizer(path: str | None) -> tuple[Tokenizer, str]:
    """A tokenizer JSON, at a path or of a hub id, and its name for messages.

    Raises:
        UserError: for a missing file.
    """
    file = tokenizer_file(path) if path else TINY
    return Tokenizer.from_str(file.read_text()), str(file)


def build(texts: Iterable[str], merges: int) -> Tokenizer:
    """Makes a small vocabulary with Qwen's special names and byte-level BPE.

    Args:
        texts: what the merges are learnt from; any other text falls back on bytes.
        merges: the most text tokens beyond the 256 bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = list(NAMES.values())
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + len(alphabet) + merges,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
