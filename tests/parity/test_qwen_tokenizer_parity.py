"""Qwen2.5's real ids in our vocabularies, rebuilt from the ranks that the package `dashscope` or `qwen-agent` has."""

import base64
import importlib.util
import itertools
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from unitok_jax.systems import base, qwen_tokenizer
from unitok_jax.systems.dualtoken import vocabulary as dualtoken
from unitok_jax.systems.tar import vocabulary as tar

pytestmark = pytest.mark.parity
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def ranks_file():
    """``qwen.tiktoken`` of whichever package is installed, found without importing it."""
    for package in ("dashscope", "qwen_agent"):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            yield from Path(folder).rglob("qwen.tiktoken")


def letters():
    """The printable letter that stands for each byte in a byte-level vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def merge_of(word, ranks):
    """The last merge that makes a word of its bytes: what lower ranks leave apart."""
    parts = [word[i : i + 1] for i in range(len(word))]
    while len(parts) > 2:
        found = [(ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        rank, i = min(found)
        assert rank < ranks[word]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = next(ranks_file(), None)
    if file is None:
        pytest.skip("needs qwen.tiktoken, of the package dashscope or qwen-agent")
    lines = (line.split() for line in file.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(word): int(rank) for word, rank in lines}
    assert len(ranks) == qwen_tokenizer.WORDS
    spelled = letters()

    def text(word):
        return "".join(spelled[byte] for byte in word)

    merges = [tuple(map(text, merge_of(word, ranks))) for word in sorted(ranks, key=ranks.get) if len(word) > 1]
    tokenizer = Tokenizer(models.BPE({text(word): rank for word, rank in ranks.items()}, merges))
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in qwen_tokenizer.ADDED])
    made = tmp_path_factory.mktemp("qwen") / "tokenizer.json"
    tokenizer.save(str(made))
    return str(made)


def test_tars_ids_are_the_released_ones(path):
    words = tar.load(path, 65536)
    assert words.ids == tar.TokenIds() and words.size == 217206
    assert words.encode("\n") == [198]
    assert words.encode("Hello world") == [9707, 1879]
    assert words.decode(words.encode("Zwei Füchse, 12 狐狸!")) == "Zwei Füchse, 12 狐狸!"
    assert len(words.encode("12")) == 2  # digits stand alone


def test_dualtokens_ids_are_qwens(path):
    words = dualtoken.load(path)
    assert words.ids == dualtoken.TokenIds() and words.size == 151665


def test_the_stand_in_has_the_same_special_ids(path):
    model = {"vocabulary": "weights/not-there/tokenizer.json"}
    stand_in = base.without_files("dualtoken", model)["vocabulary"]
    assert tar.load(stand_in, 65536).ids == tar.load(path, 65536).ids
    assert dualtoken.load(stand_in).ids == dualtoken.load(path).ids
