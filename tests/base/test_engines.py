"""Tasks that workers pull: nothing is lost and nothing comes twice, whoever is lost when."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panbench.base.engines import EngineFailed, TaskQueue, cut, spread_of
from panbench.base.errors import BadArgument


@dataclass(frozen=True)
class Numbers:
    """A task: each number is an answer."""

    left: tuple[int, ...]

    def rest(self, answer: int) -> "Numbers | None":
        left = tuple(number for number in self.left if number != answer)
        return Numbers(left) if left else None


def tasks(*numbers: tuple[int, ...]) -> TaskQueue:
    return TaskQueue([Numbers(each) for each in numbers])


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_each_image_is_answered_once_whichever_workers_are_lost_when(images, pieces, workers, chance):
    queue = TaskQueue([Numbers(tuple(piece)) for piece in cut(range(images), pieces)])
    busy: dict[int, list[int]] = {}
    answers: list[int] = []
    lost = 0
    while not queue.is_done:
        while len(busy) < workers and (taken := queue.take()) is not None:
            busy[taken[0]] = list(taken[1].left)
        number = chance.choice(sorted(busy))
        if lost < 3 and chance.random() < 0.3:
            lost += 1
            del busy[number]
            queue.lost(number, "killed.")
        elif busy[number]:
            answers.append(busy[number].pop(0))
            queue.answered(number, answers[-1])
        else:
            del busy[number]
            queue.finished(number)
    assert sorted(answers) == list(range(images))
    assert queue.losses == lost


def test_a_slow_worker_gets_fewer_tasks():
    queue = tasks((1,), (2,), (3,), (4,))
    slow, _ = queue.take()
    for _ in range(3):
        number, task = queue.take()
        queue.answered(number, task.left[0])
        queue.finished(number)
    assert queue.take() is None
    queue.answered(slow, 1)
    queue.finished(slow)
    assert queue.is_done


def test_what_a_lost_worker_left_comes_before_other_tasks_and_without_what_it_answered():
    queue = tasks((1, 2, 3), (4,))
    number, _ = queue.take()
    queue.answered(number, 1)
    queue.lost(number, "killed.")
    assert queue.take()[1] == Numbers((2, 3))


def test_a_worker_that_is_lost_after_its_last_answer_costs_nothing():
    queue = tasks((1,))
    number, _ = queue.take()
    queue.answered(number, 1)
    queue.lost(number, "killed.")
    assert queue.is_done


def test_a_task_that_ends_worker_after_worker_ends_the_run_in_a_sentence():
    queue = tasks((1, 2))
    for _ in range(3):
        queue.lost(queue.take()[0], "out of memory.")
    with pytest.raises(EngineFailed, match=r"ended 4 workers, one after the other. The last one: out of memory."):
        queue.lost(queue.take()[0], "out of memory.")


def test_losses_between_answers_are_not_counted_together():
    queue = tasks(tuple(range(10)))
    for answer in range(9):
        number, _ = queue.take()
        queue.answered(number, answer)
        queue.lost(number, "killed.")
    assert queue.losses == 9
    assert queue.take()[1] == Numbers((9,))


def test_a_worker_that_leaves_images_out_is_found_out():
    queue = tasks((1, 2))
    number, _ = queue.take()
    queue.answered(number, 1)
    with pytest.raises(EngineFailed, match="said that it was done"):
        queue.finished(number)


def test_pieces_are_contiguous_even_and_never_empty():
    assert cut("abcdefg", 3) == ["abc", "de", "fg"]
    assert cut("ab", 5) == ["a", "b"]
    assert cut("", 5) == []


@pytest.mark.parametrize(
    ("engine", "number", "sentence"),
    [
        (None, 4, "--tasks goes with --engine"),
        ("spark", None, "there is no engine 'spark'"),
    ],
)
def test_an_engine_that_makes_no_sense_is_refused(engine, number, sentence):
    with pytest.raises(BadArgument, match=sentence):
        spread_of(engine, number)


def test_without_an_engine_nothing_is_spread():
    assert spread_of(None, None) is None
