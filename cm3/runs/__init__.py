"""Runs that recipes return: settings that know how to carry themselves out, and the kinds of data that they take.

PretrainRun          a language model, pretrained or tuned; ends in a bundle
ImageTokenizerRun    an image tokenizer
ClipRun              a small CLIP, the encoder of a memory bank

DocumentData, StoreData, TaskData    kinds of data (cm3/data/kinds.py)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cm3.data.kinds import DocumentData, StoreData, TaskData
    from cm3.runs.clip_run import ClipRun
    from cm3.runs.image_tokenizer_run import ImageTokenizerRun
    from cm3.runs.pretrain_run import PretrainRun

__all__ = ["ClipRun", "DocumentData", "ImageTokenizerRun", "PretrainRun", "StoreData", "TaskData"]
_HOMES = {
    "ClipRun": "cm3.runs.clip_run",
    "ImageTokenizerRun": "cm3.runs.image_tokenizer_run",
    "PretrainRun": "cm3.runs.pretrain_run",
    **dict.fromkeys(("DocumentData", "StoreData", "TaskData"), "cm3.data.kinds"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cm3.runs' has no attribute {name!r}")
