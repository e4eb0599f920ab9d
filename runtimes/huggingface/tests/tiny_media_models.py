"""Tiny models with random weights for the pipelines of pictures, sound, video and tables; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig

from runtimes.huggingface.tests.tiny_models import byte_pairs, gpt2, word_pieces

_IS_5 = int(transformers.__version__.partition(".")[0]) >= 5
_SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
_SEEN = {**_SIZES, "image_size": 32, "patch_size": 8}
_LABELS = {"id2label": {0: "BAD", 1: "GOOD"}, "label2id": {"BAD": 0, "GOOD": 1}}
_THINGS = {"id2label": {0: "sky", 1: "tree", 2: "road"}, "label2id": {"sky": 0, "tree": 1, "road": 2}}
_SQUARE = {"height": 32, "width": 32}
_STAGES = {
    "num_encoder_blocks": 4, "depths": [1] * 4, "sr_ratios": [1] * 4, "hidden_sizes": [8] * 4,
    "num_attention_heads": [1] * 4, "decoder_hidden_size": 8,
}  # fmt: skip
_CHAT = (
    "{% for m in messages %}{{m['role']}}: {% for c in m['content'] %}{% if c['type']=='image' %}<image>"
    "{% else %}{{c['text']}}{% endif %}{% endfor %}{% endfor %}"
)


def _save(folder: Path, architecture: str, config: Any, *parts: Any) -> None:
    """A model of random weights, and the tokenizer, processors and so on that go with it."""
    getattr(transformers, architecture)(config).save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)


def _words(longest: int) -> Any:
    """Word pieces without the types of tokens, which models of pictures do not take."""
    tokenizer = word_pieces()
    tokenizer.model_max_length = longest
    return _untyped(tokenizer)


def _untyped(tokenizer: Any) -> Any:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved
    return tokenizer


def _text_part(**more: Any) -> dict[str, Any]:
    return {
        **_SIZES, "vocab_size": 200, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2,
        "eos_token_id": 3, **more,
    }  # fmt: skip


def _clip(folder: Path) -> None:
    config = AutoConfig.for_model("clip", text_config=_text_part(), vision_config=_SEEN, projection_dim=16)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE)
    _save(folder, "CLIPModel", config, _words(64), processor)


def _owl(folder: Path) -> None:
    text = _text_part(max_position_embeddings=16)
    config = AutoConfig.for_model("owlvit", text_config=text, vision_config=_SEEN, projection_dim=16)
    processor = transformers.OwlViTImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    _save(folder, "OwlViTForObjectDetection", config, _words(16), processor)


def _segformer(folder: Path) -> None:
    config = AutoConfig.for_model("segformer", **_STAGES, **_THINGS)
    _save(folder, "SegformerForSemanticSegmentation", config, transformers.SegformerImageProcessor(size=_SQUARE))


def _glpn(folder: Path) -> None:
    _save(folder, "GLPNForDepthEstimation", AutoConfig.for_model("glpn", **_STAGES), transformers.GLPNImageProcessor())


def _vit(folder: Path) -> None:
    _save(folder, "ViTModel", AutoConfig.for_model("vit", **_SEEN), transformers.ViTImageProcessor(size=_SQUARE))


def _superglue(folder: Path) -> None:
    points = {
        "model_type": "superpoint", "encoder_hidden_sizes": [8] * 4, "decoder_hidden_size": 8,
        "keypoint_decoder_dim": 65, "descriptor_decoder_dim": 16, "max_keypoints": 20,
    }  # fmt: skip
    config = AutoConfig.for_model(
        "superglue", keypoint_detector_config=AutoConfig.for_model(**points), hidden_size=16,
        keypoint_encoder_sizes=[8, 16], gnn_layers_types=["self", "cross"], num_attention_heads=2,
        sinkhorn_iterations=2,
    )  # fmt: skip
    processor = transformers.SuperGlueImageProcessor(size={"height": 64, "width": 64})
    _save(folder, "SuperGlueForKeypointMatching", config, processor)


def _vits(folder: Path) -> None:
    folder.mkdir(parents=True)
    letters = {letter: at for at, letter in enumerate("_abcdefghijklmnopqrstuvwxyz ")}
    (folder / "vocab.json").write_text(json.dumps(letters))
    tokenizer = transformers.VitsTokenizer(
        str(folder / "vocab.json"), pad_token="_", unk_token="_", phonemize=False, normalize=True, is_uroman=False
    )
    config = AutoConfig.for_model(
        "vits", vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, flow_size=16,
        spectrogram_bins=9, upsample_initial_channel=16, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]], prior_encoder_num_flows=1,
        posterior_encoder_num_wavenet_layers=1, prior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16, depth_separable_num_layers=1, use_stochastic_duration_prediction=False,
        noise_scale=0.0,
    )  # fmt: skip
    _save(folder, "VitsModel", config, tokenizer)


def _tapas(folder: Path) -> None:
    folder.mkdir(parents=True)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] [EMPTY] how many stars name repo a b 1 2 3 who"
    (folder / "vocab.txt").write_text("\n".join(words.split()))
    tokenizer = transformers.TapasTokenizer(str(folder / "vocab.txt"))
    config = AutoConfig.for_model(
        "tapas", **_SIZES, vocab_size=20, max_position_embeddings=64, type_vocab_sizes=[3, 256, 256, 2, 256, 256, 10],
        num_aggregation_labels=4, aggregation_labels={0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"},
    )  # fmt: skip
    _save(folder, "TapasForQuestionAnswering", config, tokenizer)


def _clap(folder: Path) -> None:
    sound = {
        "hidden_size": 16, "num_mel_bins": 64, "spec_size": 256, "patch_size": 4, "patch_embeds_hidden_size": 8,
        "depths": [1, 1], "num_attention_heads": [1, 2], "num_hidden_layers": 2, "projection_dim": 16, "num_classes": 2,
    }  # fmt: skip
    text = _text_part(max_position_embeddings=80, projection_dim=16)
    config = AutoConfig.for_model("clap", text_config=text, audio_config=sound, projection_dim=16)
    _save(folder, "ClapModel", config, _words(64), transformers.ClapFeatureExtractor(truncation="rand_trunc"))


def _layoutlm(folder: Path) -> None:
    tokenizer = word_pieces()
    config = AutoConfig.for_model("layoutlm", **_SIZES, vocab_size=len(tokenizer), max_position_embeddings=64)
    _save(folder, "LayoutLMForQuestionAnswering", config, tokenizer)


def _llava(folder: Path) -> None:
    tokenizer = _untyped(byte_pairs())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    end = tokenizer.eos_token_id
    text = AutoConfig.for_model(
        "llama", **_SIZES, vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    seen = AutoConfig.for_model("clip_vision_model", **{**_SEEN, "num_hidden_layers": 2})
    config = AutoConfig.for_model(
        "llava", vision_config=seen, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>")
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE), tokenizer, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_CHAT,
    )  # fmt: skip
    _save(folder, "LlavaForConditionalGeneration", config, processor)


def _videomae(folder: Path) -> None:
    config = AutoConfig.for_model("videomae", **{**_SEEN, "patch_size": 16}, num_frames=4, **_LABELS)
    processor = transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE)
    _save(folder, "VideoMAEForVideoClassification", config, processor)


def _decision(folder: Path) -> None:
    gpt2(folder)
    (folder / "decision.json").write_text(json.dumps({"labels": {"noul": ["a", "b"]}}))
    (folder / "decision_template.jinja").write_text("{{ state }} {{ question.instructions }} :")


def _caption(folder: Path) -> None:
    tokenizer = byte_pairs()
    end = tokenizer.eos_token_id
    teller = AutoConfig.for_model(
        "gpt2", vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128, add_cross_attention=True,
        is_decoder=True, eos_token_id=end, bos_token_id=end,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        AutoConfig.for_model("vit", **_SEEN), teller
    )
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = end
    _save(folder, "VisionEncoderDecoderModel", config, tokenizer, transformers.ViTImageProcessor(size=_SQUARE))


def _vilt(folder: Path) -> None:
    config = AutoConfig.for_model(
        "vilt", **_SEEN, vocab_size=200, max_position_embeddings=40, max_image_length=-1, **_LABELS
    )
    tokenizer = word_pieces()
    tokenizer.model_max_length = 40
    processor = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    _save(folder, "ViltForQuestionAnswering", config, tokenizer, processor)


def _swin2sr(folder: Path) -> None:
    config = AutoConfig.for_model(
        "swin2sr", image_size=16, embed_dim=8, depths=[1], num_heads=[1], window_size=4, upscale=2
    )
    _save(folder, "Swin2SRForImageSuperResolution", config, transformers.Swin2SRImageProcessor(pad_size=4))


MAKERS: dict[str, Callable[[Path], None]] = {
    "depth-estimation": _glpn,
    "document-question-answering": _layoutlm,
    "image-feature-extraction": _vit,
    "image-segmentation": _segformer,
    "image-text-to-text": _llava,
    "keypoint-matching": _superglue,
    "table-question-answering": _tapas,
    "text-to-audio": _vits,
    "video-classification": _videomae,
    "zero-shot-audio-classification": _clap,
    "zero-shot-image-classification": _clip,
    "zero-shot-object-detection": _owl,
}
if _IS_5:
    MAKERS |= {"decision": _decision}
else:
    MAKERS |= {"image-to-image": _swin2sr, "image-to-text": _caption, "visual-question-answering": _vilt}
