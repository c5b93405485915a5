import pytest

from panbench.base import threads
from panbench.base.threads import default_threads


@pytest.mark.parametrize(
    ("cores", "processes", "besides", "expected"),
    [(1, 1, 0, 1), (4, 1, 0, 4), (4, 1, 1, 5), (64, 1, 0, 8), (64, 1, 1, 8), (8, 4, 0, 2), (2, 4, 0, 1)],
)
def test_threads_are_as_many_as_cores_at_least_one_and_at_most_eight(monkeypatch, cores, processes, besides, expected):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    assert default_threads(processes, besides) == expected
