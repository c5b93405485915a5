"""docs/headlines.md names tests that exist, and forgets no command."""

import re
from pathlib import Path

import typer.main

from panbench.cli.app import app
from scripts.make.markdown_tables import rows_under

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "headlines.md").read_text("utf-8")
ROWS = rows_under(TEXT, ("headline", "printed by", "what it is", "test"))


def test_every_headline_names_a_test_that_exists():
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(ROWS) > 30
    for row in ROWS:
        names = re.findall(r"`(test_\w+)`", row["test"])
        assert names, f"no test holds this headline: {row['headline']}"
        for name in names:
            assert re.search(rf"def {name}\(", tests), f"docs/headlines.md names {name}, which does not exist"


def named_after(words: str) -> set[str]:
    """The commands in the sentence that begins with some words."""
    return set(re.findall(r"`(\w+)`", TEXT.split(words, 1)[1].split(".", 1)[0]))


def test_every_command_has_its_headlines_or_is_said_to_have_none():
    commands = set(typer.main.get_command(app).commands)
    printing = {name for row in ROWS for name in re.findall(r"`([a-z]+)`", row["printed by"])}
    page = named_after('"Page" stands for')
    without = named_after("Commands without a headline of their own:")
    assert not without & (printing | page)
    assert printing | page | without == commands
