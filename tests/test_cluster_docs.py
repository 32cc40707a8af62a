"""docs/cluster.md: its files are what their programs read, and give `cm3 train` options that the recipe has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cm3.cli.parse import names_of
from cm3.cli.recipe import find

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def check(words: list[str]) -> None:
    """The words after `cm3 train`: a recipe, and options that it has."""
    spec, *rest = words
    known = {f"--{name}".replace("_", "-") for name in names_of(find(f"{ROOT}/{spec}")())} | {"--resume"}
    flags = {w for w in rest if w.startswith("--")}
    assert "--resume" in flags and len(flags) > 4 and flags <= known, flags - known


def test_the_batch_script_of_slurm() -> None:
    script = block("bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    assert options["ntasks-per-node"] == "1" and options["signal"].startswith("B:USR1@") and "requeue" in options
    command = script.replace("\\\n", " ").split("-m cm3 train ")[1].split(" &")[0]
    check(command.split())


def test_the_job_of_kubernetes() -> None:
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all(block("yaml"))
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    [container] = pod["containers"]
    args = container["args"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": name}}
    assert pod["subdomain"] == service["metadata"]["name"] and job["spec"]["completionMode"] == "Indexed"
    assert f"--nnodes={job['spec']['completions']}" in args and job["spec"]["parallelism"] == job["spec"]["completions"]
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in args
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:29500" in args
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    check(args[args.index("train") + 1 :])
