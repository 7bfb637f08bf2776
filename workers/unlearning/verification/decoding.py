"""Many continuations of many prompts, from one model: greedy, or drawn at a temperature and top-p.

    decode(task, [Asked(ids=..., tokens_max=..., copies=300)], ...) -> texts, prompt by prompt

Prompts of one length go together, so nothing is ever padded and every architecture with a key-value
cache is asked the same way. A prompt is read once however many copies continue it; what has ended
leaves the batch. Draws are by inversion of integer weights, whose sums are exact, so that a seed
gives the same texts in any order of summation. It knows no field and no hit.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.unlearning.task import CausalLM

import torch  # isort: skip
from torch import Tensor

ROWS_MAX = 600
"""Continuations that grow at once."""
_RESOLUTION = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt as tokens, how long its answers may be, and how many are wanted."""

    ids: tuple[int, ...]
    tokens_max: int
    copies: int


def decode(
    task: CausalLM,
    asked: Sequence[Asked],
    *,
    temperature: float,
    top_p: float,
    seed: int,
    done: Callable[[int], None],
) -> list[list[str]]:
    """Return the continuations of each prompt, without the prompt. Temperature 0 is greedy."""
    assert all(each.ids and each.copies > 0 for each in asked)
    assert temperature >= 0
    assert 0 < top_p <= 1
    generator = torch.Generator(device=task.device).manual_seed(seed)
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, each in enumerate(asked):
        by_length[len(each.ids)].append(place)
    found: dict[int, list[str]] = {}
    for places in (by_length[length] for length in sorted(by_length)):
        for group in _groups(asked, places):
            grown = _grow(task, [asked[place] for place in group], temperature, top_p, generator)
            texts = task.tokenizer.batch_decode(grown, skip_special_tokens=True)
            for place in group:
                found[place] = [*found.get(place, []), *texts[: asked[place].copies]]
                del texts[: asked[place].copies]
            done(len(found))
    return [found[place] for place in range(len(asked))]


def _groups(asked: Sequence[Asked], places: Sequence[int]) -> list[list[int]]:
    """Return prompts of one length in groups of at most `ROWS_MAX` continuations, one prompt at least."""
    groups: list[list[int]] = []
    rows = ROWS_MAX
    for place in places:
        if rows + asked[place].copies > ROWS_MAX:
            groups.append([])
            rows = 0
        groups[-1].append(place)
        rows += asked[place].copies
    return groups


@torch.inference_mode()
def _grow(
    task: CausalLM, asked: Sequence[Asked], temperature: float, top_p: float, generator: torch.Generator
) -> list[list[int]]:
    """Return the new tokens of every continuation, prompt by prompt, without the end-of-text token."""
    device, eos = task.device, task.tokenizer.eos_token_id
    owner = torch.tensor([place for place, each in enumerate(asked) for _ in range(each.copies)], device=device)
    limit = torch.tensor([each.tokens_max for each in asked], device=device)[owner]
    out = task.model(input_ids=torch.tensor([each.ids for each in asked], device=device), use_cache=True)
    cache = out.past_key_values
    cache.batch_select_indices(owner)
    logits = out.logits[:, -1].float()[owner]
    grown: list[list[int]] = [[] for _ in range(len(owner))]
    alive = torch.arange(len(owner), device=device)
    length = 0
    while True:
        tokens = _next(logits, temperature, top_p, generator)
        length += 1
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            if token != eos:
                grown[row].append(token)
        going = (tokens != eos) & (limit > length)
        if not bool(going.any()):
            return grown
        if not bool(going.all()):
            kept = going.nonzero().squeeze(1)
            alive, limit, tokens = alive[kept], limit[kept], tokens[kept]
            cache.batch_select_indices(kept)
        out = task.model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[:, -1].float()


def _next(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """Return one token for each row of logits, shape (rows,)."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        probabilities = _nucleus(probabilities, top_p)
    weights = (probabilities.double() * _RESOLUTION).long()
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    uniform = torch.rand((len(logits), 1), generator=generator, device=logits.device, dtype=torch.float64)
    drawn = (uniform * total).long().clamp(max=total - 1)
    return torch.searchsorted(sums, drawn, right=True).squeeze(1)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return the probabilities, nought outside the smallest set that holds `top_p` of them."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    weights = (ordered.double() * _RESOLUTION).long()
    before = weights.cumsum(-1) - weights
    # The likeliest token stays whatever it weighs.
    outside = before >= int(top_p * _RESOLUTION)
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
