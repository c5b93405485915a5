"""A model that also returns the predictions of its heads after earlier decoder layers, from one forward pass.

Each earlier layer k has a copy of the network that shares its weights and ends after layer k. While the complete
network runs, the outputs of its parts (backbone, pixel decoder, each layer) are stored; a copy then reuses them, so
that only its heads are computed. A copy's output equals that of a network built with k layers.
"""

import contextlib
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
from panbench.models.decoders import Decoder, Part
from panbench.models.model import LoadedImage, Model, Wrapped
from panbench.models.rules import Fused, Rule, SegmentedMap
from panbench.runs import ModelRecord
from panbench.studies.tradeoffs.steps import LAYERS, no_layers


@dataclass(frozen=True)
class LayeredCandidates(Candidates):
    """Masks and scores that the last decoder layer predicts; in `earlier` those of earlier layers, by layer number."""

    earlier: Mapping[int, Candidates] = field(default_factory=dict)


class LayeredModel(Wrapped):
    """Wraps a model and adds the outputs of earlier decoder layers; the last layer's outputs do not change."""

    def __init__(self, model: Model, chosen: Sequence[int] | None) -> None:
        """Copies the network for each chosen decoder layer but the last. Raises BadArgument if the model lacks one.

        chosen: the layers, from 1; None for all
        """
        if model.compiled:
            raise BadArgument(
                "--layers runs a network in parts, and torch.compile would compile each. Leave +compile out."
            )
        super().__init__(model)
        self.network = model
        self.count = _copy_with_decoder(model)[1].count
        beyond = [layer for layer in chosen or () if layer > self.count]
        if beyond:
            raise BadArgument(
                f"{model.spec.title} has {self.count} decoder layers, and --layers names {in_sentence(beyond)}."
            )
        self.earlier = tuple(layer for layer in chosen or range(1, self.count + 1) if layer < self.count)
        self._outputs = _StoredOutputs()
        self._complete = _network_copy(model, self._outputs.store_outputs_of)
        self._cut = {layer: _network_copy(model, self._outputs.reuse_outputs_in, layer) for layer in self.earlier}

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Returns the outputs of the last layer, each with the outputs of the earlier layers for its image."""
        with self._outputs.for_one_forward_pass():
            last = self._complete.candidates(batch)
            earlier = {}
            for layer, model in self._cut.items():
                self._outputs.restart_reuse()
                earlier[layer] = model.candidates(batch)
        found: list[Output] = []
        for index, output in enumerate(last):
            assert isinstance(output, Candidates)
            own = {each.name: getattr(output, each.name) for each in fields(Candidates)}
            found.append(LayeredCandidates(**own, earlier={layer: of[index] for layer, of in earlier.items()}))  # type: ignore[misc]
        return found


@dataclass(frozen=True)
class LayerRule(Rule):
    """Applies a model's rule to an earlier decoder layer; run.json records the rule, and the layer as a setting.

    layer: from 1; count: the number of decoder layers
    """

    rule: Rule
    layer: int
    count: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the wrapped rule."""
        return self.rule.name

    @property
    def called(self) -> str:
        """The wrapped rule's name as `--rule` takes it."""
        return self.rule.called

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the wrapped rule, and the layer."""
        return {**self.rule.settings, LAYERS.word: f"{self.layer} of {self.count}"}

    def describe(self, model: ModelRecord) -> ModelRecord:
        """Returns the model's record, named `NAME@layerN`, without the published PQ, which is of the last layer."""
        name, title = (None if each is None else f"{each}@layer{self.layer}" for each in (model.name, model.title))
        return replace(self.rule.describe(model), name=name, title=title, published=None)

    def record(self) -> dict[str, Any]:
        """Returns the name and thresholds of the wrapped fusion rule, for run.json."""
        return self.rule.record()

    def __str__(self) -> str:
        """Returns the wrapped rule as `--rule` takes it, with its thresholds."""
        return str(self.rule)

    def fuse(self, output: LayeredCandidates) -> Fused:
        """Fuses the masks that an earlier decoder layer predicts into a panoptic map, by the model's fusion rule."""
        return self.rule.fuse(output.earlier[self.layer])

    def fuse_batch(self, outputs: Sequence[LayeredCandidates]) -> Any:
        """Fuses the candidates of this layer, of several images, by the wrapped rule."""
        return self.rule.fuse_batch([output.earlier[self.layer] for output in outputs])

    def to_segments(self, fused: Any) -> SegmentedMap:
        """Returns the segments of a fused map, by the wrapped rule."""
        return self.rule.to_segments(fused)


def _copy_with_decoder(model: Model) -> tuple[Model, Decoder]:
    """Copies the model's network; returns the model on it and its decoder. Raises BadArgument if it has none."""
    other, decoder = model.with_copied_network()
    if decoder is None or decoder.count < 1:
        raise no_layers(model.spec.title)
    return other, decoder


def cut_after_layer(model: Model, layer: int) -> Model:
    """Returns a copy of the model whose network ends after a decoder layer; the two share weights.

    Raises BadArgument for a model without a decoder of layers.
    """
    return _network_copy(model, None, layer)


def layered_model_in(model: Model) -> LayeredModel:
    """Finds, inside a model's wrappers, the one that adds the outputs of earlier decoder layers (`LayeredModel`)."""
    while not isinstance(model, LayeredModel):
        model = model.inner  # type: ignore[attr-defined]
    return model


def runs_by_layer(model: Model, folders: Mapping[Rule, Path], options: EvaluateOptions) -> dict[Rule, Path]:
    """Returns the run folder of each earlier decoder layer, by the fusion rule for that layer (`LayerRule`).

    They lie next to those of the requested runs, `folders`.
    Raises BadRun if a folder already holds a run and neither --resume nor --overwrite is given.
    """
    wrapper = layered_model_in(model)
    found: dict[Rule, Path] = {
        LayerRule(rule, layer, wrapper.count): LAYERS.folder(home, str(layer))
        for rule, home in folders.items()
        for layer in wrapper.earlier
    }
    taken = [str(folder) for folder in found.values() if (folder / "run.json").exists()]
    if taken and not (options.resume or options.overwrite):
        raise BadRun(f"{in_sentence(taken)} already exist. Continue with --resume, or replace with --overwrite.")
    return found


def _network_copy(model: Model, wrap: Callable[[Part, int], None] | None, layer: int | None = None) -> Model:
    """Copies the model's network; optionally ends it after a decoder layer, and calls `wrap` on each module."""
    other, decoder = _copy_with_decoder(model)
    if layer is not None:
        decoder.cut(layer)
    if wrap is not None:
        for key, part in enumerate(decoder.parts):
            wrap(part, key)
    return other


class _StoredOutputs(threading.local):
    """Stores what the modules of a network return in a forward pass, so that shortened copies of it can reuse them.

    Outputs are stored call by call, for each thread of its own.
    """

    def __init__(self) -> None:
        """Starts without stored outputs."""
        self._values: dict[int, list[Any]] = {}
        self._taken: Counter[int] = Counter()

    @contextlib.contextmanager
    def for_one_forward_pass(self) -> Iterator[None]:
        """Opens a context for one forward pass: stored outputs of network modules are deleted before and after."""
        self._values = {}
        try:
            yield
        finally:
            self._values = {}

    def restart_reuse(self) -> None:
        """Makes the next shortened network start again at the first stored output of each module."""
        self._taken = Counter()

    def store_outputs_of(self, part: Part, key: int) -> None:
        """Makes a module of the network store its output at each call, so that shortened copies can reuse it."""
        method = getattr(part.owner, part.method)

        def call_and_store(*values: Any, **named: Any) -> Any:
            """Calls a method of the complete network, stores what it returns, and returns it."""
            found = method(*values, **named)
            self._values.setdefault(key, []).append(found)
            return found

        setattr(part.owner, part.method, call_and_store)

    def reuse_outputs_in(self, part: Part, key: int) -> None:
        """Makes a module of a shortened network return the complete network's stored output instead of computing it."""

        def stored_output(*values: Any, **named: Any) -> Any:
            """Returns the stored output of the same call in the complete network, instead of computing it again."""
            index = self._taken[key]
            self._taken[key] += 1
            return self._values[key][index]

        setattr(part.owner, part.method, stored_output)
