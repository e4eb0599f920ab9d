"""Makes one tiny model with random weights for each kind of pipeline: a few thousand numbers, no download.

Answers mean nothing; what counts is that they are those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForObjectDetection,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    YolosImageProcessor,
)

_SENTENCES = [
    f"the {colour} {animal} runs over the {thing} ."
    for colour in ("red", "green", "small", "old")
    for animal in ("fox", "dog", "cat", "bear")
    for thing in ("hill", "river", "bridge")
] + ["what is your name ?", "my name is mary and i live in oslo .", "où est le café ?"]  # fmt: skip
_LABELS = {"id2label": {0: "BAD", 1: "GOOD"}, "label2id": {"BAD": 0, "GOOD": 1}}


def make_all(folder: Path) -> dict[str, Path]:
    """Saves every model in a folder of its own; the folders by name."""
    torch.manual_seed(0)
    for name, make in _MAKERS.items():
        make(folder / name)
    return {name: folder / name for name in _MAKERS}


def word_pieces() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer such as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(_SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def byte_pairs() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer such as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", bos_token="<end>", model_max_length=128
    )


def byte_fallback() -> PreTrainedTokenizerFast:
    """A tokenizer such as Llama 2's, which writes in bytes what is not in its vocabulary: all but a few letters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz.?'"]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=256,
    )


def _small(kind: str, **more: Any) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return AutoConfig.for_model(kind, **{**sizes, **more})


def _bert(auto: Any, **more: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tokenizer = word_pieces()
        config = _small("bert", vocab_size=len(tokenizer), max_position_embeddings=64, **more)
        auto.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return make


def gpt2(folder: Path) -> None:
    tokenizer = byte_pairs()
    end = tokenizer.eos_token_id
    config = AutoConfig.for_model(
        "gpt2", vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128, eos_token_id=end
    )
    config.pad_token_id = end
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def llama(folder: Path) -> None:
    """A text generator that falls back on bytes."""
    tokenizer = byte_fallback()
    config = _small(
        "llama", vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _t5(folder: Path) -> None:
    tokenizer = word_pieces()
    config = AutoConfig.for_model(
        "t5", vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        pad_token_id=0, eos_token_id=3, decoder_start_token_id=0,
    )  # fmt: skip
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _vit(folder: Path) -> None:
    config = _small("vit", image_size=32, patch_size=8, **_LABELS)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def resnet(folder: Path, processor: Any) -> None:
    """A model that takes pictures of any size, behind an image processor."""
    config = AutoConfig.for_model("resnet", embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], **_LABELS)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def yolos(folder: Path) -> None:
    config = _small("yolos", image_size=[32, 32], patch_size=8, num_detection_tokens=4, **_LABELS)
    AutoModelForObjectDetection.from_config(config).save_pretrained(folder)
    YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}).save_pretrained(folder)


def _wav2vec2(**more: Any) -> Any:
    return _small(
        "wav2vec2", conv_dim=[16, 16], conv_stride=[5, 4], conv_kernel=[10, 8], num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, classifier_proj_size=16, **more,
    )  # fmt: skip


def _hearing() -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(sampling_rate=16000, return_attention_mask=False)


def _audio(folder: Path) -> None:
    AutoModelForAudioClassification.from_config(_wav2vec2(**_LABELS)).save_pretrained(folder)
    _hearing().save_pretrained(folder)


def _speech(folder: Path) -> None:
    folder.mkdir(parents=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = ", ".join(f'"{letter}": {at}' for at, letter in enumerate(letters))
    (folder / "vocab.json").write_text(f"{{{vocabulary}}}")
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    config = _wav2vec2(vocab_size=len(letters), pad_token_id=0)
    AutoModelForCTC.from_config(config).save_pretrained(folder)
    Wav2Vec2Processor(_hearing(), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _hearing().save_pretrained(folder)


_MAKERS: dict[str, Callable[[Path], None]] = {
    "text-generation": gpt2,
    "text-classification": _bert(AutoModelForSequenceClassification, **_LABELS),
    "zero-shot-classification": _bert(
        AutoModelForSequenceClassification,
        id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
        label2id={"contradiction": 0, "neutral": 1, "entailment": 2},
    ),
    "token-classification": _bert(AutoModelForTokenClassification, **_LABELS),
    "fill-mask": _bert(AutoModelForMaskedLM),
    "feature-extraction": _bert(AutoModel),
    "question-answering": _bert(AutoModelForQuestionAnswering),
    "text2text-generation": _t5,
    "image-classification": _vit,
    "object-detection": yolos,
    "audio-classification": _audio,
    "automatic-speech-recognition": _speech,
}
