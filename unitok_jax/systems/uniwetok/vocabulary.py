"""The ids of UniWeTok's language model: Qwen's text tokens, then one for each side of a picture and each query.

Source: specification, section 8.2. ``<|res_k|>`` says a side of k tokens; ``<|query_i|>`` stand for the tokens of the
first block beside ``res_w``. They follow the text tokenizer's own ids, so embedding and head grow by their number.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from etils import epath
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from unitok_jax.errors import UserError

LARGEST = 4096  # pixels of the longest side that a resolution token can say
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
FIRST_SIDE = "<|res_1|>"
WORDS = """user assistant a an the handwritten red green blue yellow cyan magenta orange white zero one two three four
five six seven eight nine what colour which digit is it make change into to image of generate describe ? ."""


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids with a meaning. The defaults are those of Qwen3 and of a tokenizer of stride 16.

    Attributes:
        im_start, im_end: around every turn.
        vision_start, vision_end: around every picture.
        image_pad: stands at the positions of a picture's tokens; never read nor predicted.
        resolution: ``resolution + k - 1`` says a side of k tokens; follows the text ids.
        resolutions: the longest side that can be said.
        queries: P - 1 ids from ``resolution + resolutions`` on.
    """

    im_start: int = 151644
    im_end: int = 151645
    vision_start: int = 151652
    vision_end: int = 151653
    image_pad: int = 151655
    resolution: int = 151669
    resolutions: int = 256
    queries: int = 0

    @property
    def query(self) -> int:
        """The first query's id."""
        return self.resolution + self.resolutions

    def side(self, tokens: int) -> int:
        """The id that says a side.

        Raises:
            UserError: for a side that has none.
        """
        if not 1 <= tokens <= self.resolutions:
            raise UserError(f"a side of {tokens} tokens has no resolution token; the longest is {self.resolutions}")
        return self.resolution + tokens - 1

    def block(self, columns: int) -> list[int]:
        """The ids that the first P tokens of a picture are drawn from: its width and the queries."""
        return [self.side(columns), *range(self.query, self.query + self.queries)]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token ids with the text tokenizer that they belong to.

    Attributes:
        ids: the ids with a meaning.
        size: how many ids there are.
        encode: text to ids; the names of control tokens are taken out of it.
        decode: ids to text, control tokens left out.
    """

    ids: TokenIds
    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


@functools.lru_cache(maxsize=16)
def load(path: str | None, factor: int, parallel_num: int) -> Vocabulary:
    """Reads Qwen's ``tokenizer.json``, or makes a small byte-level vocabulary, and adds the tokens of pictures.

    The file of a released text-to-image model has these already, where they are to stand.

    Args:
        path: the file; None is the small one.
        factor: pixels a side of a token: sides of up to 4096 pixels can be said.
        parallel_num: tokens drawn at once.

    Raises:
        UserError: for a missing file or special token.
    """
    tokenizer = _small() if path is None else _read(path)
    known = tokenizer.get_vocab(with_added_tokens=True)
    missing = [name for name in SPECIALS if name not in known]
    if missing:
        raise UserError(
            f"{path}: lacks the token {missing[0]!r}; expected the tokenizer.json of a Qwen2 or Qwen3 model"
        )
    text = known.get(FIRST_SIDE, max(known.values()) + 1)
    ids = TokenIds(
        im_start=known["<|im_start|>"],
        im_end=known["<|im_end|>"],
        vision_start=known["<|vision_start|>"],
        vision_end=known["<|vision_end|>"],
        image_pad=known["<|image_pad|>"],
        resolution=text,
        resolutions=LARGEST // factor,
        queries=parallel_num - 1,
    )

    def encode(words: str) -> list[int]:
        for name in SPECIALS:
            words = words.replace(name, "")
        return tokenizer.encode(words, add_special_tokens=False).ids

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode([int(i) for i in tokens if i < text], skip_special_tokens=True)

    return Vocabulary(ids, ids.query + ids.queries, encode, decode)


def with_pictures(path: str, factor: int, parallel_num: int) -> str:
    """The text tokenizer's file with the tokens of pictures in it, as released models have it; see `load`."""
    tokenizer = _read(path)
    if FIRST_SIDE not in tokenizer.get_vocab(with_added_tokens=True):
        names = [f"<|res_{k}|>" for k in range(1, LARGEST // factor + 1)]
        names += [f"<|query_{i}|>" for i in range(1, parallel_num)]
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer.to_str()


def _read(path: str) -> Tokenizer:
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such tokenizer file; expected the tokenizer.json of a Qwen2 or Qwen3 model")
    return Tokenizer.from_str(file.read_text())


def _small() -> Tokenizer:
    """Bytes, and whole words of the digits demo."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        for form in (word, "Ġ" + word):
            for end in range(2, len(form) + 1):
                if form[:end] in vocab or not all(symbol in vocab for symbol in form[:end]):
                    continue
                vocab[form[:end]] = len(vocab)
                merges.append((form[: end - 1], form[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer
