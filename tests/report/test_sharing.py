"""Work for requests is shared, given up and bounded. Nothing here waits for time: threads wait for events."""

import asyncio
import threading

import pytest
from support import in_a_loop

from panbench.report.pages.live.sharing import RequestAbandoned, ServerBusy, SharedComputations


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
            stop.raise_if_abandoned()
        except RequestAbandoned:
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


@in_a_loop
async def test_identical_requests_share_one_computation():
    shared, work = SharedComputations(2), Work()
    waiting = [asyncio.ensure_future(shared.result("key", work)) for _ in range(200)]
    await begun(work)
    work.may_go_on.set()
    assert await asyncio.gather(*waiting) == ["done"] * 200
    assert work.began == 1
    # What is done is done: the next request computes again, and its answer is its own.
    again = Work("again")
    again.may_go_on.set()
    assert await shared.result("key", again) == "again"


@in_a_loop
async def test_an_error_reaches_all_who_share_the_computation():
    shared, work = SharedComputations(2), Work(ValueError("bad"))
    work.may_go_on.set()
    waiting = [shared.result("key", work) for _ in range(3)]
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in found] == ["bad"] * 3
    assert work.began == 1


@in_a_loop
async def test_an_abandoned_waiting_computation_never_starts():
    shared, first, second, third = SharedComputations(2), Work(), Work(), Work()
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


@in_a_loop
async def test_an_abandoned_computation_that_runs_stops_at_its_next_step():
    shared, work = SharedComputations(2), Work()
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


@in_a_loop
async def test_leaving_does_not_stop_a_computation_that_others_wait_for():
    shared, work = SharedComputations(2), Work()
    staying = asyncio.ensure_future(shared.result("key", work))
    leaving = asyncio.ensure_future(shared.result("key", work))
    await begun(work)
    leaving.cancel()
    await settled()
    work.may_go_on.set()
    assert await staying == "done"
    assert not work.stopped


@in_a_loop
async def test_computations_beyond_a_bound_are_refused_until_a_client_leaves():
    shared, work, other = SharedComputations(1, retry_after=7), Work(), Work()
    one = asyncio.ensure_future(shared.result(1, work))
    await begun(work)
    two = asyncio.ensure_future(shared.result(2, other))
    await settled()
    with pytest.raises(ServerBusy, match="Try again in 7 seconds"):
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


@in_a_loop
async def test_only_one_computation_runs_at_a_time():
    shared, works = SharedComputations(8), [Work(number) for number in range(5)]
    tasks = [asyncio.ensure_future(shared.result(number, work)) for number, work in enumerate(works)]
    await begun(works[0])
    await settled()
    assert [work.began for work in works] == [1, 0, 0, 0, 0]
    for work in works:
        work.may_go_on.set()
    assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]


@in_a_loop
async def test_a_stopping_server_abandons_all_computations():
    shared, running, waiting = SharedComputations(2), Work(), Work()
    tasks = [asyncio.ensure_future(shared.result(work, work)) for work in (running, waiting)]
    await begun(running)
    for task in tasks:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in found)
    running.may_go_on.set()
    await asyncio.to_thread(running.ended.wait)
    assert running.stopped
    assert waiting.began == 0
