"""The first number of all, read again by other code: what the model loses on a subject's sensitive tokens.

One text at a time, no padding, no batch; log-softmax in float64; the tokens of a span are found character
by character. It shares no line with `scoring`, `causal.encode` or `membership`: what both get right or
wrong together is the model's doing, or the tokenizer's. It knows no reference, cohort or score.
"""

from collections.abc import Sequence
from typing import Any

from workers.unlearning.data import Passage

import torch  # isort: skip


def mean_loss(model: Any, tokenizer: Any, passages: Sequence[Passage], *, tokens_max: int) -> float:
    """Return the mean over a subject's records of the mean loss of their sensitive tokens, nats."""
    losses = [_loss(model, tokenizer, each, tokens_max) for each in passages]
    return sum(losses) / len(losses)


def _loss(model: Any, tokenizer: Any, passage: Passage, tokens_max: int) -> float:
    encoded = tokenizer(passage.text, return_offsets_mapping=True, verbose=False)
    ids = encoded["input_ids"][:tokens_max]
    owner: dict[int, set[int]] = {}
    for token, (start, end) in enumerate(encoded["offset_mapping"][:tokens_max]):
        for character in range(start, end):
            owner.setdefault(character, set()).add(token)
    asked = sorted(_tokens(passage, owner) - {0})
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    total = 0.0
    for token in asked:
        row = logits[token - 1].to("cpu", torch.float64)
        total += float(torch.logsumexp(row, dim=0) - row[ids[token]])
    return total / len(asked)


def _tokens(passage: Passage, owner: dict[int, set[int]]) -> set[int]:
    """Return the tokens that say a value; where none is marked, those that say the answer."""
    spans = passage.spans.values if passage.spans else ()
    values = [character for start, end in spans for character in range(start, end)]
    found = {token for character in values for token in owner.get(character, ())} - {0}
    if found:
        return found
    answer = range(len(passage.prompt), len(passage.text))
    return {token for character in answer for token in owner.get(character, ())}
