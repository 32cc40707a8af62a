"""Ids to logits to loss: the networks, arithmetic only."""

from cm3.model.cm3 import CM3, CM3Config

__all__ = ["CM3", "CM3Config"]
