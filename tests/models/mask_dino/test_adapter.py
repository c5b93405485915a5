import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from views import check_views

from panbench.catalog import find_model
from panbench.models.candidates import Candidates, Frame
from panbench.models.host import HostedModel
from panbench.models.mask_dino import MaskDINOAdapter, NetworkLayout, Outputs
from panbench.models.opening import open_model
from panbench.models.predict import predict, scene_of
from panbench.models.preprocess import Resize
from panbench.models.rules.resize import upsample
from scripts.make.tiny_networks import MASK_DINO

SPEC = dataclasses.replace(find_model("mask-dino"), settings=MASK_DINO)


def test_a_small_model_runs_from_image_to_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskDINOAdapter, "resize", Resize(short=80, long=133, way="pil", divisor=32))
    model = open_model(SPEC, weights="random", device="cpu")
    assert isinstance(model, HostedModel)
    assert str(model.rule) == "maskdino"
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 49, 3), dtype=np.uint8))
    scene = scene_of(path, 1, 40, 49)
    loaded = model.load(scene)
    assert loaded.inputs.shape == (3, 80, 98)
    (found,) = model.candidates([loaded])
    assert isinstance(found, Candidates)
    assert found.masks.shape == (30, 24, 32)
    assert found.boxes is not None
    assert found.boxes.shape == (30, 4)
    # Gate and weight are two numbers: a sigmoid, and a softmax over sharpened sigmoids.
    assert not torch.equal(found.weight, torch.from_numpy(found.gate))
    assert predict(model, scene, range(133)).ids.shape == (40, 49)
    attended = model.attend(scene, queries=[3, 0])
    assert [(query.query, len(query.layers)) for query in attended] == [(3, 2), (0, 2)]
    assert all(layer.mask.shape == (40, 49) for query in attended for layer in query.layers)
    assert (attended[0].layers[-1].mask == (upsample(found.masks[[3]], found.frame)[0] >= 0).numpy()).all()


def test_boxes_are_fractions_of_the_padded_image_in_pixels_of_the_original() -> None:
    adapter = MaskDINOAdapter(SPEC)
    # An image of 40×49, twice as large in the network, with zeros to 96×128: it saw 48×64 pixels of the original size.
    frame = Frame(padded=(96, 128), resized=(80, 98), original=(40, 49))
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.25, 0.25, 0.125, 0.25]]])
    outputs = Outputs(torch.zeros(1, 2, 133), torch.zeros(1, 2, 24, 32), boxes)
    (found,) = adapter.candidates(lambda pixels: outputs, torch.zeros(1, 3, 96, 128), [frame])
    assert found.boxes is not None
    assert found.boxes.tolist() == [[0, 0, 64, 48], [12, 6, 20, 18]]


def test_views_of_an_image_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskDINOAdapter, "resize", Resize(short=64, long=133, way="pil", divisor=32))
    check_views(open_model(SPEC, weights="random", device="cpu"), tmp_path)


def test_the_published_models_have_upstreams_sizes() -> None:
    r50, swin = (NetworkLayout(**find_model(name).settings) for name in ("mask-dino-r50", "mask-dino-swin-l"))
    assert (r50.encoded, r50.queries, r50.feedforward, r50.decoder_layers) == (3, 300, 2048, 9)
    # Swin-L was trained with "4s": the encoder also sees stride 4.
    assert (swin.encoded, swin.channels[0]) == (4, 192)
