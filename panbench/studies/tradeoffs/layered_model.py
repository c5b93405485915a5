"""A model that also gives what its heads answer after earlier decoder layers, from one forward pass.

Each earlier layer k has a copy of the network that shares its weights and ends after layer k. While the whole network
runs, the values of its parts (backbone, pixel decoder, each layer) are kept; a copy then takes them instead of
computing them, so all that is left to it are the heads. A copy's answer is that of a network built with k layers.
"""

import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadRun
from panbench.base.text import in_sentence
from panbench.evaluation.options import EvaluateOptions
from panbench.models.candidates import Candidates, Output
from panbench.models.decoders import Decoder, Part, sharing_weights
from panbench.models.host import HostedModel
from panbench.models.model import LoadedImage, Model, Wrapped
from panbench.models.rules import Fused, Rule, SettledMap
from panbench.runs import ModelRecord
from panbench.studies.tradeoffs.places import LAYERS, no_layers

__all__ = ["LayeredCandidates", "LayeredModel", "OfLayer", "cut_after", "layered", "runs_by_layer"]


@dataclass(frozen=True)
class LayeredCandidates(Candidates):
    """The candidates of the last layer, as every rule takes them, and with them those of earlier layers by number."""

    earlier: Mapping[int, Candidates] = field(default_factory=dict)


class LayeredModel(Wrapped):
    """Another model, with the answers of its earlier decoder layers. Its own are that model's, to the bit."""

    def __init__(self, model: Model, chosen: Sequence[int] | None) -> None:
        """chosen: the layers, from 1; None for all. Raises BadArgument for a model that has not got them."""
        if not isinstance(model, HostedModel):
            raise BadArgument(f"{model.spec.title} is not a network alone, and --layers needs one.")
        if model.compiled:
            raise BadArgument(
                "--layers runs a network in parts, and torch.compile would compile each. Leave +compile out."
            )
        super().__init__(model)
        self.network = model
        self.count = decoder_of(model).count
        beyond = [layer for layer in chosen or () if layer > self.count]
        if beyond:
            raise BadArgument(
                f"{model.spec.title} has {self.count} decoder layers, and --layers names {in_sentence(beyond)}."
            )
        self.earlier = tuple(layer for layer in chosen or range(1, self.count + 1) if layer < self.count)
        self._calls = _Calls()
        self._whole = _altered(model, self._calls.kept)
        self._cut = {layer: _altered(model, self._calls.given_back, layer) for layer in self.earlier}

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The last layer's answers, each with those of the earlier layers."""
        with self._calls.of_one_pass():
            last = self._whole.candidates(batch)
            earlier = {}
            for layer, model in self._cut.items():
                self._calls.rewind()
                earlier[layer] = model.candidates(batch)
        found: list[Output] = []
        for place, output in enumerate(last):
            assert isinstance(output, Candidates)
            own = {each.name: getattr(output, each.name) for each in fields(Candidates)}
            found.append(LayeredCandidates(**own, earlier={layer: of[place] for layer, of in earlier.items()}))  # type: ignore[misc]
        return found


@dataclass(frozen=True)
class OfLayer(Rule):
    """A model's rule on the answers of an earlier decoder layer; in run.json it is that rule, and the layer a setting.

    layer: from 1; count: how many the decoder has
    """

    rule: Rule
    layer: int
    count: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """The rule's own."""
        return self.rule.name

    @property
    def called(self) -> str:
        """The rule's own."""
        return self.rule.called

    @property
    def settings(self) -> Mapping[str, Any]:
        """The layer, in words."""
        return {**self.rule.settings, LAYERS.word: f"{self.layer} of {self.count}"}

    def describe(self, model: ModelRecord) -> ModelRecord:
        """The model's record, its name with the layer; published numbers are of the last layer, so they go."""
        name, title = (None if each is None else f"{each}@layer{self.layer}" for each in (model.name, model.title))
        return replace(self.rule.describe(model), name=name, title=title, published=None)

    def record(self) -> dict[str, Any]:
        """The rule's own."""
        return self.rule.record()

    def __str__(self) -> str:
        return str(self.rule)

    def fuse(self, output: LayeredCandidates) -> Fused:
        """The map of the layer's candidates."""
        return self.rule.fuse(output.earlier[self.layer])

    def fuse_batch(self, outputs: Sequence[LayeredCandidates]) -> Any:
        """The maps of the layer's candidates."""
        return self.rule.fuse_batch([output.earlier[self.layer] for output in outputs])

    def settle(self, fused: Any) -> SettledMap:
        """Delegates to the rule."""
        return self.rule.settle(fused)


def decoder_of(model: HostedModel) -> Decoder:
    """The decoder of a model's network. Raises BadArgument where it has none."""
    decoder = model.adapter.decoder(model.module)
    if decoder is None or decoder.count < 1:
        raise no_layers(model.spec.title)
    return decoder


def cut_after(model: HostedModel, layer: int) -> HostedModel:
    """The model with a network that ends after a decoder layer; it shares the weights. Raises BadArgument."""
    return _altered(model, None, layer)


def layered(model: Model) -> LayeredModel:
    """The layered model among a model and those behind it."""
    while not isinstance(model, LayeredModel):
        model = model.inner  # type: ignore[attr-defined]
    return model


def runs_by_layer(model: Model, folders: Mapping[Rule, Path], options: EvaluateOptions) -> dict[Rule, Path]:
    """The folder of each earlier layer's run by its rule, for each of the rules of `folders`.

    Raises BadRun, before anything is run, for a folder that holds a run which is neither resumed nor replaced.
    """
    of = layered(model)
    found: dict[Rule, Path] = {
        OfLayer(rule, layer, of.count): LAYERS.folder(home, str(layer))
        for rule, home in folders.items()
        for layer in of.earlier
    }
    taken = [str(folder) for folder in found.values() if (folder / "run.json").exists()]
    if taken and not (options.resume or options.overwrite):
        raise BadRun(f"{in_sentence(taken)} already exist. Continue with --resume, or replace with --overwrite.")
    return found


def _altered(model: HostedModel, wrap: Callable[[Part, int], None] | None, layer: int | None = None) -> HostedModel:
    """The model on a copy of its network with the same weights, cut after a layer, its parts wrapped by `wrap`."""
    other = copy.copy(model)
    other.module = sharing_weights(model.module)
    decoder = decoder_of(other)
    if layer is not None:
        decoder.cut(layer)
    if wrap is not None:
        for key, part in enumerate(decoder.parts):
            wrap(part, key)
    return other


class _Calls(threading.local):
    """Outputs of the whole network's parts in one pass, call by call, reused by the copies; one per thread."""

    def __init__(self) -> None:
        self._values: dict[int, list[Any]] = {}
        self._taken: Counter[int] = Counter()

    @contextlib.contextmanager
    def of_one_pass(self) -> Iterator[None]:
        """Forgets, at the end, what was kept."""
        self._values = {}
        try:
            yield
        finally:
            self._values = {}

    def rewind(self) -> None:
        """The next copy begins with the first calls."""
        self._taken = Counter()

    def kept(self, part: Part, key: int) -> None:
        """Has a part of the whole network keep what it gives."""
        method = getattr(part.owner, part.method)

        def keep(*values: Any, **named: Any) -> Any:
            found = method(*values, **named)
            self._values.setdefault(key, []).append(found)
            return found

        setattr(part.owner, part.method, keep)

    def given_back(self, part: Part, key: int) -> None:
        """Has a part of a copy give what the whole network's gave in the same call."""

        def give_back(*values: Any, **named: Any) -> Any:
            place = self._taken[key]
            self._taken[key] += 1
            return self._values[key][place]

        setattr(part.owner, part.method, give_back)
