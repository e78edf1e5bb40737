from __future__ import annotations

import asyncio
import inspect

import pytest
from pxcluster.twins import call, pause, twin


class Counter:
    def __init__(self):
        self.count = 0

    async def add(self, number, *, times=1):
        """Add a number."""
        for _ in range(times):
            await pause(0.001)
            self.count += number
        return self.count

    add_sync = twin(add)


class Doubler(Counter):
    async def add(self, number, *, times=1):
        return await super().add(2 * number, times=times)


def test_a_twin_does_the_same():
    assert asyncio.run(Counter().add(2, times=3)) == Counter().add_sync(2, times=3) == 6
    assert str(inspect.signature(Counter.add_sync)) == "(self, number, *, times=1)"
    assert (Counter.add_sync.__name__, Counter.add_sync.__doc__) == ("add_sync", "See :meth:`add`.")


def test_a_twin_calls_what_a_subclass_has_made_of_it():
    assert Doubler().add_sync(1) == 2


def test_twins_and_coroutines_take_turns_in_one_loop():
    counter = Counter()

    async def use():
        task = asyncio.create_task(counter.add(1, times=5))
        await asyncio.sleep(0)
        assert counter.add_sync(10) == 10
        return await task

    assert asyncio.run(use()) == 15


def test_errors_and_interrupts_are_raised_inside():
    seen = []

    async def fails(error):
        try:
            await pause(0)
            raise error
        finally:
            seen.append(error)

    for error in (ValueError(1), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            call(fails(error))
        assert seen[-1] is error
    assert asyncio.run(Counter().add(1)) == 1  # coroutines are not blocking afterwards


def test_what_needs_a_loop_is_refused_and_closed():
    closed = []

    async def waits():
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="needs an event loop: await it"):
        call(waits())
    assert closed == [True]
