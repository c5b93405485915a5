"""What the tests of evaluations share: full collections look at what a test makes, not at PyTorch's modules."""

from collections.abc import Iterator

import pytest
from support import small_heap


@pytest.fixture(autouse=True)
def _small_heap() -> Iterator[None]:
    """After each setting of a benchmark, and where memory is short, the garbage collector looks at all objects."""
    with small_heap():
        yield
