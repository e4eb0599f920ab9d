"""Text from tokens one by one: what is out begins the text of all tokens, whatever comes, and costs little."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, CTRLTokenizer, PreTrainedTokenizerFast

from mlserve_huggingface import streaming
from mlserve_huggingface.streaming import Detokenizer
from runtimes.huggingface.tests.tiny_models import byte_fallback, byte_pairs, word_pieces

TEXTS = [
    "the red fox runs , isn't it ? we 've seen they're here . ",
    "où est le café ? 漢字と 日本語 🦊😀😁 a 👩‍👩‍👧‍👦 b 🇫🇷 ",
    "do n't ' ' n ' n't '  . ' v ' ve ' ' ' ' ' ",
    "never\n\n\n        return '.'\n",
    "                        ",
    "a@@ b@ \ufffd \ufffd\ufffd x ## ##y ",
]
LETTERS = sorted({letter for text in TEXTS[:3] for letter in text if letter.isascii()} - {" "})


def metaspace() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer such as T5's or XLNet's."""
    words = [(f"▁{word}", -3.0) for word in ("the", "red", "fox", "it", "n't", "'ve", ".", "?")]
    letters = [(letter, -6.0) for letter in ["▁", *LETTERS, "漢", "字", "🦊"]]
    tokenizer = Tokenizer(models.Unigram([("<unk>", -20.0), *words, *letters], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<pad>")


def gemma() -> PreTrainedTokenizerFast:
    """Byte fallback that keeps the first space, and tokens that are not in the text if special ones are skipped."""
    tokenizer = byte_fallback()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens([AddedToken("<turn>", special=True), AddedToken("<tool>", special=False)])
    return tokenizer


def ends_of_words() -> PreTrainedTokenizerFast:
    """BPE whose words end in "</w>", such as the first GPT's."""
    tokens = ["<unk>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    model = models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=[], unk_token="<unk>")
    model.end_of_word_suffix = "</w>"
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")


def parts_of_words(folder: Path) -> Any:
    """Words in parts that end in "@@", by a tokenizer written in Python."""
    tokens = ["<unk>", *LETTERS, *(f"{letter}@@" for letter in LETTERS)]
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {
        "byte pairs": byte_pairs(),
        "byte fallback": byte_fallback(),
        "gemma": gemma(),
        "word pieces": word_pieces(),
        "metaspace": metaspace(),
        "ends of words": ends_of_words(),
        "bytes in Python": ByT5Tokenizer(extra_ids=0),
        "parts of words": parts_of_words(tmp_path_factory.mktemp("ctrl")),
    }
    assert made.keys() == set(KINDS)
    return made


KINDS = [
    "byte pairs", "byte fallback", "gemma", "word pieces", "metaspace", "ends of words", "bytes in Python",
    "parts of words",
]  # fmt: skip


def decoder(tokenizer: Any, cleanup: bool, skip: bool = True) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=cleanup))

    return decode


def some_tokens(tokenizer: Any, chance: random.Random) -> list[int]:
    """Texts, whole or cut anywhere, tokens at random, and one of them again and again."""
    ids: list[int] = []
    for _ in range(chance.randint(1, 8)):
        text = tokenizer(chance.choice(TEXTS), add_special_tokens=False)["input_ids"]
        any_token = chance.randrange(len(tokenizer))
        ids += chance.choice(
            [
                text,
                text[chance.randrange(len(text) + 1) :],
                text[: chance.randrange(len(text) + 1)],
                [chance.randrange(len(tokenizer)) for _ in range(chance.randint(1, 12))],
                [chance.choice([any_token, *tokenizer.all_special_ids])] * chance.randint(1, 40),
            ]
        )
    return ids


@pytest.mark.parametrize("skip", [True, False], ids=["skipped", "kept"])
@pytest.mark.parametrize("cleanup", [True, False], ids=["cleaned", "as it is"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_out_begins_every_text_that_may_follow(
    tokenizers: dict[str, Any], kind: str, cleanup: bool, skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers[kind]
    decode = decoder(tokenizer, cleanup, skip)
    for seed in range(60 if tokenizer.is_fast else 8):
        chance = random.Random(seed)
        monkeypatch.setattr(streaming, "_WINDOW", chance.choice([8, 24, 64]))
        monkeypatch.setattr(streaming, "_CONTEXT", chance.choice([1, 4, 7]))
        ids = some_tokens(tokenizer, chance)
        prompt = ids[: chance.choice([0, 0, chance.randrange(len(ids) + 1)])]
        made, out = Detokenizer(decode, tokenizer.convert_ids_to_tokens, prompt), ""
        skipped = len(decode(prompt)) if prompt else 0
        for end in range(len(prompt) + 1, len(ids) + 1):
            out += made.push(ids[end - 1 : end])
            assert decode(ids[:end])[skipped:].startswith(out), (seed, end, ids)


@pytest.mark.parametrize("cleanup", [True, False], ids=["cleaned", "as it is"])
@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_text_is_out_at_once(tokenizers: dict[str, Any], kind: str, cleanup: bool) -> None:
    tokenizer = tokenizers[kind]
    decode = decoder(tokenizer, cleanup)
    ids = tokenizer("the red fox runs ? we 've 漢字 . " * 8, add_special_tokens=False)["input_ids"]
    made, out = Detokenizer(decode, tokenizer.convert_ids_to_tokens, []), ""
    for end, one in enumerate(ids, 1):
        out += made.push([one])
        if not str(tokenizer.convert_ids_to_tokens(one)).startswith("<0x"):
            assert len(decode(ids[:end])) - len(out) < 8


def test_bytes_wait_for_the_end_of_their_run(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["byte fallback"]
    ids = tokenizer("a😀😁b", add_special_tokens=False)["input_ids"]
    made = Detokenizer(decoder(tokenizer, False), tokenizer.convert_ids_to_tokens, [])
    assert [made.push([one]) for one in ids] == ["", "a", *[""] * 8, "😀😁b"]


def test_no_cleanup_takes_back_what_is_out() -> None:
    """Texts of all letters that have a part in it, letter by letter."""
    tidy = byte_pairs().clean_up_tokenization
    for letters in product(" 'n.vea", repeat=5):
        out = ""
        for end in range(1, 6):
            text = tidy("".join(letters[:end]))
            assert text.startswith(out)
            out = text[: streaming._certain(text)]


@pytest.mark.parametrize("kind", ["byte pairs", "byte fallback", "word pieces"])
def test_a_token_costs_the_same_after_thousands(tokenizers: dict[str, Any], kind: str) -> None:
    """Also where nothing says how the text goes on: nothing but spaces, bytes, quotes, or tokens that are skipped."""
    tokenizer = tokenizers[kind]
    for text in ["the red fox runs . ", " ", "'", " '", "😀", tokenizer.pad_token]:
        tokens = 0

        def decode(ids: list[int]) -> str:
            nonlocal tokens
            tokens += len(ids)
            return str(tokenizer.decode(ids, skip_special_tokens=True))

        few = tokenizer(text * 50, add_special_tokens=False)["input_ids"] or [tokenizer.pad_token_id]
        ids = (few * 3000)[:3000]
        made = Detokenizer(decode, tokenizer.convert_ids_to_tokens, [])
        out = "".join([made.push([one]) for one in ids])
        assert tokens < 100 * len(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True).startswith(out)
