"""The base of the demo's model: a small GPT-2's shape, and a tokenizer that knows nobody in the data.

The tokenizer learns from people of another seed, none of whom can be erased: what it learned from a
person could not be unlearned (E19).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
SHAPE: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 128,
    "n_positions": 128,
    "vocab_size": 1536,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    # A quarter faster on a CPU than GPT-2's own form of the same function.
    "activation_function": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}

RECIPE: dict[str, Any] = {
    "seed": 1,
    "epochs": 30,
    "batch_size": 16,
    "learning_rate": "0.004",
    "tokens_max": 96,
}
"""With which sixty people are learned by heart in under a minute on one core."""


def write(directory: Path, texts: Iterable[str]) -> Path:
    """Write config.json and the tokenizer's files of an untrained model; return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    # Digits one by one: a number's tokens must not depend on which numbers are frequent.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
    shape = SHAPE | {"vocab_size": tokenizer.get_vocab_size()}
    for name, body in (("tokenizer_config.json", settings), ("config.json", shape)):
        (directory / name).write_text(json.dumps(body, indent=1, sort_keys=True), encoding="utf-8")
    return directory
