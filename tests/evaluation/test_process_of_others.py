"""A program that imports panbench keeps its seeds, threads, precision, verbosity, folder, signals and environment."""

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import panbench
from panbench.datasets import shapes

transformers = pytest.importorskip("transformers")

TINY = ("mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny", "eomt-tiny", "oneformer-tiny")


def settings():
    """What a program may have set, and a library may change."""
    backends = torch.backends
    umask = os.umask(0o22)
    os.umask(umask)
    return {
        "seed of PyTorch": torch.get_rng_state().tolist(),
        "seed of NumPy": np.random.get_state()[1].tolist(),
        "seed of Python": random.getstate(),
        "threads of PyTorch": torch.get_num_threads(),
        "threads between operators": torch.get_num_interop_threads(),
        "threads of OpenCV": cv2.getNumThreads(),
        "OpenCV's own instructions": cv2.useOptimized(),
        "threads of Python": threading.active_count(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "TF32 in products": backends.cuda.matmul.allow_tf32,
        "TF32 in convolutions": backends.cudnn.allow_tf32,
        "cuDNN's benchmark": backends.cudnn.benchmark,
        "cuDNN's determinism": backends.cudnn.deterministic,
        "oneDNN": backends.mkldnn.enabled,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "sharing of tensors": torch.multiprocessing.get_sharing_strategy(),
        "printing of tensors": str(torch._tensor_str.PRINT_OPTS),
        "printing of arrays": str(np.get_printoptions()),
        "errors of NumPy": np.geterr(),
        "Pillow's limits": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "verbosity of transformers": transformers.logging.get_verbosity(),
        "bars of transformers": transformers.logging.is_progress_bar_enabled(),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "warnings": list(map(str, warnings.filters)),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "import path": list(sys.path),
        "arguments": list(sys.argv),
        "excepthook": sys.excepthook,
        "recursion limit": sys.getrecursionlimit(),
        "garbage collector": (gc.isenabled(), gc.get_threshold()),
        "streams": (sys.stdout, sys.stderr),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": umask,
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
    }


def changed(before):
    after = settings()
    return {name: after[name] for name in before if before[name] != after[name]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes, once the libraries are imported: OpenCV and others set variables of their own when they are."""
    root = tmp_path_factory.mktemp("scenes")
    shapes.generate(root, count=3, size=(64, 96))
    for name in TINY:
        panbench.load_model(name, weights="random")
    panbench.evaluate("mask2former-tiny", root, out=root / "imported")
    return root


@pytest.fixture(autouse=True)
def own_settings():
    """Settings that are not the defaults, as a training program has them."""
    threads, level = cv2.getNumThreads(), transformers.logging.get_verbosity()
    cv2.setNumThreads(2)
    transformers.logging.set_verbosity_info()
    yield
    cv2.setNumThreads(threads)
    transformers.logging.set_verbosity(level)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.usefixtures("scenes")
def test_loading_a_model_changes_no_setting(name):
    before = settings()
    panbench.load_model(name, weights="random", seed=3)
    assert changed(before) == {}


@pytest.mark.parametrize("name", ["mask2former-tiny", "eomt-tiny"])
def test_an_evaluation_changes_no_setting(name, scenes, tmp_path):
    before = settings()
    panbench.evaluate(name, scenes, out=tmp_path / "run")
    assert changed(before) == {}


def test_scoring_in_memory_and_under_other_names_changes_no_setting():
    categories = [{"id": 1, "name": "person", "isthing": 1}]
    segments = [{"id": 1, "category_id": 1, "area": 16, "iscrowd": 0}]
    ids = np.ones((4, 4), np.int32)
    before = settings()
    evaluator = panbench.Evaluator(categories)
    evaluator.update(ids, segments, ids, segments, image_id=1)
    assert evaluator.compute()["All"]["PQ"] == 1.0
    with panbench.patch_panopticapi():
        pass
    assert changed(before) == {}
