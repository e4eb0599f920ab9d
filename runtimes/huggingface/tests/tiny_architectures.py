"""Makes a tiny model of any architecture that runs several rows at once, with weights large enough to be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedTokenizerFast

from runtimes.huggingface.tests.tiny_media_models import MAKERS
from runtimes.huggingface.tests.tiny_models import byte_pairs, word_pieces, yolos

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_READER = {**_SIZES, "max_position_embeddings": 66}
_WRITER = {**_SIZES, "num_key_value_heads": 1, "max_position_embeddings": 128}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
_SEEN = {**_SIZES, "image_size": 32, "patch_size": 8}
_STAGED = {"image_size": 32, "num_channels": 3, "depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}
_CODING = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 3,
    "decoder_start_token_id": 0, "forced_eos_token_id": None,
}  # fmt: skip
_T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0, "eos_token_id": 3,
    "decoder_start_token_id": 0,
}  # fmt: skip
_HEARD = {
    **_SIZES, "conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16,
    "feat_extract_norm": "layer", "conv_bias": True,
}  # fmt: skip
_THREE = {0: "contradiction", 1: "neutral", 2: "entailment"}
LABELS = {"id2label": _THREE, "label2id": {name: at for at, name in _THREE.items()}}

SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "camembert", "electra", "mpnet", "roberta", "xlm-roberta"), _READER),
    "albert": {**_READER, "embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 66},
    "modernbert": {**_SIZES, "local_attention": 8, "global_attn_every_n_layers": 2, "max_position_embeddings": 66},
    **dict.fromkeys(("llama", "olmo", "phi", "phi3", "stablelm"), _WRITER),
    "gemma": {**_WRITER, "head_dim": 8},
    "recurrent_gemma": {**_WRITER, "num_hidden_layers": 3, "head_dim": 8, "attention_window_size": 64},
    "qwen2": {**_WRITER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    "qwen3": {**_WRITER, "head_dim": 8},
    "mistral": {**_WRITER, "sliding_window": 4},
    "starcoder2": {**_WRITER, "sliding_window": 4},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "falcon": {**_SIZES, "ffn_hidden_size": 24},
    "gpt2": _GPT,
    "gpt_neo": {
        "hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
        "window_size": 4, "max_position_embeddings": 128,
    },
    "gpt_neox": {**_SIZES, "max_position_embeddings": 128},
    "gptj": {**_GPT, "rotary_dim": 4},
    "opt": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24, "word_embed_proj_dim": 16,
        "max_position_embeddings": 128,
    },
    **dict.fromkeys(("bart", "marian", "pegasus"), _CODING),
    **dict.fromkeys(("mt5", "t5"), _T5),
    **dict.fromkeys(("beit", "dinov2", "vit"), _SEEN),
    "deit": {**_SEEN, "architectures": ["DeiTForImageClassification"]},  # of two classes
    **dict.fromkeys(("convnext", "convnextv2"), _STAGED),
    "resnet": {**_STAGED, "embedding_size": 8, "layer_type": "basic"},
    "swin": {
        "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
    },
    **dict.fromkeys(("hubert", "wav2vec2", "wavlm"), _HEARD),
    "audio-spectrogram-transformer": {**_SIZES, "max_length": 64, "num_mel_bins": 16, "patch_size": 8},
}  # fmt: skip
_AUTO = {
    "audio-classification": "AutoModelForAudioClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "image-feature-extraction": "AutoModel",
    "question-answering": "AutoModelForQuestionAnswering",
    "summarization": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
    "translation": "AutoModelForSeq2SeqLM",
    "zero-shot-classification": "AutoModelForSequenceClassification",
}
_CHOOSING = frozenset({
    "audio-classification", "image-classification", "text-classification", "token-classification",
    "zero-shot-classification",
})  # fmt: skip
_CHAT = "{% for m in messages %}{{m['role']}}: {{m['content']}}\n{% endfor %}"


def make(folder: Path, task: str, kind: str, **more: Any) -> Path:
    """Saves a model of this architecture for this task, and what its pipeline needs beside it."""
    torch.manual_seed(3)
    if kind not in SIZES:
        MAKERS.get(task, yolos)(folder)
        return folder
    part = _part_of(task, kind)
    labels = LABELS if task in _CHOOSING else {}
    config = AutoConfig.for_model(kind, **{**SIZES[kind], **labels, **_tokens_of(part), **more})
    model = getattr(transformers, _AUTO[task]).from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(12)  # else answers hardly depend on what is asked
    model.save_pretrained(folder)
    part.save_pretrained(folder)
    return folder


def _part_of(task: str, kind: str) -> Any:
    """The tokenizer or processor."""
    if task == "text-generation":
        tokenizer = byte_pairs()
        tokenizer.chat_template = _CHAT
        return tokenizer
    if kind == "audio-spectrogram-transformer":
        return transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=16)
    if task == "audio-classification":
        return transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000, return_attention_mask=True)
    if task.startswith("image"):
        return transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    tokenizer = word_pieces()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved
    return tokenizer


def _tokens_of(part: Any) -> dict[str, Any]:
    if not isinstance(part, PreTrainedTokenizerFast):
        return {}
    ids = {name: getattr(part, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    return {"vocab_size": len(part), **{name: one for name, one in ids.items() if one is not None}}
