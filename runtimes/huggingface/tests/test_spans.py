"""How question answering cuts contexts: as a tokenizer itself does, on either side, but bit by bit."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mlserve_huggingface import spans
from mlserve_huggingface.spans import spans_of

_TEXT = "where what ? . , the red fox jump ##s ##ed over a lazy dog my name is mary oslo"
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_TEXT.split()]
_SIDES = {
    "right": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "left": ("$A [SEP] [CLS]:2", "$A [SEP] $B:1 [SEP]:1 [CLS]:2"),  # as XLNet has it
}


def tokenizer(side: str, truncation_side: str = "right") -> Any:
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    single, pair = _SIDES[side]
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128, padding_side=side, truncation_side=truncation_side,
    )  # fmt: skip


def words(count: int, seed: int = 0) -> str:
    choice = random.Random(seed).choice
    return " ".join(choice(["jumps", "jumped", "zebra", "Ünï", *_WORDS[6:]]).replace("##", "") for _ in range(count))


@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("count", "longest", "stride"), [(5, 40, 10), (300, 40, 0), (301, 64, 32), (3000, 100, 60)])
def test_spans_are_those_of_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch, side: str, truncation_side: str, count: int, longest: int, stride: int
) -> None:
    monkeypatch.setattr(spans, "_PIECE", 200)  # so that there are many
    made, question, context = tokenizer(side, truncation_side), "where is my dog ?", words(count)
    texts = (question, context) if side == "right" else (context, question)
    wanted = made(
        *texts, truncation="only_second" if side == "right" else "only_first", max_length=longest, stride=stride,
        return_overflowing_tokens=True,
    ).encodings  # fmt: skip
    found = list(spans_of(made, question, context, longest, stride))
    assert [one.ids.tolist() for one in found] == [one.ids for one in wanted]
    assert [one.type_ids.tolist() for one in found] == [one.type_ids for one in wanted]
    assert [[tuple(two) for two in one.tokens.offsets.tolist()] for one in found] == [one.offsets for one in wanted]
    which = 1 if side == "right" else 0
    for one, other in zip(found, wanted):
        for at in range(len(other)):
            if other.token_to_sequence(at) == which:
                word = other.word_to_chars(other.token_to_word(at), which)
                assert one.characters(at, at, align=True) == word
                assert one.characters(at, at, align=False) == other.offsets[at]


def test_a_tokenizer_that_marks_the_begin_of_a_text_is_given_the_text_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_PIECE", 200)
    made = tokenizer("right")
    made.backend_tokenizer.normalizer = normalizers.Prepend("red ")
    context = words(400)
    wanted = made.backend_tokenizer.encode(context, add_special_tokens=False).ids
    found = spans_of(made, "where ?", context, 40, 0)
    assert [token for one in found for token in one.ids[one.tokens.sequences == 1].tolist()] == wanted


def test_a_long_context_is_never_taken_apart_as_a_whole() -> None:
    made, context = tokenizer("right"), words(200_000)
    tracemalloc.start()
    count = sum(1 for _ in spans_of(made, "where ?", context, 100, 50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 1000 and peak < 20_000_000


def test_a_question_that_leaves_no_room_is_told() -> None:
    made = tokenizer("right")
    with pytest.raises(ValueError, match=r"leaves room for 0 tokens .* shorten the question"):
        list(spans_of(made, words(60), words(60), 40, 10))
    with pytest.raises(ValueError, match=r"must be more than doc_stride \(39\)"):
        list(spans_of(made, "where ?", words(60), 40, 39))
    assert len(list(spans_of(made, "where ?", "the fox", 40, 39))) == 1  # for nothing needs to be cut
