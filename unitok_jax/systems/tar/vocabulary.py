"""Tar's vocabulary: a Qwen2.5 text tokenizer, then two image tags, the scales, and one id for each visual code."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from unitok_jax.errors import UserError
from unitok_jax.systems.qwen_tokenizer import tokenizer_file

TINY = pathlib.Path(__file__).parent / "assets" / "tiny_tokenizer.json"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IMAGE_TAGS = ("<im_start>", "<im_end>")


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids with a meaning. The defaults are those that the released code gives over Qwen2.5's tokenizer.

    Attributes:
        end_of_text: stands for padding.
        turn_start, turn_end: around every message.
        newline: the lone newline, which ends a message's header and the message.
        image_start, image_end: around a picture that is an answer.
        scale, scales: ``scale + k`` announces a picture at pool scale k + 1.
        code_offset, codes: visual code c has id ``code_offset + c``.
    """

    end_of_text: int = 151643
    turn_start: int = 151644
    turn_end: int = 151645
    newline: int = 198
    image_start: int = 151665
    image_end: int = 151666
    scale: int = 151667
    scales: int = 3
    code_offset: int = 151670
    codes: int = 65536

    @property
    def size(self) -> int:
        """Rows of the embedding table: 217,206 as released."""
        return self.code_offset + self.codes


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token ids with the text tokenizer that they belong to.

    Attributes:
        ids: the ids with a meaning.
        encode: text to ids; the tokenizer's own special tokens in it become theirs.
        decode: ids of text to text, special tokens left out.
    """

    ids: TokenIds
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]

    @property
    def size(self) -> int:
        """Rows of the embedding table that stand for an id."""
        return self.ids.size


@functools.lru_cache(maxsize=8)
def load(path: str | None, codes: int, scales: int = 3) -> Vocabulary:
    """Reads a tokenizer JSON: Qwen2.5's own, or a Tar checkpoint's; None is the small bundled one.

    What the released code adds (``<im_start> <im_end> <S0> .. <I0> ..``) is appended where the file lacks it.

    Args:
        path: a Hugging Face tokenizers JSON, or a hub id.
        codes: visual codes.
        scales: pool scales.

    Raises:
        UserError: for a missing file or special token, or added tokens whose ids are not the checkpoint's.
    """
    file = tokenizer_file(path) if path else TINY
    tokenizer = Tokenizer.from_str(file.read_text())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    missing = [name for name in SPECIALS if name not in vocab]
    if missing:
        raise UserError(f"{file}: lacks the token {missing[0]!r}, which begins and ends Tar's messages")
    newline = tokenizer.encode("\n", add_special_tokens=False).ids
    if len(newline) != 1:
        raise UserError(f"{file}: a newline is {len(newline)} tokens; Tar's labels need it to be one")
    added = [*IMAGE_TAGS, *(f"<S{k}>" for k in range(scales)), "<I0>"]
    start = vocab.get(added[0], max(vocab.values()) + 1)
    _check_added(vocab, added, start, codes, str(file))
    ids = TokenIds(
        *(vocab[name] for name in SPECIALS),
        newline=newline[0],
        image_start=start,
        image_end=start + 1,
        scale=start + 2,
        scales=scales,
        code_offset=start + 2 + scales,
        codes=codes,
    )
    return Vocabulary(ids, functools.partial(_encode, tokenizer), functools.partial(_decode, tokenizer, start))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids if text else []


def _decode(tokenizer: Tokenizer, end: int, ids: Sequence[int]) -> str:
    return tokenizer.decode([i for i in ids if i < end], skip_special_tokens=True)


def _check_added(vocab: dict[str, int], added: Sequence[str], start: int, codes: int, where: str) -> None:
    """Asserts that what the file has of the added tokens has consecutive ids in the released order."""
    wanted = {name: start + i for i, name in enumerate(added)}
    wanted[f"<I{codes - 1}>"] = start + len(added) - 1 + codes - 1
    for name, id_ in wanted.items():
        if vocab.get(name, id_) != id_:
            raise UserError(
                f"{where}: {name} has id {vocab[name]}, the checkpoint's is {id_}; "
                "take the tokenizer that belongs to the checkpoint"
            )
    if f"<I{codes}>" in vocab:
        raise UserError(f"{where}: has a token <I{codes}>, but config.model.ta_tok.codebook_size is {codes}")


def build(texts: Iterable[str], merges: int) -> Tokenizer:
    """Makes a small byte-level tokenizer with Qwen's special tokens, its merges learnt from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer
