import os

import pytest

from panbench.base import program
from panbench.base.program import default_threads, one_thread_for_blas


@pytest.mark.parametrize(
    ("cores", "processes", "besides", "expected"),
    [(1, 1, 0, 1), (4, 1, 0, 4), (4, 1, 1, 5), (64, 1, 0, 8), (64, 1, 1, 8), (8, 4, 0, 2), (2, 4, 0, 1)],
)
def test_the_number_of_threads_is_that_of_cores_from_one_to_eight(monkeypatch, cores, processes, besides, expected):
    monkeypatch.setattr(program, "available_cores", lambda: cores)
    assert default_threads(processes, besides) == expected


@pytest.mark.parametrize(("ours", "given", "expected"), [(True, None, "1"), (True, "3", "3"), (False, None, None)])
def test_only_the_program_sets_blas_to_one_thread_and_keeps_a_users_setting(monkeypatch, ours, given, expected):
    monkeypatch.setattr(program, "_is_program", ours)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    one_thread_for_blas()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == expected
