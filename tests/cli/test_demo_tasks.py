"""Instructions in the demo: what was asked, what a model gives, how it is marked; nothing for one that is untuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from cm3.document import Image
from cm3.generate.tasks import Reply
from cm3.scenes.cli.demo_tasks import GROUPS, tally, task_sections
from cm3.scenes.data.lesson_documents import TASKS, scene_example
from cm3.tasks import Task

ONE = "Make a segmentation map of the image"


class Knows(SimpleNamespace):
    """Answers as the scenes have it; every second one that of another scene."""

    image_size: int
    tasks: tuple[str, ...]

    def ask_many(
        self,
        task: Task,
        requests: Sequence[Mapping[str, Any]],
        *,
        seeds: Sequence[int],
        template: int,
        **settings: Any,
    ) -> list[Reply]:
        """As `CM3Leon.ask_many`."""
        assert not settings
        replies = []
        for place, (request, seed) in enumerate(zip(requests, seeds, strict=True)):
            true = scene_example(task.name, 0, seed, self.image_size, "test").fields
            assert request == {n: true[n] for n in task.template(template).fields if n not in task.gives}
            said = scene_example(task.name, 0, 1000 + place, self.image_size, "test").fields if place % 2 else true
            fields = {n: v.pixels if isinstance(v, Image) else v for n, v in said.items() if n in task.gives}
            replies.append(Reply((fields,), None))  # type: ignore[arg-type]
        return replies


def test_every_task_is_shown_and_marked() -> None:
    model: Any = Knows(image_size=128, tasks=TASKS)
    results, sections = task_sections(model, seed=2)
    shown = {s.task: s.number for group in GROUPS for s in group.tasks}
    assert {name: len(made) for name, made in results.items()} == shown
    assert {"edit", "boxes", "vqa2"} <= set(shown) < set(TASKS) and [s.title for s in sections] == [
        g.title for g in GROUPS
    ]
    for made in results.values():
        assert [one["ok"] for one in made[::2]] == [True] * len(made[::2])
        assert not any(one["ok"] for one in made[1::2] if "answer" not in one)
        assert all(one["asked"] for one in made)
    assert results["segment"][0]["asked"] == ONE
    edits = sections[0].panels
    assert len(edits) == 3 * shown["edit"] and edits[0].lines[0].text == results["edit"][0]["asked"]
    assert [panel.lines[0].style for panel in edits[1::3]] == ["right", "wrong"] * 3
    # What came of the first is the very picture that would be right.
    assert edits[1].picture.tobytes() == edits[2].picture.tobytes() != edits[0].picture.tobytes()
    assert tally(results).startswith(f"{sum(one['ok'] for some in results.values() for one in some)} of ")


def test_a_model_shows_what_it_was_tuned_for(capsys: Any) -> None:
    some: Any = Knows(image_size=128, tasks=("vqa2", "edit"))
    results, sections = task_sections(some, seed=0)
    assert list(results) == ["edit", "vqa2"] and [s.title for s in sections] == [GROUPS[0].title, "Questions"]
    assert "edit      right   " in capsys.readouterr().out
    assert task_sections(Knows(image_size=128, tasks=()), 0) == ({}, [])  # type: ignore[arg-type]
    # Pictures of 32 pixels cannot be measured; answers can.
    small: Any = Knows(image_size=32, tasks=("vqa2", "edit"))
    assert list(task_sections(small, 0)[0]) == ["vqa2"]
    assert tally({}) == ""
