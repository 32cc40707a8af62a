"""The engine: ids to ids. It knows no text, no pixels, no HTTP.

Request (1-3 streams, plan, Sampling) -> Engine -> Result

step = schedule -> prefill -> forward -> guide -> constrain (grammar) -> sample -> retire
"""

from cm3.engine.engine import Engine
from cm3.engine.grammar import Choice, Codes, Force, FreeText, Interleaved, Step
from cm3.engine.request import Event, Request, Result, Sampling

__all__ = [
    "Choice",
    "Codes",
    "Engine",
    "Event",
    "Force",
    "FreeText",
    "Interleaved",
    "Request",
    "Result",
    "Sampling",
    "Step",
]
