"""Work for requests is shared, given up and bounded. Nothing here waits for time: threads wait for events."""

import asyncio
import threading

import pytest
from support import awaited

from panbench.report.pages.live.sharing import Abandoned, Busy, Shared


class Work:
    """A computation that begins when it is told to, counts how often it began, and can be stopped at its one step."""

    def __init__(self, result="done"):
        self.result = result
        self.began = 0
        self.started = threading.Event()
        self.may_go_on = threading.Event()
        self.ended = threading.Event()
        self.stopped = False

    def __call__(self, stop):
        self.began += 1
        self.started.set()
        self.may_go_on.wait()
        try:
            stop.check()
        except Abandoned:
            self.stopped = True
            raise
        finally:
            self.ended.set()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def begun(work):
    await asyncio.to_thread(work.started.wait)


async def settled():
    """Lets every task run until it waits for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario):
    awaited(scenario)


def test_identical_requests_share_one_computation():
    async def scenario():
        shared, work = Shared(1, 2), Work()
        waiting = [asyncio.ensure_future(shared.result("key", work)) for _ in range(200)]
        await begun(work)
        work.may_go_on.set()
        assert await asyncio.gather(*waiting) == ["done"] * 200
        assert work.began == 1
        # What is done is done: the next request computes again, and its answer is its own.
        again = Work("again")
        again.may_go_on.set()
        assert await shared.result("key", again) == "again"

    run(scenario)


def test_all_who_share_a_computation_get_its_error():
    async def scenario():
        shared, work = Shared(1, 2), Work(ValueError("bad"))
        work.may_go_on.set()
        waiting = [shared.result("key", work) for _ in range(3)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(error) for error in found] == ["bad"] * 3
        assert work.began == 1

    run(scenario)


def test_an_abandoned_computation_that_waits_never_starts():
    async def scenario():
        shared, first, second, third = Shared(1, 2), Work(), Work(), Work()
        one = asyncio.ensure_future(shared.result(1, first))
        await begun(first)
        two = asyncio.ensure_future(shared.result(2, second))
        three = asyncio.ensure_future(shared.result(3, third))
        await settled()
        two.cancel()
        await settled()
        for work in (first, second, third):
            work.may_go_on.set()
        assert await asyncio.gather(one, three) == ["done", "done"]
        assert (first.began, second.began, third.began) == (1, 0, 1)

    run(scenario)


def test_an_abandoned_computation_that_runs_stops_at_its_next_step():
    async def scenario():
        shared, work = Shared(1, 2), Work()
        task = asyncio.ensure_future(shared.result("key", work))
        await begun(work)
        task.cancel()
        await settled()
        # An equal request that comes now is a computation of its own, and has its answer.
        fresh = Work("fresh")
        fresh.may_go_on.set()
        later = asyncio.ensure_future(shared.result("key", fresh))
        await settled()
        work.may_go_on.set()
        assert await later == "fresh"
        assert work.stopped

    run(scenario)


def test_who_leaves_does_not_stop_what_others_wait_for():
    async def scenario():
        shared, work = Shared(1, 2), Work()
        staying = asyncio.ensure_future(shared.result("key", work))
        leaving = asyncio.ensure_future(shared.result("key", work))
        await begun(work)
        leaving.cancel()
        await settled()
        work.may_go_on.set()
        assert await staying == "done"
        assert not work.stopped

    run(scenario)


def test_beyond_a_bound_a_computation_is_refused_and_room_is_made_by_who_leaves():
    async def scenario():
        shared, work, other = Shared(1, 1, retry_after=7), Work(), Work()
        one = asyncio.ensure_future(shared.result(1, work))
        await begun(work)
        two = asyncio.ensure_future(shared.result(2, other))
        await settled()
        with pytest.raises(Busy, match="Try again in 7 seconds"):
            await shared.result(3, Work())
        joined = asyncio.ensure_future(shared.result(2, other))
        await settled()
        for task in (two, joined):
            task.cancel()
        await settled()
        third = Work()
        three = asyncio.ensure_future(shared.result(3, third))
        await settled()
        for each in (work, third):
            each.may_go_on.set()
        assert await asyncio.gather(one, three) == ["done", "done"]
        assert other.began == 0

    run(scenario)


def test_so_many_run_at_a_time_and_no_more():
    async def scenario():
        shared, works = Shared(2, 8), [Work(number) for number in range(5)]
        tasks = [asyncio.ensure_future(shared.result(number, work)) for number, work in enumerate(works)]
        await begun(works[0])
        await begun(works[1])
        await settled()
        assert [work.began for work in works] == [1, 1, 0, 0, 0]
        for work in works:
            work.may_go_on.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]

    run(scenario)


def test_a_server_that_ends_gives_all_up():
    async def scenario():
        shared, running, waiting = Shared(1, 2), Work(), Work()
        tasks = [asyncio.ensure_future(shared.result(work, work)) for work in (running, waiting)]
        await begun(running)
        shared.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in found)
        running.may_go_on.set()
        await asyncio.to_thread(running.ended.wait)
        assert running.stopped
        assert waiting.began == 0

    run(scenario)
