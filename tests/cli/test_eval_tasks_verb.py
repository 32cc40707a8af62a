"""`cm3 eval scenes --tasks`: instruction tasks beside those of pretraining, one report, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Cm3


def test_instruction_tasks_stand_beside_the_others(cm3: Cm3, tiny: Path) -> None:
    args = ("--n", "1", "--candidates", "1", "--guidance", "1", "--json")
    ran = cm3("eval", "scenes", "--model", tiny, "--tasks", "segment,vqa2", "text_to_image", *args)
    assert ran.code == 0, ran.err
    report = json.loads(ran.out.splitlines()[-1])
    assert set(report["tasks"]) == {"segment", "vqa2"} and "text_to_image" in report and "unguided" not in report
    assert report["n"] == 1 and set(report["details"]) == {"segment", "vqa2", "text_to_image"}
    told = ran.out + ran.err
    assert "segment           iou" in told and "vqa2              exact" in told and "text_to_image     exact" in told


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--tasks", "edit,boxs"), "--tasks boxs: must be among text_to_image"),
        (
            ("--tasks", "vqa2", "--image-guidance", "2"),
            "--image-guidance 2.0: is for editing; name the task edit, or all",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(cm3: Cm3, tiny: Path, args: tuple[str, ...], message: str) -> None:
    ran = cm3("eval", "scenes", "--model", tiny, *args)
    assert ran.code == 2 and message in ran.err
