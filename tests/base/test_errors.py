"""An error has a reason and ways out; whoever prints it leaves out the ways that are not open there."""

import pickle

import pytest

from panbench.base.errors import BadRun, PanbenchError, Way

REASON = "a and b have other images."
COMMON, MIXED = (
    Way("compare on the images of both with --common-images", "--common-images"),
    Way("add --mixed", "--mixed"),
)


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ((), REASON),
        (("make a again",), f"{REASON} Make a again."),
        (("make a again", MIXED), f"{REASON} Make a again, or add --mixed."),
        (("--out is too long", MIXED), f"{REASON} --out is too long, or add --mixed."),
        (("x", COMMON, MIXED), f"{REASON} X, {COMMON.words}, or add --mixed."),
    ],
)
def test_hints_become_one_sentence(ways, said):
    assert str(BadRun(REASON, ways=ways)) == said


def test_a_command_does_not_suggest_options_of_another():
    error = BadRun(REASON, ways=["make a again", COMMON, MIXED])
    assert error.message({"--common-images", "--out"}) == f"{REASON} Make a again, or {COMMON.words}."
    assert error.message(()) == f"{REASON} Make a again."
    assert error.message() == str(error)


def test_code_without_an_option_passes_the_error_on_without_it():
    error = BadRun(REASON, ways=[COMMON, MIXED])
    narrower = error.without("--mixed")
    assert (type(narrower), narrower.reason, narrower.ways) == (BadRun, REASON, (COMMON,))
    assert error.ways == (COMMON, MIXED)


def test_the_note_on_stored_files_comes_last():
    error = BadRun(REASON, ways=["wait"])
    error.stays = "3 images stay."
    assert str(error) == f"{REASON} Wait. 3 images stay."
    assert str(error.without("--mixed")).endswith("3 images stay.")


def test_errors_survive_between_processes():
    error = BadRun(REASON, ways=[MIXED])
    error.stays = "3 images stay."
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), copied.ways) == (BadRun, str(error), (MIXED,))


def test_secrets_are_removed_from_reason_and_ways(monkeypatch):
    error = PanbenchError("http://anna:hunter2@proxy:3128 fails.", ways=["try http://anna:hunter2@proxy:1"])
    assert "hunter2" not in str(error)
    assert "hunter2" not in error.message(())
