"""Questions that are asked once for many: how often, and how new the answers are."""

import asyncio

import pytest

from batchyard.jobstore.asking import Questions


class Oracle:
    """Answers with what is true when it is asked, as soon as it may."""

    def __init__(self) -> None:
        self.truth = 0
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self) -> int:
        self.asked += 1
        self.was_asked.set()
        seen = self.truth
        await self.may_answer.wait()
        return seen


async def test_who_asks_together_is_answered_together() -> None:
    questions, oracle = Questions[int](), Oracle()
    oracle.may_answer.set()
    assert await asyncio.gather(*(questions.ask("key", oracle) for _ in range(100))) == [0] * 100
    assert oracle.asked == 1


async def test_who_comes_later_gets_an_answer_that_is_not_older() -> None:
    questions, oracle = Questions[int](), Oracle()
    first = asyncio.create_task(questions.ask("key", oracle))
    await oracle.was_asked.wait()
    oracle.truth = 1
    later = [asyncio.create_task(questions.ask("key", oracle)) for _ in range(10)]
    await asyncio.sleep(0)
    oracle.may_answer.set()
    assert await first == 0
    assert await asyncio.gather(*later) == [1] * 10
    assert oracle.asked == 2


async def test_another_question_does_not_wait() -> None:
    questions, stuck, oracle = Questions[int](), Oracle(), Oracle()
    waiting = asyncio.create_task(questions.ask("stuck", stuck))
    oracle.may_answer.set()
    assert await questions.ask("other", oracle) == 0
    stuck.may_answer.set()
    assert await waiting == 0


async def test_an_error_reaches_all_who_asked_and_nobody_after_them() -> None:
    questions: Questions[int] = Questions()

    async def fail() -> int:
        raise ValueError("no")

    assert [
        type(error)
        for error in await asyncio.gather(*(questions.ask("key", fail) for _ in range(3)), return_exceptions=True)
    ] == [ValueError] * 3
    oracle = Oracle()
    oracle.may_answer.set()
    assert await questions.ask("key", oracle) == 0


async def test_one_that_is_cancelled_leaves_the_answer_to_the_others() -> None:
    questions, oracle = Questions[int](), Oracle()
    first = asyncio.create_task(questions.ask("key", oracle))
    second = asyncio.create_task(questions.ask("key", oracle))
    await oracle.was_asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    oracle.may_answer.set()
    assert await second == 0
    assert oracle.asked == 1
