"""docs/headlines.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_headline_names_a_test_that_exists():
    rows = [line for line in (ROOT / "docs" / "headlines.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(rows) > 12
    for row in rows[2:]:
        names = re.findall(r"`(test_\w+)`", row)
        assert names, f"no test holds this headline: {row[:80]}"
        for name in names:
            assert re.search(rf"def {name}\(", tests), f"docs/headlines.md names {name}, which does not exist"
