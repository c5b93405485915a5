"""Whatever a model of somebody else does: one sentence names its module, the image and the line, and nobody else."""

import errno
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from support import panbench

from panbench.base.errors import ModelFailed
from panbench.catalog import ModelSpec, find_model, spec_from_config
from panbench.evaluation import sinks
from panbench.models.devices import tf32_as
from panbench.models.external import external_code, guarded_package_code
from panbench.models.opening import open_model
from panbench.models.predict import predict
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import load_run

FUNCTION = """
    import numpy as np

    def make():
        calls = []
        def segment(image):
            calls.append(image)
            ids = np.zeros(image.shape[:2], np.int32)
            ids[:2] = 1
            {body}
        return segment
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("strange", None)


def evaluated(folder: Path, source: str, *options: str, out: str | None = None):
    strange(folder, source)
    data = ["--data", "shapes", "--limit", "3", "--batch-size", "1", "--device", "cpu"]
    return panbench("eval", "--model", "strange:make", *data, "--out", out or folder / "run", "-q", *options)


def sentence_of(done) -> str:
    """What is said of a run that ends by the model's fault."""
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return line


def looked_at(folder: Path, spec: ModelSpec, **settings) -> str:
    """What is said of a model that fails as it is opened or looks at one image: the fault is its own."""

    def used():
        model = open_model(spec, device="cpu", **settings)
        model.describe()
        model.candidates([model.load(scene(folder))])

    with pytest.raises(ModelFailed) as caught:
        used()
    assert caught.value.exit_code == 1
    return str(caught.value)


def strange(folder: Path, source: str) -> None:
    (folder / "strange.py").write_text(textwrap.dedent(source))
    sys.modules.pop("strange", None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no such\\nlayer')", "raised ValueError: no such layer"),
        ("if len(calls) == 2: raise RuntimeError('tired')", "raised RuntimeError: tired"),
        ("raise MemoryError", "raised MemoryError"),
        ("raise SystemExit(3)", "called sys.exit(3)"),
        ("exit(0)", "called sys.exit(0)"),
        ("raise type('Odd', (BaseException,), {})('no')", "raised Odd: no"),
        ("raise GeneratorExit", "raised GeneratorExit"),
        ("import not_there", "needs the Python package not_there, which is not installed"),
        ("return ids, (1 / 0 for _ in [1])", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_of_a_function_names_image_and_line(folder, body, said):
    done = evaluated(folder, FUNCTION.format(body=body + "\n            return ids, [{'id': 1, 'category_id': 1}]"))
    message = sentence_of(done)
    assert f"Error: strange:make {said} on " in message
    assert "(image " in message
    assert f"{folder / 'strange.py'}, line " in message
    assert body.split(":")[-1].strip()[:15] in message
    assert "fault of panbench" not in message


FOLDER = "import os; os.chdir('elsewhere') if len(calls) == 2 else None"
GONE = "import os; (os.mkdir('gone'), os.chdir('gone'), os.rmdir('../gone')) if len(calls) == 2 else None"


@pytest.mark.parametrize(("body", "said"), [(FOLDER, "elsewhere"), (GONE, "one that is gone")])
def test_a_model_that_changes_the_current_folder_ends_its_run_which_resumes(folder, body, said):
    (folder / "elsewhere").mkdir()
    answer = "\n            return ids, [{'id': 1, 'category_id': 1}]"
    done = evaluated(folder, FUNCTION.format(body=body + answer), out="run")
    where = folder / said if said == "elsewhere" else said
    assert f"strange:make changed the current folder to {where} on" in sentence_of(done)
    assert Path.cwd() == folder
    assert load_run("run").info.status == "failed"
    assert evaluated(folder, FUNCTION.format(body=answer.strip()), "--resume", out="run").exit_code == 0
    assert load_run("run").info.status == "done"


def test_a_run_whose_files_other_code_closes_ends_in_a_sentence_and_resumes(folder, monkeypatch):
    """As when a model closes the descriptors of its process while an id PNG is read."""
    source = FUNCTION.format(body="return ids, [{'id': 1, 'category_id': 1}]")
    read, calls = sinks.read_hashed_id_png, []

    def closed(*given, **named):
        calls.append(given)
        if len(calls) == 2:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return read(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(sinks, "read_hashed_id_png", closed)
        done = evaluated(folder, source)
    assert "was closed by other code in its process" in sentence_of(done)
    assert load_run(folder / "run").info.status == "failed"
    assert evaluated(folder, source, "--resume").exit_code == 0
    assert load_run(folder / "run").info.status == "done"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('at import')", "raised ValueError: at import"),
        ("import sys; sys.exit(0)", "called sys.exit(0)"),
        ("def make(): raise OSError('no weights')", "raised OSError: no weights"),
        ("def make(one): pass", "raised TypeError: make() missing 1 required positional argument: 'one'"),
        ("def make(:", "raised SyntaxError"),
        ("class Odd(Exception):\n    def __str__(self): raise KeyError\ndef make(): raise Odd", "raised Odd"),
    ],
)
def test_an_error_of_a_function_before_the_first_image_is_reported_as_its_own(folder, source, said):
    done = evaluated(folder, source)
    assert f"Error: strange:make {said}" in sentence_of(done)
    assert "fault of panbench" not in done.stderr
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("ids, [{'id': 1, 'category_id': 1, 'score': 'a'}]", "returned the score 'a'; it must be a finite number"),
        ("ids, [{'id': 1, 'category_id': 1, 'score': float('nan')}]", "returned the score nan"),
        ("ids, [{'id': 1, 'category_id': 1, 'score': np.inf}]", "returned the score inf"),
        ("ids, [{'id': 1, 'category_id': 1, 'score': 1e300}]", "returned the score 1e+300; it must be a finite number"),
        ("ids, [{'id': 1, 'category_id': 1, 'score': [1, 2]}]", "returned the score [1, 2]"),
        ("ids, [(1, 1)]", "returned the segment (1, 1); it needs `id` and `category_id`"),
        ("ids, [{'id': 1, 'category_id': 1.5}]", "must be whole numbers"),
        ("ids, [{'id': float('inf'), 'category_id': 1}]", "it needs `id` and `category_id`"),
        ("ids, [{'id': 1}]", "it needs `id` and `category_id`"),
        ("ids, [{'id': 1, 'category_id': 1}] * 2", "returned two segments of the id 1"),
        ("ids, [{'id': 0, 'category_id': 1}]", "returned a segment of the id 0"),
        ("ids, 7", "returned an int for segments"),
        ("ids", "returned an ndarray; it must return (id map, segments)"),
        ("[[1], [1, 2]], []", "returned an id map that is not an array"),
        ("None", "returned a NoneType; it must return (id map, segments)"),
        ("ids, [], 1", "returned a tuple; it must return (id map, segments)"),
        ("ids[:1], []", "it must be whole numbers of shape"),
        ("np.zeros((4, 6, 3), int), []", "returned an id map of shape (4, 6, 3)"),
        ("ids * 1.0, []", "and type float64; it must be whole numbers"),
        ("ids - 1, []", "returned the id -1; ids lie in 1…16777215"),
        ("ids + 2**24, []", "returned the id 16777216; ids lie in 1…16777215"),
        ("ids, []", "returned a map with the id 1 and no segment of that id"),
    ],
)
def test_invalid_outputs_of_a_function_name_image_and_line(folder, answer, said):
    strange(folder, FUNCTION.format(body=f"return {answer}"))
    message = looked_at(folder, find_model("strange:make"))
    assert message.startswith("strange:make on a.png (image 7) returned ")
    assert said in message
    assert f'{folder / "strange.py"}, line 6: "def segment(image):"' in message


def test_a_run_with_an_invalid_output_exits_with_1(folder):
    done = evaluated(folder, FUNCTION.format(body="return ids, [{'id': 1, 'category_id': 1, 'score': 'high'}]"))
    said = sentence_of(done)
    assert "Error: strange:make on " in said
    assert "returned the score 'high'" in said


def scene(folder: Path) -> Scene:
    import cv2

    cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6, 3), np.uint8))
    return Scene(ImageInfo(7, "a.png", 4, 6), folder / "a.png")


MODEL = """
    import dataclasses
    import numpy as np
    import torch
    from panbench.catalog import find_model
    from panbench.models.candidates import Candidates, FinishedMap, Frame, Instances, LabelledSegment
    from panbench.models.model import LoadedImage
    from panbench.models.rules import parse_rule
    from panbench.models.rules.given import Given
    from panbench.runs import ModelRecord

    class Mine:
        spec = find_model("mask2former-tiny")
        class_names, isthing = ("cat",), (True,)
        device = torch.device("cpu")
        rule = parse_rule("mask2former")
        def describe(self): return ModelRecord(name="mine")
        def load(self, scene): return LoadedImage(scene, torch.zeros(3, 4, 6), None)
        def candidates(self, batch):
            frame = Frame((4, 6), (4, 6), (4, 6))
            scores, masks = torch.ones(2), torch.ones(2, 4, 6)
            one = Candidates(np.zeros(2, int), scores.numpy(), scores, masks, frame, (True,))
            return [one for _ in batch]

    class Changed(Mine):
        {change}

    def make(): return Changed()
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("def candidates(self, batch): return []", "returned 0 outputs for 1 images on a.png (image 7)"),
        ("def candidates(self, batch): return 2 * super().candidates(batch)", "returned 2 outputs for 1 images"),
        ("def candidates(self, batch): return None", "returned a NoneType on a.png"),
        ("def candidates(self, batch): return [7]", "returned an int, which is neither Candidates nor Instances nor"),
        ("def candidates(self, b): o = super().candidates(b); return [dataclasses.replace(o[0], masks=o[0].masks[:1])]",
         "returned Candidates with 2 labels, 2 gate, 2 weight, 1 masks on a.png (image 7)"),
        ("def candidates(self, batch): return [FinishedMap(np.zeros((2, 2), np.int32), (), Frame(*3 * [(4, 6)]))]",
         "returned an id map of shape (2, 2) for an image of (4, 6)"),
        ("def candidates(self, b): return [FinishedMap(np.full((4, 6), 2**24, np.int32), (), Frame(*3 * [(4, 6)]))]",
         "returned ids from 16777216 to 16777216, which must lie in 0…16777215, on a.png (image 7)"),
        ("def candidates(self, b): o = super().candidates(b); return [dataclasses.replace(o[0], labels=np.full(2, 7))]",
         "strange:make predicted label 7, but has 1 categories: labels 0 to 0 on a.png (image 7)"),
        ("def load(self, scene): return scene", "load() returned no LoadedImage"),
        ("def describe(self): return {}", "describe() returned a dict"),
        ("isthing = ()", "class_names must be a tuple of text, and isthing as many truth values"),
        ("rule = 'mask2former'", "rule is a str; it must be a fusion rule"),
        ("device = 'cpu'", "device is a str; it must be a torch.device"),
    ],
)  # fmt: skip
def test_a_model_object_is_checked_against_the_protocol(folder, change, said):
    strange(folder, MODEL.format(change=change))
    message = looked_at(folder, find_model("strange:make"))
    assert message.startswith("strange:make")
    assert said in message
    assert f"{folder / 'strange.py'}, line " in message


FINISHED = """candidates = lambda self, batch: [
            FinishedMap(np.ones((4, 6), np.int32), (LabelledSegment(1, 0, 24, None),), Frame(*3 * [(4, 6)]))]
        rule = Given()"""


@pytest.mark.parametrize("change", ["pass", FINISHED], ids=["of candidates", "of finished maps"])
def test_a_valid_model_object_is_accepted(folder, change):
    strange(folder, MODEL.format(change=change))
    model = open_model(find_model("strange:make"), device="cpu")
    (segment,) = predict(model, scene(folder), [3]).segments
    assert (segment.category_id, segment.area) == (3, 24)
    assert model.describe().name == "mine"


ADAPTER = """
    import torch
    from panbench.models.adapter import Adapter
    from panbench.models.candidates import softmax_candidates
    from panbench.models.rules import parse_rule

    class Plain(Adapter):
        class_names, isthing = ("cat",), (True,)
        rule = parse_rule("maskformer")
        needs_weights = False
        def build(self): return torch.nn.Linear(1, 1)
        def candidates(self, module, pixels, frames):
            batch = len(pixels)
            logits, masks = torch.zeros(batch, 3, 2), torch.zeros(batch, 3, 4, 6)
            return softmax_candidates(logits, masks, frames, self.isthing)

    class Mine({base}):
        {change}
"""


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        ("Plain", "def build(self): return torch.f()", "raised AttributeError: module 'torch' has no attribute 'f'"),
        ("Plain", "def prepare(self, rgb): return oops", "raised NameError: name 'oops' is not defined on a.png"),
        ("Plain", "def candidates(self, *_): raise SystemExit(3)", "called sys.exit(3) on a.png (image 7)"),
        ("Plain", "def build(self): return None", "build() returned a NoneType"),
        ("Plain", "def candidates(self, *_): return super().candidates(*_)[:0]", "returned 0 outputs for 1 images"),
        ("Adapter", "class_names = ('cat',)", "has no build and no candidates and no rule"),
    ],
)
def test_an_adapter_of_another_package_is_checked_against_the_protocol(folder, base, change, said):
    strange(folder, ADAPTER.format(base=base, change=change))
    (folder / "mine.py").write_text(
        'panbench = {"title": "Mine", "family": "mine", "backbone": "-", "adapter": "strange:Mine", "weights": None, '
        '"published": None, "params": 2, "input_size": "any", "trained_on": "coco"}\n'
    )
    message = looked_at(folder, spec_from_config(folder / "mine.py"))
    assert "strange:Mine" in message
    assert said in message


def set_matmul(value):
    torch.backends.cuda.matmul.fp32_precision = value


def set_convolutions(value):
    torch.backends.cudnn.conv.fp32_precision = value


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="before PyTorch 2.9")
@pytest.mark.parametrize(("set_precision", "value"), [(set_matmul, "tf32"), (set_convolutions, "ieee")])
@pytest.mark.parametrize("precision", ["fp32", "ieee", "tf32"])
def test_a_program_that_used_pytorchs_new_tf32_settings_keeps_them(set_precision, value, precision):
    def state():
        backends = torch.backends
        kinds = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
        return [kind.fp32_precision for kind in kinds]

    fresh = state()
    try:
        set_precision(value)
        before = state()
        with tf32_as(precision):
            # The older settings can be read: libraries do.
            allowed = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
            assert allowed == {"ieee": (False, False), "tf32": (True, True)}.get(precision, (True, False))
            assert state()[0] == ("tf32" if allowed[1] else "ieee")
            assert state()[1:] == 2 * ["tf32" if allowed[0] else "ieee"]
        assert state() == before
    finally:
        set_precision("none")
        torch.backends.cudnn.allow_tf32 = True
        assert state() == fresh


NETWORK = """
    from mmdet.models.detectors import MaskFormer
    from mmdet.registry import MODELS
    {at_import}

    @MODELS.register_module(force=True)
    class StrangeNetwork(MaskFormer):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            {building}

        def extract_feat(self, *given, **named):
            {running}
            return super().extract_feat(*given, **named)
"""


@pytest.mark.parametrize("moment", ["at_import", "building", "running"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise ValueError('no such layer')", "raised ValueError: no such layer"),
        ("import a_package_that_is_absent", "needs the Python package a_package_that_is_absent"),
        ("torch.zeros(2) @ torch.zeros(3)", "raised RuntimeError: "),
    ],
)
def test_an_error_of_a_class_in_an_mmdet_config_is_reported_as_its_own(folder, monkeypatch, moment, line, said):
    moments = {**dict.fromkeys(("at_import", "building", "running"), "pass"), moment: line}
    monkeypatch.syspath_prepend(folder)
    strange(folder, "import torch\n" + textwrap.dedent(NETWORK.format(**moments)))
    tiny = find_model("maskformer-tiny").config
    (folder / "mine.py").write_text(
        f"_base_ = {str(tiny)!r}\nmodel = dict(type='StrangeNetwork')\ncustom_imports = dict(imports=['strange'])\n"
    )
    message = looked_at(folder, spec_from_config(folder / "mine.py"), weights="random")
    assert message.startswith(f"strange {said}")
    assert f"{folder / 'strange.py'}, line " in message
    assert message.endswith(f'"{line}"')
    assert (" on a.png (image 7)" in message) == (moment == "running")


def test_out_of_memory_in_foreign_code_halves_the_batch():
    for guard in (external_code("their:model"), guarded_package_code(["their"])):
        with pytest.raises(RuntimeError, match="CUBLAS_STATUS_ALLOC_FAILED"), guard:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    with pytest.raises(ModelFailed, match="CUBLAS_STATUS_INTERNAL_ERROR"), external_code("their:model"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm`")
