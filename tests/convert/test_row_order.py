"""The order of query and key rows is told from a trained model's numbers, and not from drawn ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cm3.convert.decoder_layouts import in_pairs
from cm3.convert.row_order import RowOrder, Rows, look_at_rows
from cm3.convert.tensor_files import TensorFiles
from cm3.files import read_json
from cm3.model.bundle import find

SHIPPED = find("scenes")


class Trained:
    """The rows of the model in the package, which lie in halves; turned into pairs, or their norms alone."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        self.files = TensorFiles.open(folder / "decoder.safetensors")
        self.config = read_json(folder / "config.json", "a bundle")["decoder"]
        self.width = self.config["d_model"] // self.config["heads"]

    def look(self, rows: bool = False, norms: bool = False) -> RowOrder:
        """Judge them; `rows` and `norms` say which are turned into pairs."""

        def turned(tensor: Tensor, turn: bool) -> Tensor:
            return in_pairs(tensor, tensor.numel() // tensor.shape[-1] // self.width) if turn else tensor

        def read(layer: int) -> Rows:
            named = [f"blocks.{layer}.{name}.weight" for name in ("wq", "wk", "q_norm", "k_norm")]
            query, key, *of = (self.files.read(name) for name in named)
            each = [torch.stack([in_pairs(row, 1) for row in norm]) if norms else norm for norm in of]
            return Rows(turned(query, rows), turned(key, rows), *each)

        return look_at_rows(self.config["layers"], self.width, read)


@pytest.fixture(scope="module")
def trained() -> Trained:
    """The model in the package; while that is a stand-in of a few steps it has learnt no order."""
    if read_json(SHIPPED / "config.json", "a bundle")["about"].get("steps", 0) < 500:
        pytest.skip("the model in this checkout was trained for a few steps")
    return Trained()


def test_rows_in_halves_are_told(trained: Trained) -> None:
    found = trained.look()
    assert found.rows.answer == "halves" and found.norms.answer == "as rows"
    assert found.norms.errors >= 6 and found.norms.sure == "sure"


def test_rows_in_pairs_are_told(trained: Trained) -> None:
    found = trained.look(rows=True, norms=True)
    assert found.rows.answer == "pairs" and found.norms.answer == "as rows"


@pytest.mark.parametrize("rows", [True, False])
def test_norms_that_were_not_turned_with_their_rows_are_told(trained: Trained, rows: bool) -> None:
    found = trained.look(rows=rows, norms=not rows)
    assert found.rows.answer == ("pairs" if rows else "halves") and found.norms.answer == "other"


def test_of_drawn_weights_nothing_is_told() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        drawn = [
            Rows(
                *(torch.randn(n * 32, 64, generator=g) for n in (8, 4)),
                *(torch.randn(n, 32, generator=g) for n in (8, 4)),
            )
            for _ in range(3)
        ]
        found = look_at_rows(3, 32, drawn.__getitem__)
        assert found.rows.answer is None and found.rows.sure == "cannot tell" and found.norms.answer is None


def test_of_few_heads_of_equal_numbers_and_of_narrow_ones_nothing_is_told() -> None:
    read = Trained().files.read
    few = Rows(read("blocks.0.wq.weight")[:128], read("blocks.0.wk.weight")[:128], None, None)
    assert look_at_rows(1, 64, lambda layer: few).rows.answer is None
    for width in (2, 4, 32):
        zeros = Rows(
            torch.zeros(32 * width, 8), torch.zeros(32 * width, 8), torch.zeros(1, width), torch.zeros(1, width)
        )
        assert look_at_rows(1, width, lambda layer, zeros=zeros: zeros).rows.answer is None
