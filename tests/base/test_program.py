import gc

import pytest

from panbench.base import program


@pytest.fixture
def unfrozen():
    before = gc.get_freeze_count()
    yield
    if not before:
        gc.unfreeze()


def test_in_the_program_the_collector_never_looks_at_what_was_imported(monkeypatch, unfrozen):
    monkeypatch.setattr(program, "_ours", True)
    before = gc.get_freeze_count()
    with program.importing():
        assert not gc.isenabled()
        with program.importing():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one goes on"
        made = [[number] for number in range(10_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_an_import_that_fails_leaves_the_collector_on(monkeypatch, unfrozen):
    monkeypatch.setattr(program, "_ours", True)
    with pytest.raises(ImportError), program.importing():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_in_another_program_importing_changes_nothing():
    before = gc.get_freeze_count()
    with program.importing():
        assert gc.isenabled()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, before)
