"""`panbench.evaluate` and `panbench.compare` take what a program has, or refuse it in a sentence."""

import dataclasses

import numpy as np
import pytest
import torch
from little_runs import scored
from support import drawn
from torch import nn

import panbench
from panbench.catalog import find_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn(tmp_path_factory, 2)


PERSON = {"id": 1, "name": "person", "isthing": 1}


def one_segment(image):
    return np.ones(image.shape[:2], np.int32), [{"id": 1, "category_id": 92}]


class Callable:
    def __call__(self, image):
        return one_segment(image)


class Segmenting(nn.Module):
    categories = ()

    def forward(self, image):
        return one_segment(image)


@pytest.mark.parametrize(
    "model",
    [one_segment, lambda image: one_segment(image), Callable(), "mask2former-tiny", find_model("mask2former-tiny")],
)
def test_functions_names_and_specs_can_be_evaluated(model, folder, tmp_path):
    dataset = panbench.open_dataset(folder)
    run = panbench.evaluate(model, dataset, tmp_path / "run")
    assert (run.info.status, len(run.images)) == ("done", 2)


def test_a_dataset_may_be_named_by_its_folder(folder, tmp_path):
    run = panbench.evaluate(one_segment, folder, tmp_path / "run")
    assert len(run.images) == 2
    assert "<" not in str(run.info.model.name)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Conv2d(3, 3, 1), panbench.BadModel, r"A Conv2d is a network.*Pass a function.*or write an adapter"),
        (nn.Conv2d, panbench.BadArgument, "is the class Conv2d"),
        (None, panbench.BadArgument, "not a NoneType"),
        (3, panbench.BadArgument, "not an int"),
        ("no-such-model", panbench.BadModel, "There is no model"),
    ],
)
def test_an_object_that_is_not_a_model_is_refused(model, error, message, folder, tmp_path):
    with pytest.raises(error, match=message):
        panbench.evaluate(model, folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": 3}, "dataset must be a Dataset"),
        ({"out": None}, "out must be the path"),
        ({"options": {"resume": True}}, "options must be EvaluateOptions"),
    ],
)
def test_other_arguments_are_refused(changes, message, folder, tmp_path):
    with pytest.raises(panbench.BadArgument, match=message):
        panbench.evaluate(**{"model": one_segment, "dataset": folder, "out": tmp_path / "run", **changes})


def test_exceptions_of_a_function_reach_the_caller(folder, tmp_path):
    def tired(image):
        raise ValueError("no such layer")

    with pytest.raises(panbench.ModelFailed, match="raised ValueError: no such layer"):
        panbench.evaluate(tired, folder, tmp_path / "run")


def test_a_module_with_categories_can_be_evaluated(folder, tmp_path):
    model = Segmenting()
    model.categories = [dataclasses.asdict(each) for each in panbench.open_dataset(folder).categories]
    assert panbench.evaluate(model, folder, tmp_path / "run").info.status == "done"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    gt = {1: "pppp..ss", 2: "ddddssss"}
    for name, pred in (("a", gt), ("b", {1: "pp....ss", 2: "dd..ssss"})):
        scored(root / "all", name, gt, pred)
    return root / "all"


def test_runs_are_compared_by_path_or_as_objects(runs):
    by_path = panbench.compare([str(runs / "a"), runs / "b"])
    as_they_are = panbench.compare([panbench.load_run(runs / name) for name in ("a", "b")])
    mixed = panbench.compare([panbench.load_run(runs / "a"), runs / "b"])
    assert by_path.rows == as_they_are.rows == mixed.rows
    assert [row.run for row in panbench.compare(runs).rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["results/nothing"], panbench.BadRun, "results/nothing"),
        (3, panbench.BadArgument, "runs must be a list"),
        ([3], panbench.BadArgument, r"runs\[0\] is neither a run nor a path but an object of the type int"),
        ([None], panbench.BadArgument, "but None"),
        (
            [panbench.Evaluator([{"id": 1, "name": "a", "isthing": 1}])],
            panbench.BadArgument,
            r"Make a run.*save\(path\)",
        ),
        ([], panbench.BadArgument, "No run is named"),
        ([torch.zeros(1)], panbench.BadArgument, "but an object of the type Tensor"),
    ],
)
def test_an_object_that_is_not_a_run_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        panbench.compare(given)
