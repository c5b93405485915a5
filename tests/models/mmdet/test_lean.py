"""What the program `panbench` imports of mmdet: all that evaluates, and what is missing can still be had."""

import json

from support import python

from panbench.base import program
from panbench.models.mmdet import lean, operators

HEAVY = (
    "transformers",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.optim",
    "matplotlib.pyplot",
    "huggingface_hub",
)


PROGRAM = """
from panbench.base import program
program.mark_as_program()
from panbench.models.mmdet import lean, operators
operators.install()
lean.import_mmdet()
"""


def answer_of_the_program(text: str):
    """What Python prints, once it has imported mmdet as the program `panbench` does."""
    finished = python("-c", PROGRAM + text)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_the_program_imports_no_training_code_of_mmdet():
    loaded = answer_of_the_program("import json, sys; print(json.dumps(list(sys.modules)))")
    assert {"mmdet.models", "mmengine.runner"} <= set(loaded)
    assert not set(HEAVY) & set(loaded)


_REGISTERED = """
import json
from mmdet.registry import MODELS, TASK_UTILS
print(json.dumps({registry.name: sorted(registry.module_dict) for registry in (MODELS, TASK_UTILS)}))
"""


def test_every_model_part_is_registered_as_with_all_of_mmdet():
    operators.install()
    import mmdet.models  # noqa: F401  (whole: this process is pytest's)
    from mmdet.registry import MODELS, TASK_UTILS

    found = answer_of_the_program(_REGISTERED)
    for registry in (MODELS, TASK_UTILS):
        theirs = {name for name, part in registry.module_dict.items() if part.__module__.startswith("mmdet.")}
        assert len(theirs) > 20
        assert theirs <= set(found[registry.name])


_LATER = """
import json
import torch.distributed.optim
from matplotlib import pyplot
from torch.distributed.fsdp import FullyShardedDataParallel
answers = [torch.distributed.optim.ZeroRedundancyOptimizer.__name__, FullyShardedDataParallel.__name__]
answers += [callable(pyplot.plot)]
import mmengine.model.wrappers.fully_sharded_distributed as wrappers
answers.append(issubclass(wrappers.MMFullyShardedDataParallel, FullyShardedDataParallel))
print(json.dumps(answers))
"""


def test_left_out_modules_can_still_be_imported():
    assert answer_of_the_program(_LATER) == ["ZeroRedundancyOptimizer", "FullyShardedDataParallel", True, True]


def test_a_left_out_function_of_mmdet_raises_when_called():
    text = (
        "import mmdet.utils\n"
        "try:\n    mmdet.utils.imshow_mot_errors()\n"
        "except ImportError as error:\n    import json; print(json.dumps(str(error)))"
    )
    found = answer_of_the_program(text)
    assert found == "panbench imports mmdet without mmdet.utils.mot_error_visualize.imshow_mot_errors."


def test_only_the_program_skips_training_code():
    assert not program.is_program()
    operators.install()
    lean.import_mmdet()
    import mmdet.utils

    assert mmdet.utils.imshow_mot_errors.__module__ == "mmdet.utils.mot_error_visualize"
    assert not isinstance(mmdet.utils.imshow_mot_errors, type)
