"""Trains a small text classifier, and saves it beside this file with the settings that serve it.

python train.py && mlserve start .

Nothing is fetched: tokenizer and model are made from the sentences alone, in a few seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, logging

FOLDER = Path(__file__).resolve().parent
LABELS = ["COMPLAINT", "PRAISE"]
THINGS = ["the soup", "my room", "the waiter", "our breakfast", "the whole evening", "the view"]
GOOD = ["was wonderful", "made us happy", "was a delight", "is worth the way"]
BAD = ["was terrible", "made us sad", "was a disappointment", "is not worth the money"]
SETTINGS = {
    "name": "reviews",
    "implementation": "mlserve_huggingface.HuggingFaceRuntime",
    "max_batch_size": 16,
    "max_batch_time": 0.01,
    "parameters": {"uri": "./model", "version": "v1", "extra": {"task": "text-classification", "threads": 1}},
}


def main() -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reviews = [
        (f"{thing} {words}", label) for label, said in enumerate((BAD, GOOD)) for words in said for thing in THINGS
    ]
    tokenizer = make_tokenizer([text for text, _ in reviews])
    model = train(tokenizer, reviews)
    model.save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model'}: trained on {len(reviews)} reviews")


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Word pieces, as BERT has them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def train(tokenizer: PreTrainedTokenizerFast, reviews: list[tuple[str, int]]) -> BertForSequenceClassification:
    """Until it knows the reviews."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label=dict(enumerate(LABELS)),
        label2id={label: at for at, label in enumerate(LABELS)},
        **sizes,
    )
    model = BertForSequenceClassification(config).train()
    batch = tokenizer([text for text, _ in reviews], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in reviews])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = cross_entropy(model(**batch).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
