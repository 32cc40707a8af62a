"""The service and its loop: what many ask at once is what each would get alone, and nothing is held at the end."""

from __future__ import annotations

import asyncio
import copy
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cm3.cli.serve import Serve
from cm3.document import Gap
from cm3.engine.engine import Engine
from cm3.errors import ConfigError, DataError, RequestError
from cm3.generate import CM3Leon
from cm3.retrieval.live import Retriever
from cm3.serve.engine_loop import LOG, Ticket
from cm3.serve.limits import Settings
from cm3.serve.problem import Problem
from cm3.serve.service import Service, Work

WORDS = "a red circle on a grey background"


def served(model: CM3Leon, ask: Callable[[Service], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    """The result of what asks a service that runs meanwhile."""

    async def whole() -> Any:
        service = Service(model, Settings(**settings))
        service.start()
        try:
            return await ask(service)
        finally:
            await service.close()
            assert service.loop.load[:4] == (0, 0, 0, 0), "rows or blocks are held at the end"

    return asyncio.run(whole())


def layout(model: CM3Leon, words: str = WORDS, seed: int = 0, **options: Any) -> Callable[[], Any]:
    return lambda: model.prepare([words], seeds=[seed], **{"candidates": 1, **options})


def test_the_command_says_how_many_streams_run_side_by_side() -> None:
    verb = Serve.parse(["--streams", "3", "--queue", "7"], "cm3 serve")
    service = verb._service(Settings(**verb.limits.settings()))
    assert (service.model.max_streams, service.settings.queue) == (3, 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--time-limit 0", "--time-limit 0.0: must be at least 0.001"),
        ("--body-mb -1", "--body-mb -1.0: must be at least 0.001"),
        ("--grace -1", "--grace -1.0: must be at least 0"),
        (
            "--memory-writable",
            "--memory-writable: a bank of the model's own stays as it is; give one with --memory DIR",
        ),
        ("--replicas 3", "--replicas 3: is for replicas on Ray Serve; give --ray, or leave it out"),
        ("--cluster local", "--cluster local: is for replicas on Ray Serve; give --ray, or leave it out"),
    ],
)
def test_an_option_that_is_wrong_is_told_at_once(arguments: str, said: str) -> None:
    with pytest.raises((ConfigError, RequestError)) as error:
        Serve.parse(arguments.split(), "cm3 serve").run()
    assert str(error.value) == said


def test_a_bank_that_is_not_there_is_told_before_it_serves(tmp_path: Path) -> None:
    verb = Serve.parse(["--memory", str(tmp_path / "none")], "cm3 serve")
    with pytest.raises(DataError, match="none': has no manifest.json"):
        verb._service(Settings())


def test_many_at_once_get_what_each_gets_alone(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        return await asyncio.gather(*(service.make(layout(model, seed=seed)) for seed in range(5)))

    for seed, made in enumerate(served(model, ask)):
        (one,) = made.generations
        assert one.document == model.generate(WORDS, seed=seed, candidates=1).document


@pytest.mark.parametrize("watched", [False, True])
def test_thoughts_are_written_beside_all_else_and_counted(
    model: CM3Leon, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "world", None)  # it was never taught to think, and what it does not know is left out

    def thinking(seed: int) -> Any:
        return lambda: model.prepare([WORDS] * 2, seeds=[seed, seed + 1], candidates=1, think=True)

    async def ask(service: Service) -> Any:
        async def streamed(seed: int) -> tuple[Any, Any]:
            stream = service.stream(thinking(seed))
            return [u.chunk.generation async for u in stream if u.chunk.generation], stream

        if watched:
            return await streamed(1), await streamed(4)
        made = await asyncio.gather(service.make(thinking(1)), service.make(thinking(4)))
        return [(m.generations, m) for m in made]

    for seed, (made, told) in zip((1, 4), served(model, ask), strict=True):
        want = [model.generate(WORDS, seed=s, candidates=1, think=True) for s in (seed, seed + 1)]
        by_thought = {one.thoughts: one.document.parts for one in want}
        assert {one.thoughts: one.document.parts for one in made} == by_thought
        assert len(by_thought) == 2 and all(any(thought) for thought in by_thought)
        assert told.usage.text_out >= sum(len(t[0].split()) for t in by_thought)
        if watched:  # each answer's own count has its thought
            assert sum(one.text_out for one in told.written.values()) == told.usage.text_out


def test_tokens_are_counted_by_modality(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        drawn = await service.make(layout(model))
        twice = await service.make(lambda: model.prepare([WORDS] * 2, seeds=[0, 1], candidates=1))
        words = await service.make(lambda: model.prepare([drawn.generations[0].image], seeds=[0], max_tokens=12))
        return drawn.usage, twice.usage, words.usage

    drawn, twice, words = served(model, ask)
    codes = model.grid[0] * model.grid[1]
    assert (drawn.image_in, drawn.image_out) == (0, codes) and drawn.text_in > len(WORDS.split())
    assert (twice.text_in, twice.image_out) == (drawn.text_in, 2 * codes), "an equal prompt is read once"
    assert words.image_in == codes and words.image_out == 0 and 0 < words.text_out <= 14


def test_a_stream_is_the_same_picture_row_by_row(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        stream = service.stream(layout(model, seed=3))
        updates = [update async for update in stream]
        return updates, stream.usage

    updates, usage = served(model, ask)
    rows = [chunk.rows for _, chunk in updates[:-1]]
    assert rows == list(range(1, model.grid[0] + 1))
    assert updates[-1].chunk.generation.document == model.generate(WORDS, seed=3, candidates=1).document
    assert usage.image_out == model.grid[0] * model.grid[1]


def test_words_come_as_they_are_written(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        parts = ["a red ", Gap(), " above a blue square"]
        return [u async for u in service.stream(lambda: model.prepare([parts], seeds=[1], max_tokens=8, candidates=1))]

    updates = served(model, ask)
    (filled,) = updates[-1].chunk.generation.filled[0]
    assert "".join(chunk.text for _, chunk in updates) == filled.text


def test_news_that_nobody_watches_are_the_first_tokens_and_the_result(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        requests = layout(model)()[0].requests
        tickets = [service.loop.submit(requests, watched) for watched in (True, False)]
        return [[news async for news in ticket.news()] for ticket in tickets]

    watched, unwatched = served(model, ask)
    assert len(unwatched) == 2 < len(watched)
    assert unwatched[0].result is None and unwatched[0].tokens.length == watched[0].tokens.length
    whole = watched[-1].result.tokens
    assert unwatched[-1].result.tokens.ids.tolist() == whole.ids.tolist()
    assert [id for news in watched for id in news.tokens.ids] == whole.ids.tolist()


def test_one_who_leaves_frees_the_rows_while_others_go_on(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        works: list[Work] = []
        service.observers.append(works.append)
        other = asyncio.create_task(service.make(layout(model, seed=1)))
        stream = aiter(service.stream(layout(model, seed=2)))
        await anext(stream)
        await stream.aclose()
        made = await other
        return made, [work.outcome for work in works], service.active

    made, outcomes, active = served(model, ask)
    assert made.generations[0].document == model.generate(WORDS, seed=1, candidates=1).document
    assert outcomes == ["cancelled", "done"] and active == 0


def test_a_task_that_is_cancelled_frees_the_rows(model: CM3Leon) -> None:
    async def ask(service: Service) -> None:
        tasks = [asyncio.create_task(service.make(layout(model, seed=seed))) for seed in range(3)]
        while service.loop.load.running < 3:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    served(model, ask)


def test_a_full_queue_is_told(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        first = asyncio.create_task(service.make(layout(model)))
        while not service.active:
            await asyncio.sleep(0)
        with pytest.raises(Problem, match="1 requests wait or run, which is the most") as told:
            await service.make(layout(model))
        await first
        await service.make(layout(model))
        return told.value

    problem = served(model, ask, queue=1)
    assert problem.status == 429 and 1 <= int(problem.headers["retry-after"]) <= 60


def test_an_answer_past_the_limit_is_told(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        with pytest.raises(Problem, match="took longer than 0.001 s, the server's limit") as told:
            await service.make(layout(model))
        return told.value

    problem = served(model, ask, time_limit_s=0.001)
    assert problem.status == 504 and problem.headers["x-should-retry"] == "false"


def test_work_at_the_desk_has_the_same_limit(model: CM3Leon) -> None:
    """What waits there too long is told, and not begun any more."""
    begun: list[str] = []

    async def ask(service: Service) -> Any:
        free = threading.Event()
        service._desk.submit(free.wait)
        try:
            with pytest.raises(Problem, match="took longer than 0.1 s, the server's limit") as told:
                await service.desk(begun.append, "late")
        finally:
            free.set()
        await asyncio.wrap_future(service._desk.submit(begun.append, "after"))
        return told.value

    assert served(model, ask, time_limit_s=0.1).status == 504 and begun == ["after"]


def test_an_error_of_the_work_is_not_taken_for_the_limit(model: CM3Leon) -> None:
    def late() -> None:
        raise TimeoutError("of a disk")

    async def ask(service: Service) -> None:
        with pytest.raises(TimeoutError, match="of a disk"):
            await service.desk(late)

    served(model, ask)


def test_who_asks_for_much_leaves_room_for_others(model: CM3Leon) -> None:
    """Where two run at a time, one who comes behind eight of another is done before the fourth of them."""
    small = copy.copy(model)
    small.max_streams, small._idle = 2, []
    done: list[str] = []

    async def take(name: str, ticket: Ticket) -> None:
        async for news in ticket.news():
            if news.result is not None:
                done.append(name)

    async def both() -> None:
        service = Service(small)
        much = layout(model, candidates=8, guidance=1.0, temperature=1.0)()[0].requests
        few = layout(model, seed=5, guidance=1.0)()[0].requests
        tickets = [service.loop.submit(some, watched=False) for some in (much, few)]
        service.start()
        await asyncio.gather(*map(take, ("much", "few"), tickets))
        await service.close()

    asyncio.run(both())
    assert len(done) == 9 and done.index("few") < 4


def test_what_waits_is_counted_and_leaves_with_its_ticket(model: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> None:
    small = copy.copy(model)
    small.max_streams, small._idle = 2, []
    seen, poll = threading.Event(), Engine.poll

    def until_done(self: Engine) -> Any:
        events = poll(self)
        if any(event.result is not None for event in events):
            assert seen.wait(60)
        return events

    async def ask(service: Service) -> None:
        monkeypatch.setattr(Engine, "poll", until_done)
        requests = layout(model, candidates=8, guidance=1.0, temperature=1.0)()[0].requests
        ticket = service.loop.submit(requests)
        while service.loop.load.running < 2:
            await asyncio.sleep(0.001)
        assert service.loop.load[:3] == (2, 6, 2)
        ticket.cancel()
        seen.set()
        await service.make(layout(model, guidance=1.0))

    served(small, ask)


def test_the_bank_is_opened_beside_what_needs_none(model: CM3Leon) -> None:
    """Pictures are drawn while it opens, and who needs it waits for it, not at the desk."""
    opening, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        opening.set()
        assert go_on.wait(60)

    other, bank = copy.copy(model), model.bundle
    other.retriever = Retriever(bank.memory, None, bank.encoder, slow)

    async def ask(service: Service) -> Any:
        assert await asyncio.to_thread(opening.wait, 60)
        waits = asyncio.create_task(service.bank())
        made = await service.make(layout(model, seed=3))
        assert not waits.done()
        go_on.set()
        await waits
        return made, await service.desk(lambda: len(other.memory))

    made, documents = served(other, ask)
    assert made.generations[0].document == model.generate(WORDS, seed=3, candidates=1).document
    assert documents == len(model.memory)


def test_a_bank_that_cannot_be_opened_is_told_in_the_log_and_to_who_asks(
    model: CM3Leon, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOG, "propagate", True)

    async def ask(service: Service) -> None:
        await service.bank()
        assert "the memory bank cannot be opened: " in caplog.text and "has no manifest.json" in caplog.text
        with pytest.raises(DataError, match="has no manifest.json"):
            await service.make(layout(service.model, retrieve=1))
        await service.make(layout(service.model))

    served(model.with_memory(tmp_path), ask)


def test_the_input_is_refused_and_the_next_is_served(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        works: list[Work] = []
        service.observers.append(works.append)
        with pytest.raises(RequestError, match="prompt: is empty"):
            await service.make(layout(model, " "))
        await service.make(layout(model))
        return [work.outcome for work in works]

    assert served(model, ask) == ["refused", "done"]


def test_an_engine_that_fails_is_replaced(model: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran is told, and the next is served by another."""
    poll = Engine.poll

    def broken(self: Engine) -> Any:
        if len(self._schedule.active) == 2:
            raise MemoryError("no more room")
        return poll(self)

    async def ask(service: Service) -> Any:
        both = [asyncio.create_task(service.make(layout(model, seed=seed))) for seed in (1, 2)]
        failed = await asyncio.gather(*both, return_exceptions=True)
        return failed, await service.make(layout(model, seed=1))

    monkeypatch.setattr(Engine, "poll", broken)
    failed, made = served(model, ask)
    assert [type(error) for error in failed] == [MemoryError] * 2
    assert made.generations[0].document == model.generate(WORDS, seed=1, candidates=1).document


def test_an_engine_that_fails_is_gone_before_the_next_is_made(model: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache is the memory that the next one takes."""
    monkeypatch.setattr(LOG, "disabled", True)  # pytest keeps what is logged, with the frames of the error
    gone: list[bool] = []

    def broken(self: Engine) -> Any:
        raise MemoryError("no more room")

    async def ask(service: Service) -> None:
        first, poll = weakref.ref(service.loop._engine), Engine.poll

        def another() -> Engine:
            gone.append(first() is None)
            monkeypatch.setattr(Engine, "poll", poll)
            return model.new_engine()

        monkeypatch.setattr(service.loop, "_new_engine", another)
        monkeypatch.setattr(Engine, "poll", broken)
        with pytest.raises(MemoryError):
            await service.make(layout(model))
        await service.make(layout(model))

    served(model, ask)
    assert gone == [True]


def test_without_an_engine_everyone_is_told_at_once(model: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any = None) -> Any:
        raise MemoryError("no more room")

    async def ask(service: Service) -> Any:
        monkeypatch.setattr(Engine, "poll", broken)
        monkeypatch.setattr(service.loop, "_new_engine", broken)
        both = [asyncio.create_task(service.make(layout(model, seed=seed))) for seed in (1, 2)]
        failed = await asyncio.gather(*both, return_exceptions=True)
        late = service.loop.submit(layout(model)()[0].requests)  # as one that was let in just before
        with pytest.raises(MemoryError):
            await anext(aiter(late.news()))
        assert not service.ready
        with pytest.raises(Problem) as told:
            await service.make(layout(model))
        return failed, told.value.status

    failed, status = served(model, ask)
    assert [type(error) for error in failed] == [MemoryError] * 2 and status == 503


def test_closing_finishes_what_runs_and_takes_no_more(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        running = asyncio.create_task(service.make(layout(model)))
        while not service.loop.load.running:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="the server is stopping") as told:
            await service.make(layout(model))
        await closing
        return told.value, (await running).generations

    problem, made = served(model, ask)
    assert problem.status == 503 and "retry-after" in problem.headers and len(made) == 1


def test_closing_ends_what_takes_longer_than_the_grace(model: CM3Leon) -> None:
    async def ask(service: Service) -> Any:
        running = asyncio.create_task(service.make(layout(model)))
        while not service.loop.load.running:
            await asyncio.sleep(0.001)
        await service.close()
        with pytest.raises(Problem, match="stopped before the answer was done") as told:
            await running
        return told.value

    assert served(model, ask, grace_s=0).status == 503


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("queue", 0, "must be an integer, at least 1"),
        ("time_limit_s", 0, "at least 0.001"),
        ("grace_s", -1, "at least 0"),
        ("body_mb", float("nan"), "at least 0.001"),
    ],
)
def test_a_limit_out_of_range_is_refused(name: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"serve.{name}.*{rule}"):
        Settings(**{name: value})
