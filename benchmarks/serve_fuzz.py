"""`cm3 serve` fuzzed against its own description, /openapi.json, by schemathesis, which stands in an environment of its
own: `python -m venv fuzz && fuzz/bin/pip install schemathesis`.

    python benchmarks/serve_fuzz.py --schemathesis fuzz/bin/schemathesis --seconds 600 --json

There must be no server error, no status, type or form of a body that is not described, and afterwards nothing that
runs. The exit status is 1 where it is not so. Told and not counted: errors of schemathesis itself, and answers in plain
text to a GET, which are uvicorn's own to an address over 64 KB, before the application sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from serve import environment, own_command
from serve_endurance import Seen, rests

from cm3.bench.machine import about
from cm3.bench.serving import Client, serving
from cm3.errors import Cm3Error, ConfigError

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "allow_header_conformance", "unsupported_method",
)  # fmt: skip


def measure(args: argparse.Namespace, report: Path) -> dict[str, Any]:
    """Return what schemathesis found. Raises `ConfigError` where it cannot be run."""
    if (program := shutil.which(args.schemathesis)) is None:
        raise ConfigError(f"--schemathesis {args.schemathesis}: no such program; pip install schemathesis elsewhere")
    with serving(own_command(args.model), environment()) as server:
        command = [program, "run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS), "--continue-on-failure"]
        command += ["--phases", ",".join(args.phases), "--max-time", str(args.seconds), "--workers", "4", "--no-color"]
        command += ["--report", "json", "--report-json-path", str(report), "--suppress-health-check", "all"]
        command += ["--seed", str(args.seed), "--generation-database", "none", "--warnings", "off"]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=report.parent)
        if not report.exists():
            raise ConfigError(f"schemathesis: {(ran.stdout + ran.stderr).strip()[-300:]!r}")
        found, seen = json.loads(report.read_text()), Seen()
        asyncio.run(rests(Client(server.url), seen))
    uvicorns = [one for one in found["failures"] if one["type"] == "UndefinedContentType" and only_gets(one)]
    counted = [one for one in found["failures"] if one not in uvicorns]
    return {
        "rows": [
            {
                "name": "fuzzing",
                "tried": found["test_cases"]["generated"],
                "wrong": sum(one["count"] for one in counted),
            },
            {"name": "end", "tried": 1, "wrong": len(seen.wrong["end"])},
        ],
        "wrong": [*counted, *seen.wrong["end"]],
        "uvicorns": sum(one["count"] for one in uvicorns),
        "of_schemathesis": len(found["errors"]),
        "seconds": round(found["running_time"], 1),
        "log": ran.stdout,
        **about(torch.device("cpu")),
        "clock": "wall",
    }


def only_gets(failure: dict[str, Any]) -> bool:
    """Tell whether a failure was met in GETs alone."""
    return all(operation.startswith("GET ") for operation in failure["operations"])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemathesis", default="schemathesis", help="the program")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--phases", nargs="+", default=["coverage", "fuzzing", "stateful"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="scenes", help="a name, or a bundle's folder")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    if args.seconds < 1:
        parser.error("--seconds must be at least 1")
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = measure(args, Path(folder) / "report.json")
    except Cm3Error as error:
        parser.error(str(error))
    log = report.pop("log")
    for row in report["rows"]:
        print(f"{row['name']:<16}{row['tried']:>8} tried, {row['wrong']} wrong")
    if report["wrong"]:
        print(log)
    print(f"uvicorn's own answers: {report['uvicorns']}; errors of schemathesis: {report['of_schemathesis']}")
    if args.json:
        print(json.dumps(report))
    sys.exit(1 if report["wrong"] else 0)


if __name__ == "__main__":
    main()
