import os

import pytest

from panbench.base import program, threads
from panbench.base.threads import default_threads, one_thread_for_blas


@pytest.mark.parametrize(
    ("cores", "processes", "besides", "expected"),
    [(1, 1, 0, 1), (4, 1, 0, 4), (4, 1, 1, 5), (64, 1, 0, 8), (64, 1, 1, 8), (8, 4, 0, 2), (2, 4, 0, 1)],
)
def test_threads_are_as_many_as_cores_at_least_one_and_at_most_eight(monkeypatch, cores, processes, besides, expected):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    assert default_threads(processes, besides) == expected


@pytest.mark.parametrize(("ours", "given", "expected"), [(True, None, "1"), (True, "3", "3"), (False, None, None)])
def test_only_the_program_has_blas_use_one_thread_and_the_users_number_stays(monkeypatch, ours, given, expected):
    monkeypatch.setattr(program, "_ours", ours)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    one_thread_for_blas()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == expected
