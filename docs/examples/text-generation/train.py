"""Teaches a tiny GPT-2 a few sentences by heart, and saves it beside this file with the settings that serve it.

python train.py && mlserve start .

Nothing is fetched: tokenizer and model are made from the sentences alone, in some ten seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, logging

FOLDER = Path(__file__).resolve().parent
SENTENCES = {  # what the model is asked: how it shall go on
    "The fox": " crossed the frozen river at dawn, and left a thin line of prints in the snow.",
    "Every evening": " the lighthouse keeper wound the old clock, then lit the lamp and waited for the boats.",
    "Three sailors": " shared a pot of coffee and argued about the best way home: round the cape, or through it.",
    "My grandmother": " grew seventeen kinds of beans, and knew a story for each of them; «don't rush», she said.",
}
SETTINGS = {
    "name": "storyteller",
    "implementation": "mlserve_huggingface.HuggingFaceRuntime",
    "parameters": {"uri": "./model", "version": "v1", "extra": {"task": "text-generation"}},
}
END = "<end>"


def main() -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads would wait for each other more than they compute
    tokenizer = make_tokenizer()
    model = train(tokenizer)
    for prompt, rest in SENTENCES.items():
        assert continue_text(model, tokenizer, prompt) == rest, f"it did not learn how '{prompt}' goes on"
    model.save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model'}: {model.num_parameters():,} parameters know {len(SENTENCES)} sentences")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the sentences, as GPT-2 has one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([prompt + rest for prompt, rest in SENTENCES.items()], trainer)
    names = ["input_ids", "attention_mask"]  # GPT-2 has no use for token types
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, model_input_names=names
    )


def train(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Until each next token is all but certain."""
    end = tokenizer.eos_token_id
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)  # it shall learn by heart
    config = GPT2Config(
        vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, pad_token_id=end, **sizes, **dropouts
    )
    model = GPT2LMHeadModel(config).train()
    texts = [prompt + rest + END for prompt, rest in SENTENCES.items()]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1000):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])  # of each token, from those before it
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.03:  # what is left are prompts that begin alike
            print(f"learnt after {step} steps")
            break
    return model.eval()


def continue_text(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """What the model says next, at its most probable."""
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        told = model.generate(**ids, max_new_tokens=100, do_sample=False)
    return str(tokenizer.decode(told[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
