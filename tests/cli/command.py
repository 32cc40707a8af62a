"""What a command did, and what its error looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Ran(NamedTuple):
    """The exit code of a command and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def refusal(self) -> str:
        """The message of a command that the user has to mend: exit code 2, one line on stderr and nothing else."""
        assert self.code == 2
        assert self.err.startswith("cm3: error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("cm3: error: ").rstrip("\n")


Cm3 = Callable[..., Ran]
