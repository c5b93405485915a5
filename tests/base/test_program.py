import gc

import pytest

from panbench.base import program


@pytest.fixture
def unfrozen():
    before = gc.get_freeze_count()
    yield
    if not before:
        gc.unfreeze()


def test_the_program_freezes_imported_objects_for_the_garbage_collector(monkeypatch, unfrozen):
    monkeypatch.setattr(program, "_is_program", True)
    before = gc.get_freeze_count()
    with program.importing():
        assert not gc.isenabled()
        with program.importing():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one goes on"
        made = [[number] for number in range(10_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_a_failed_import_leaves_the_garbage_collector_on(monkeypatch, unfrozen):
    monkeypatch.setattr(program, "_is_program", True)
    with pytest.raises(ImportError), program.importing():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_importing_into_another_program_changes_no_setting():
    before = gc.get_freeze_count()
    with program.importing():
        assert gc.isenabled()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, before)
