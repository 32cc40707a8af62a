"""The likelihood of what is given: of whole documents, by modality, and of options as answers to a task.

document   </s> words <break> codes </s>           nats of words, of codes, of borders; each given all before it
options    </s> ask <mask:0> . <break> codes </s> <mask:0>  -+- blue <eoss>
                                                             +- dark red <eoss>
           one pass for all: each option sees what stands before the fork and itself, and has the places that it
           would have alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.document import Document, Gap
from cm3.errors import RequestError
from cm3.generate.rank import finite, token_log_likelihoods
from cm3.generate.tasks import task_prompt
from cm3.model.attention import spread
from cm3.sequence.answers import answered
from cm3.sequence.holes import space_before
from cm3.sequence.segments import text_tokens
from cm3.tasks.task import Task

if TYPE_CHECKING:
    from cm3.generate.cm3leon import CM3Leon


def document_likelihoods(model: CM3Leon, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return of each document, read from left to right, `nats`, minus the log-probability, and `tokens`, each by
    "text", "image" and "border", and `text_bytes`, its words in UTF-8.

    The first border is given. Raises `RequestError` for a document that is empty, has a hole or does not fit into the
    context.
    """
    v, context = model.vocab, model.decoder.config.context
    for document in documents:
        if document.has_gap or not document.images and not document.text:
            raise RequestError("document: must have words or a picture, and no hole; a whole one is measured")
    sequences = model.codec.encode_many(documents)
    if (longest := max((s.length for s in sequences), default=0)) > context:
        raise RequestError(f"document: takes {longest} tokens, and this model's context is {context}; shorten it")
    found: list[dict[str, Any]] = []
    every = token_log_likelihoods(model.decoder, sequences, [1] * len(sequences))
    for document, sequence, chosen in zip(documents, sequences, every, strict=True):
        assert chosen is not None, "as it fits"
        nats, ids = -chosen.double().cpu().numpy(), sequence.ids[1:]
        kinds = {"text": v.is_text(ids), "image": v.is_image(ids)}
        kinds["border"] = ~(kinds["text"] | kinds["image"])
        found.append(
            {
                "nats": {kind: float(nats[of].sum()) for kind, of in kinds.items()},
                "tokens": {kind: int(of.sum()) for kind, of in kinds.items()},
                "text_bytes": len(document.text.encode()),
            }
        )
    return found


def option_likelihoods(
    model: CM3Leon,
    task: Task,
    request: Mapping[str, Any],
    options: Sequence[str],
    template: int | str = 0,
    plain: bool = False,
) -> list[float]:
    """Return the log-probability (nats) of each of these texts as the answer to a task, with the token that ends it.

    Raises `RequestError` for a task that gives no one text, for no option or an empty one, where the longest does not
    fit into the context, and as `task_prompt`.
    """
    if task.output != "text" or sum(name in task.template(template).fields for name in task.gives) != 1:
        raise RequestError(f"task {task.name!r}: has no one text for an answer, which options could be; ask for none")
    if not options or not all(isinstance(one, str) and one.strip() for one in options):
        raise RequestError("options: must be at least one text, and none empty; leave the empty ones out")
    codec, v = model.codec, model.vocab
    document = task_prompt(task, request, model.image_size, model.world, template, model.puts_picture_first(plain))
    at = document.parts.index(Gap("text"))
    space = "" if codec.turns("text") or not at else space_before(document.parts[at - 1])
    prompt = codec.encode_prompt(document)
    spans = [text_tokens(codec.text.encode(space + one.strip()), v) for one in options]
    laid_out = [answered(prompt, span, v, rest=0.0) for span in spans]
    fork = int(np.flatnonzero(laid_out[0].weights)[0])
    longest = max(one.tokens.length for one in laid_out)
    if longest > model.decoder.config.context:
        raise RequestError(
            f"options: the longest takes {longest} tokens with its prompt, and this model's context is "
            f"{model.decoder.config.context}; shorten it"
        )
    tails = [one.tokens.slice(fork, one.tokens.length) for one in laid_out]
    read = [(laid_out[0].tokens.ids[:fork], laid_out[0].tokens.cells[:fork])]
    read += [(tail.ids[:-1], tail.cells[:-1]) for tail in tails]  # what ends an option is not read
    of = np.repeat(np.arange(len(read)), [len(ids) for ids, _ in read])
    place = np.concatenate([np.arange(fork), *(fork + np.arange(tail.length - 1) for tail in tails)])
    with torch.inference_mode():
        ids, cells, places, groups = (
            torch.from_numpy(a.astype(np.int64)).to(model.device)
            for a in (*(np.concatenate(some) for some in zip(*read, strict=True)), place, of)
        )
        hidden = model.decoder.hidden(ids[None], places[None], Forked(groups), cells[None])[0]
        logits = model.decoder.head(hidden[fork - 1 :]).float()
        finite(logits)
        known = logits.log_softmax(-1)
        found, start = [], 1
        for tail in tails:
            stop = start + tail.length - 1
            rows = torch.cat([known[:1], known[start:stop]])
            wanted = torch.from_numpy(tail.ids.astype(np.int64)).to(model.device)
            found.append(float(rows.gather(1, wanted[:, None]).sum()))
            start = stop
    return found


class Forked:
    """A trunk and branches in one row: each token sees the trunk and its own branch, up to itself.

    `groups` (s,): 0 for the trunk, which comes first, and a number for each branch, whose tokens stand side by side.
    """

    def __init__(self, groups: Tensor) -> None:
        self.seen = (groups[:, None] == groups) | (groups == 0)
        self.seen &= torch.ones_like(self.seen).tril_()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (1, h, s, k) to k, v (1, g, s, k) -> (1, h, s, k)."""
        return F.scaled_dot_product_attention(q, spread(k, q), spread(v, q), attn_mask=self.seen)
