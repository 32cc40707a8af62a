"""`python -m cm3` is the command `cm3`."""

from __future__ import annotations

import sys

from cm3.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
