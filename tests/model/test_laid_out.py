"""Weights laid out for drawing: the same function, the same parameters, and changes of them are seen."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from test_decoder import STYLES, inputs, make
from torch import Tensor, nn

from cm3.engine.cache import Append, Cache, Prefill
from cm3.generate import CM3Leon
from cm3.model import bundle
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.laid_out import PAD, joined

style = pytest.mark.parametrize("changes", STYLES.values(), ids=STYLES.keys())


@torch.no_grad()
def stepped(model: Decoder) -> Tensor:
    """Logits (2, s, v) by the engine's attends: eight tokens at once, then one at a time."""
    ids, positions, cells = inputs()
    cache, made = Cache(2, 24), []
    first = Prefill(cache, [[0], [1]], [8, 8], ids.device)
    made.append(model.hidden(ids[:, :8], positions[:, :8], first, cells[:, :8]))
    for at in range(8, ids.shape[1]):
        one = Append(cache, [at] * 2, [1] * 2, ids.device)
        made.append(model.hidden(ids[:, at : at + 1], one.positions, one, cells[:, at : at + 1]))
    hidden = torch.cat(made, 1)
    assert torch.allclose(model.head(hidden)[..., 7:19], model.head(hidden, slice(7, 19)))
    return model.head(hidden)


@style
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_it_computes_the_same(changes: dict[str, Any], kind: torch.dtype) -> None:
    plain = make(changes).to(kind)
    want = stepped(plain)
    assert plain._laid_out is None
    made = copy.deepcopy(plain).lay_out()
    assert made.is_laid_out
    close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 5e-2}[kind]
    torch.testing.assert_close(stepped(made), want, rtol=close, atol=close * float(want.abs().max()))
    assert want.std() > 0.01
    # Once more changes nothing, and neither does the layout of an inference tensor.
    assert torch.equal(stepped(made.lay_out()), stepped(made))
    with torch.inference_mode():
        other = Decoder(made.config).to(kind)
        other.load_state_dict(plain.state_dict())
        assert torch.equal(stepped(other.lay_out()), stepped(made))


@style
def test_it_learns_as_before(changes: dict[str, Any]) -> None:
    """Names, values and gradients stay; a step of an optimizer is seen by drawing."""
    plain = make(changes)
    made = copy.deepcopy(plain).lay_out()
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in made.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), made.state_dict().values(), strict=True))
    for model in (plain, made):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        ids, positions, cells = inputs()
        model(ids, positions, Causal(), cells).square().mean().backward()
        optimizer.step()
    for (name, a), b in zip(plain.named_parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
    assert made.is_laid_out
    torch.testing.assert_close(stepped(made), stepped(plain), rtol=1e-9, atol=1e-9)


def _assigned(model: Decoder) -> Decoder:
    model.load_state_dict({n: v * 1.5 for n, v in model.state_dict().items()}, assign=True)
    return model


def _copied(model: Decoder) -> Decoder:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    return other


def _in_place(model: Decoder) -> Decoder:
    model.load_state_dict({n: v * 1.5 for n, v in model.state_dict().items()})
    return model


def _moved(model: Decoder) -> Decoder:
    return _in_place(model.float().double())


def _replaced(model: Decoder) -> Decoder:
    block: Any = model.blocks[1]
    for name, layer in list(block.named_children()):
        if isinstance(layer, nn.Linear):
            other = nn.Linear(layer.in_features, layer.out_features, bias=False).double()
            other.weight.data.copy_(layer.weight * 1.5)
            setattr(block, name, other)
    return model


def _norms_moved(model: Decoder) -> Decoder:
    """New numbers for whatever is no matrix, where there is one; else for a matrix."""
    small = [p for p in model.parameters() if p.dim() < 2] or [model.blocks[1].up.weight]  # type: ignore[union-attr]
    for p in small:
        p.data = p.data * 1.5 + 0.5
    return model


def _norms_replaced(model: Decoder) -> Decoder:
    for name, part in list(model.named_modules()):
        if name.startswith("blocks.") and "norm" in name:
            for key, p in list(part.named_parameters(recurse=False)):
                setattr(part, key, nn.Parameter(p.detach() * 1.5 + 0.5))
    return _in_place(model)


def _other_order(model: Decoder) -> Decoder:
    model.blocks = nn.ModuleList([model.blocks[1], model.blocks[0]])
    return model


@style
@pytest.mark.parametrize(
    "change",
    [_assigned, _copied, _in_place, _moved, _replaced, _norms_moved, _norms_replaced, _other_order],
)
def test_a_change_of_weights_is_seen(changes: dict[str, Any], change: Callable[[Decoder], Decoder]) -> None:
    before = make(changes).lay_out()
    first = stepped(before)
    made = change(before)
    plain = Decoder(made.config).double()
    plain.load_state_dict(made.state_dict())
    assert not torch.allclose(stepped(plain), first, rtol=1e-2)
    torch.testing.assert_close(stepped(made), stepped(plain), rtol=1e-5, atol=1e-6)


@style
def test_a_hook_is_called_where_weights_are_laid_out(changes: dict[str, Any]) -> None:
    model, seen = make(changes).lay_out(), []
    want = stepped(model)
    for of in (model.blocks[0], model.blocks[1].wq, model.blocks[1].norm2):  # type: ignore[union-attr]
        handle = of.register_forward_hook(lambda module, given, out: seen.append(module))  # type: ignore[union-attr]
        torch.testing.assert_close(stepped(model), want, rtol=1e-5, atol=1e-6)
        assert len(seen) == 5 and seen.pop() is of, "the first eight tokens, then one by one"
        handle.remove()
        seen.clear()
        stepped(model)
        assert not seen and model.is_laid_out


@style
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_laid_out_by_itself(changes: dict[str, Any], copied: Callable[[Decoder], Decoder]) -> None:
    plain = make(changes)
    assert not copied(plain).is_laid_out
    model = plain.lay_out()
    want = stepped(model)
    made = copied(model)
    assert made.is_laid_out and torch.equal(stepped(made), want)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(1.5)
    assert not torch.allclose(stepped(made), want) and torch.equal(stepped(model), want)


@pytest.mark.parametrize("shape", [(8, 8), (600, 40), (24, 40)])
def test_wide_matrices_lie_transposed_side_by_side(shape: tuple[int, int]) -> None:
    rows, inside = shape
    parts = [nn.Parameter(torch.randn(n, inside)) for n in (rows - 5, 2, 3)]
    values = [p.detach().clone() for p in parts]
    whole = joined(*parts)
    assert torch.equal(whole, torch.cat(values)) and whole.shape == shape
    assert whole.stride() == ((1, rows + PAD) if rows >= inside else (inside, 1))
    for part, value in zip(parts, values, strict=True):
        assert torch.equal(part, value) and part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert joined(nn.Parameter(torch.ones(600, 40, dtype=torch.bfloat16))).is_contiguous()


def test_memory_is_that_of_the_weights() -> None:
    made = Decoder(DecoderConfig(vocab_size=512, d_model=64, layers=2, heads=4, context=32, qk_norm=True)).lay_out()
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in made.parameters()}
    assert sum(held.values()) < 1.2 * sum(p.nbytes for p in made.parameters())


def test_a_loaded_model_is_laid_out_and_saved_as_it_was(tmp_path: Path) -> None:
    made = tiny_model.bundle(d_model=64, heads=4)
    bundle.save(made, tmp_path / "a", torch.float32)
    model = CM3Leon.load(tmp_path / "a")
    assert model.decoder.is_laid_out
    assert not CM3Leon(made, device="cpu").decoder.is_laid_out, "it may be one that is trained meanwhile"
    model.generate("a red circle", seed=3)
    bundle.save(model.bundle, tmp_path / "b", torch.float32)
    for name in (*bundle.FILES, "config.json"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_another_device_is_left_as_it_is() -> None:
    made = make({}).to("meta")
    assert made.lay_out() is made and made._laid_out is None


def test_a_decoder_that_learns_has_weights_as_torch_lays_them_out() -> None:
    """Fused AdamW moves the wrong numbers of a weight whose strides are not its gradient's, and says nothing."""
    plain = Decoder(DecoderConfig(vocab_size=64, d_model=32, layers=2, heads=2, context=16, qk_norm=True))
    plain.blocks[0].down.weight.data.normal_(0, 0.1)  # type: ignore[operator, union-attr]
    learns = copy.deepcopy(plain).eval().lay_out()
    assert learns.is_laid_out and not all(p.is_contiguous() for p in learns.parameters())
    learns.train()
    assert not learns.is_laid_out and all(p.is_contiguous() for p in learns.parameters())
    ids = torch.arange(8)[None]
    for model in (plain, learns):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1.0, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            model(ids, ids, Causal()).square().mean().backward()
            optimizer.step()
    for (name, weight), other in zip(plain.named_parameters(), learns.parameters(), strict=True):
        assert torch.allclose(weight, other, atol=1e-5), name
