"""Evaluate a model: one command, a table, and a folder that answers every later question."""

import json

from support import panbench, ran


def test_evaluate_a_model_and_ask_the_stored_run(tmp_path):
    evaluated = ran("eval", "--model", "mask2former-tiny", "--limit", 4, "--out", "mine", cwd=tmp_path)
    assert "Mask2Former tiny" in evaluated.stdout

    # Nothing below runs the model again.
    shown = json.loads(panbench("metrics", "mine", "--json", cwd=tmp_path).stdout)
    assert {"PQ", "SQ", "RQ"} <= set(shown["summary"]["All"])
    assert "missed" in panbench("errors", "mine", cwd=tmp_path).stdout
