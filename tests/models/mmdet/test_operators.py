import importlib
import importlib.abc
import importlib.util
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmcv")

from panbench.base.errors import PanbenchError  # noqa: E402
from panbench.models.mmdet import deformable, operators  # noqa: E402
from panbench.models.mmdet.operators import BadBoxes, MissingOperator, nms  # noqa: E402

WHOSE = operators.install()

from mmcv.ops import roi_align  # noqa: E402

needs_stand_in = pytest.mark.skipif(WHOSE == "compiled", reason="mmcv's own compiled operators are in use")
Tensor = torch.Tensor


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[2] / "reference" / "mmcv_ops.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def kept_one_by_one(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> list[int]:
    """Greedy suppression, a box at a time, as the definition reads."""
    left = scores.sort(dim=0, descending=True).indices.tolist()
    area = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        others = boxes[left]
        width = torch.minimum(boxes[best, 2], others[:, 2]) - torch.maximum(boxes[best, 0], others[:, 0]) + offset
        height = torch.minimum(boxes[best, 3], others[:, 3]) - torch.maximum(boxes[best, 1], others[:, 1]) + offset
        shared = width.clamp(min=0) * height.clamp(min=0)
        dropped = shared / (area[best] + area[left] - shared) > iou_threshold
        left = [box for box, drop in zip(left, dropped.tolist(), strict=True) if not drop]
    return kept


def random_boxes(count: int, seed: int, whole_numbers: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre, extent = torch.rand(count, 2, generator=generator) * 100, torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], 1)
    return (boxes.round() if whole_numbers else boxes), torch.rand(count, generator=generator)


class BuiltForAnotherTorch(importlib.abc.MetaPathFinder):
    """Fails where a module is imported that was built for another PyTorch."""

    def __init__(self, broken: str, why: Exception) -> None:
        self.broken, self.why = broken, why

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.broken:
            raise self.why


class TestStandingIn:
    def test_installing_twice_changes_nothing(self) -> None:
        before = sys.modules["mmcv._ext"]
        assert operators.install() == WHOSE
        assert sys.modules["mmcv._ext"] is before

    def test_compiled_operators_are_not_replaced(self, monkeypatch) -> None:
        compiled = types.ModuleType("mmcv._ext")
        monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
        assert operators.install() == "compiled"
        assert sys.modules["mmcv._ext"] is compiled
        assert operators.why_not_compiled() is None

    @needs_stand_in
    def test_compiled_operators_that_fail_to_load_are_replaced_and_the_reason_recorded(self, monkeypatch) -> None:
        import mmcv

        assert operators.why_not_compiled() is None
        monkeypatch.setattr(mmcv, "_ext", None)
        monkeypatch.delitem(sys.modules, "mmcv._ext")
        why = ImportError("_ext.so: undefined symbol: _ZN2at5emptyE")
        monkeypatch.setattr(sys, "meta_path", [BuiltForAnotherTorch("mmcv._ext", why), *sys.meta_path])
        assert operators.install() in ("pytorch", "torchvision")
        assert operators.why_not_compiled() == "ImportError: _ext.so: undefined symbol: _ZN2at5emptyE"
        assert sys.modules["mmcv._ext"] is mmcv._ext
        monkeypatch.setitem(sys.modules, "mmcv._ext", mmcv._ext)

    def test_without_mmcv_the_error_has_the_install_command(self, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "mmcv", None)
        with pytest.raises(MissingOperator, match="pip install mmcv-lite"):
            operators.install()

    def test_a_torchvision_that_does_not_load_is_not_used(self, monkeypatch) -> None:
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)
        why = RuntimeError("operator torchvision::nms does not exist")
        monkeypatch.setattr(sys, "meta_path", [BuiltForAnotherTorch("torchvision", why), *sys.meta_path])
        assert operators._torchvision_loads.__wrapped__() is False

    @needs_stand_in
    def test_an_operator_without_replacement_raises_only_when_called(self) -> None:
        from mmcv.ops import deform_conv2d

        with pytest.raises(MissingOperator, match=r"^deform_conv_forward .* pip install mmcv==2\.1\.0"):
            deform_conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 18, 6, 6), torch.zeros(1, 1, 3, 3))
        assert issubclass(MissingOperator, PanbenchError)

    @needs_stand_in
    def test_python_can_probe_the_module(self) -> None:
        extension = sys.modules["mmcv._ext"]
        assert not hasattr(extension, "__path__")
        assert importlib.util.find_spec("mmcv._ext") is extension.__spec__
        assert pickle.loads(pickle.dumps(extension.nms)) is operators.nms

    def test_the_environment_report_of_mmcv_works(self) -> None:
        from mmcv.ops import get_compiler_version, get_compiling_cuda_version

        assert get_compiler_version()
        assert get_compiling_cuda_version()


class TestNms:
    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
    def test_nms_keeps_the_same_boxes_as_compiled_mmcv(self, recorded, threshold: float) -> None:
        boxes, scores = recorded["nms_boxes"], recorded["nms_scores"]
        keep, expected = nms(boxes, scores, threshold), recorded[f"nms_{threshold}_keep"]
        # Boxes 20 and 21 have one score: which comes first is the sort's choice.
        assert torch.equal(keep.sort().values, expected.sort().values)
        assert torch.equal(scores[keep], scores[expected])

    def test_batched_nms_keeps_the_same_boxes_as_compiled_mmcv(self, recorded) -> None:
        from mmcv.ops import batched_nms

        given = (recorded[name] for name in ("nms_boxes", "nms_scores", "bnms_labels"))
        dets, keep = batched_nms(*given, {"type": "nms", "iou_threshold": 0.5})
        assert torch.equal(keep.sort().values, recorded["bnms_keep"].sort().values)
        assert torch.equal(dets[:, 4], recorded["bnms_dets"][:, 4])

    @pytest.mark.parametrize(
        ("boxes", "settings", "expected"),
        [
            # Each overlaps the next by half its length (IoU 1/3); the second falls to the first, so the third stays.
            ([[0, 0, 4, 1], [2, 0, 6, 1], [4, 0, 8, 1.0]], (0.3,), [0, 2]),
            # An IoU equal to the threshold is kept.
            ([[0, 0, 2, 2], [0, 0, 2, 1.0]], (0.5,), [0, 1]),
            ([[0, 0, 2, 2], [0, 0, 2, 1.0]], (0.4999,), [0]),
            # The offset counts the last pixel: 2×2 and 2×1 pixels share 2 of 4; without it they have no area.
            ([[0, 0, 1, 1], [0, 0, 1, 0.0]], (0.4, 1), [0]),
            ([[0, 0, 1, 1], [0, 0, 1, 0.0]], (0.4, 0), [0, 1]),
            # Boxes with NaN are kept, and drop none.
            ([[float("nan"), 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]], (0.5,), [0, 1]),
        ],
    )
    def test_nms_of_a_few_boxes_keeps_the_obvious_ones(self, boxes, settings, expected) -> None:
        scores = torch.tensor([0.9, 0.8, 0.7])[: len(boxes)]
        assert nms(torch.tensor(boxes), scores, *settings).tolist() == expected

    @pytest.mark.parametrize("offset", [0, 1])
    @pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize(("count", "whole_numbers"), [(1, False), (129, True), (400, False), (400, True)])
    def test_nms_in_blocks_agrees_with_the_definition(self, count, whole_numbers, threshold, offset) -> None:
        boxes, scores = random_boxes(count, seed=count, whole_numbers=whole_numbers)
        assert nms(boxes, scores, threshold, offset).tolist() == kept_one_by_one(boxes, scores, threshold, offset)

    def test_nms_resolves_a_long_chain_of_overlaps(self) -> None:
        # 300 boxes, each overlapping only its neighbours: every other one stays.
        left = torch.arange(300.0)
        boxes = torch.stack([left, torch.zeros(300), left + 1.5, torch.ones(300)], 1)
        assert nms(boxes, torch.linspace(1, 0, 300), 0.1).tolist() == list(range(0, 300, 2))

    def test_nms_of_no_boxes_gives_no_indices(self) -> None:
        keep = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
        assert keep.tolist() == []
        assert keep.dtype == torch.int64

    def test_inputs_are_not_modified(self) -> None:
        boxes, scores = random_boxes(50, seed=0)
        before = boxes.clone(), scores.clone()
        nms(boxes, scores, 0.5)
        assert torch.equal(boxes, before[0])
        assert torch.equal(scores, before[1])

    def test_nms_works_on_half_precision_boxes(self) -> None:
        boxes, scores = random_boxes(50, seed=1, whole_numbers=True)
        assert torch.equal(nms(boxes.half(), scores, 0.5), nms(boxes, scores, 0.5))


class TestTorchvision:
    """Its kernels serve devices other than the CPU; here the CPU passes for one."""

    @pytest.fixture
    def kernels(self, monkeypatch) -> types.SimpleNamespace:
        def unreached(*arguments: object) -> Tensor:
            raise AssertionError("torchvision's kernel was called")

        fake = types.SimpleNamespace(nms=unreached, roi_align=unreached)
        monkeypatch.setattr(torch.ops, "torchvision", fake, raising=False)
        monkeypatch.setattr(operators, "_uses_torchvision", lambda device: True)
        return fake

    def test_nms_passes_boxes_in_order_so_that_ties_do_not_change(self, kernels) -> None:
        boxes, scores = random_boxes(60, seed=2)
        scores = (scores * 5).round()

        def stable_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
            assert scores.diff().lt(0).all()
            return torch.tensor(kept_one_by_one(boxes, scores, iou_threshold))

        kernels.nms = stable_nms
        assert nms(boxes, scores, 0.5).tolist() == kept_one_by_one(boxes, scores, 0.5)

    def test_nms_with_an_offset_is_not_passed_to_torchvision(self, kernels) -> None:
        boxes, scores = random_boxes(60, seed=3)
        with pytest.raises(AssertionError, match="was called"):
            nms(boxes, scores, 0.5)
        assert nms(boxes, scores, 0.5, offset=1).tolist() == kept_one_by_one(boxes, scores, 0.5, offset=1)

    def test_roi_align_is_passed_to_torchvision_in_single_precision(self, kernels) -> None:
        def ninths(input: Tensor, rois: Tensor, *arguments: object) -> Tensor:
            assert (input.dtype, rois.dtype) == (torch.float32, torch.float32)
            assert arguments == (0.25, 2, 3, 0, True)
            return torch.full((1, 1, 2, 3), 1 / 9)

        kernels.roi_align = ninths
        output, unused = torch.zeros(1, 1, 2, 3, dtype=torch.float16), torch.zeros(0)
        rois = torch.tensor([[0, 0, 0, 8, 8]], dtype=torch.float16)
        operators.roi_align_forward(
            torch.ones(1, 1, 4, 4, dtype=torch.float16), rois, output, unused, unused, 2, 3, 0.25, 0, 1, True
        )
        assert output.eq(torch.tensor(1 / 9, dtype=torch.float16)).all()

    def test_a_device_without_torchvision_kernels_uses_our_operators(self, kernels, recorded) -> None:
        def not_built(*arguments: object) -> Tensor:
            raise NotImplementedError("Could not run 'torchvision::nms' with arguments from the 'CUDA' backend")

        kernels.nms = kernels.roi_align = not_built
        boxes, scores = random_boxes(60, seed=4)
        assert nms(boxes, scores, 0.5).tolist() == kept_one_by_one(boxes, scores, 0.5)
        output, unused = torch.zeros_like(recorded["roi_7_0_1"]), torch.zeros(0)
        operators.roi_align_forward(
            recorded["roi_feat"], recorded["roi_rois"], output, unused, unused, 7, 7, 0.25, 0, 1, True
        )
        torch.testing.assert_close(output, recorded["roi_7_0_1"], atol=1e-5, rtol=0)


def pooled(input: Tensor, rois: Tensor, size: int, scale: float, ratio: int, aligned: bool) -> Tensor:
    output, unused = (
        torch.full((len(rois), input.shape[1], size, size), float("nan"), dtype=input.dtype),
        torch.zeros(0),
    )
    operators.roi_align_forward(input, rois, output, unused, unused, size, size, scale, ratio, 1, aligned)
    return output


class TestRoiAlign:
    @pytest.mark.parametrize("aligned", [0, 1])
    @pytest.mark.parametrize("ratio", [0, 2])
    @pytest.mark.parametrize("size", [7, 14])
    def test_the_operator_gives_the_values_of_compiled_mmcv(
        self, recorded, size: int, ratio: int, aligned: int
    ) -> None:
        output = pooled(recorded["roi_feat"], recorded["roi_rois"], size, 0.25, ratio, bool(aligned))
        torch.testing.assert_close(output, recorded[f"roi_{size}_{ratio}_{aligned}"], atol=1e-5, rtol=0)

    def test_roi_align_of_mmcv_equals_compiled_mmcv(self, recorded) -> None:
        from mmcv.ops import RoIAlign

        output = RoIAlign(7, spatial_scale=0.25)(recorded["roi_feat"], recorded["roi_rois"])
        torch.testing.assert_close(output, recorded["roi_7_0_1"], atol=1e-5, rtol=0)

    def test_roi_align_samples_a_ramp_at_bin_centres(self) -> None:
        ramp = torch.arange(16.0).expand(1, 1, 16, 16)  # cell x holds x, its centre lies at x + 0.5
        output = pooled(ramp, torch.tensor([[0, 2, 3, 10, 11.0]]), 2, 1.0, 0, aligned=True)
        torch.testing.assert_close(output[0, 0], torch.tensor([[3.5, 7.5], [3.5, 7.5]]))

    def test_a_box_outside_the_map_gives_zeros_and_one_across_the_border_partly(self) -> None:
        ones = torch.ones(1, 1, 4, 4)
        rois = torch.tensor([[0, -20, -20, -10, -10], [0, 0, -4, 4, 4.0]])
        output = pooled(ones, rois, 2, 1.0, 4, aligned=True)
        assert output[0].eq(0).all()
        # Rows sampled at -4.25 … -0.75 count from -1 on: one of eight; those of the lower bins all do.
        torch.testing.assert_close(output[1, 0], torch.tensor([[0.25, 0.25], [1, 1]]))

    def test_an_empty_box_gives_zeros_if_aligned_and_one_cell_otherwise(self) -> None:
        fives = torch.full((1, 1, 8, 8), 5.0)
        empty = torch.tensor([[0, 3, 3, 3, 3.0]])
        assert pooled(fives, empty, 2, 1.0, 0, aligned=True).eq(0).all()
        assert pooled(fives, empty, 2, 1.0, 0, aligned=False).eq(5).all()

    def test_each_box_is_pooled_from_its_own_image_in_the_order_given(self) -> None:
        images = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 2, 6, 6)
        rois = torch.tensor([[2, 0, 0, 6, 6], [0, 1, 1, 2, 2], [1, 0, 0, 6, 1], [0, 0, 0, 4, 4.0]])
        output = pooled(images, rois, 3, 1.0, 0, aligned=True)
        expected = torch.tensor([3.0, 1.0, 2.0, 1.0]).view(4, 1, 1, 1).expand(4, 2, 3, 3)
        torch.testing.assert_close(output, expected)

    def test_a_box_far_larger_than_the_map_averages_its_part_of_the_map(self) -> None:
        output = pooled(torch.ones(1, 1, 4, 4), torch.tensor([[0, -98, -98, 102, 102.0]]), 1, 1.0, 0, True)
        # 200 samples an axis, a cell apart from -98 on; those at -1, 0, … 4 count, ends included: 6 of 200.
        torch.testing.assert_close(output, torch.full((1, 1, 1, 1), (6 / 200) ** 2))

    @pytest.mark.parametrize(
        ("size", "rois", "output_size", "shape"),
        [
            ((1, 1, 1, 1), torch.tensor([[0, 0, 0, 1, 1.0]]), 2, (1, 1, 2, 2)),
            ((1, 3, 8, 8), torch.tensor([[0, 0, 0, 8, 8.0]]), (2, 5), (1, 3, 2, 5)),
            ((1, 3, 8, 8), torch.zeros(0, 5), 7, (0, 3, 7, 7)),
        ],
        ids=["a map of one cell", "height then width", "no boxes"],
    )
    def test_the_output_has_the_requested_size(self, size, rois, output_size, shape) -> None:
        output = roi_align(torch.full(size, 7.0), rois, output_size)
        assert output.shape == shape
        assert output.eq(7).all()

    @needs_stand_in
    def test_max_pooling_and_gradients_are_refused(self, recorded) -> None:
        from mmcv.ops import RoIAlign

        features, rois = recorded["roi_feat"].clone().requires_grad_(), recorded["roi_rois"]
        with pytest.raises(MissingOperator, match=r"^roi_align_forward with pool_mode='max' is an operator"):
            RoIAlign(7, spatial_scale=0.25, pool_mode="max")(features, rois)
        with pytest.raises(MissingOperator, match=r"^roi_align_backward is an operator"):
            RoIAlign(7, spatial_scale=0.25)(features, rois).sum().backward()

    @pytest.mark.parametrize(
        ("box", "named"),
        [
            ([0, float("nan"), 0, 4, 4], "nan"),
            ([0, 0, 0, float("inf"), 4], "inf"),
            ([0, 4, 0, 0, 4], "x1 ≤ x2"),
            ([0, 0, 0, 1e30, 4], "at most 1000000 cells"),
            ([1, 0, 0, 4, 4], "image 1 of 1"),
            ([-1, 0, 0, 4, 4], "image -1 of 1"),
        ],
    )
    def test_an_invalid_box_is_named(self, box: list[float], named: str) -> None:
        rois = torch.tensor([[0, 0, 0, 4, 4], box])
        with pytest.raises(BadBoxes, match=f"1 of 2 boxes .* number 1, .*{named}"):
            roi_align(torch.ones(1, 1, 8, 8), rois, 7)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_only_rounds_the_features(self, recorded, dtype: torch.dtype) -> None:
        features = recorded["roi_feat"].to(dtype)
        output = pooled(features, recorded["roi_rois"], 7, 0.25, 0, True)
        expected = pooled(features.float(), recorded["roi_rois"], 7, 0.25, 0, True)
        assert torch.equal(output, expected.to(dtype))

    def test_autocast_does_not_change_the_arithmetic(self, recorded) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = roi_align(recorded["roi_feat"], recorded["roi_rois"], 7, 0.25)
        torch.testing.assert_close(output, recorded["roi_7_0_1"], atol=1e-5, rtol=0)

    def test_inputs_are_not_modified(self, recorded) -> None:
        features, rois = recorded["roi_feat"].clone(), recorded["roi_rois"].clone()
        roi_align(features, rois, 7, 0.25)
        assert torch.equal(features, recorded["roi_feat"])
        assert torch.equal(rois, recorded["roi_rois"])


class TestDeformableAttention:
    def inputs(self, recorded) -> tuple[Tensor, ...]:
        return tuple(recorded[f"msda_{name}"] for name in ("value", "shapes", "loc", "att"))

    def test_the_operator_gives_the_values_of_compiled_mmcv(self, recorded) -> None:
        output = operators.deformable_attention(*self.inputs(recorded))
        torch.testing.assert_close(output, recorded["msda_out"], atol=1e-5, rtol=0)

    def test_computing_in_blocks_of_queries_changes_nothing(self, recorded, monkeypatch) -> None:
        whole = operators.deformable_attention(*self.inputs(recorded))
        monkeypatch.setattr(operators, "_SAMPLES_AT_ONCE", 5 * 4 * 3 * 4)  # 5 queries, the last block shorter
        assert torch.equal(operators.deformable_attention(*self.inputs(recorded)), whole)

    def test_mmcvs_cuda_operator_is_replaced(self, recorded) -> None:
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

        if WHOSE == "compiled":
            pytest.skip("compiled mmcv has this operator for CUDA only")
        value, shapes, places, weights = self.inputs(recorded)
        starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
        output = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, places, weights, 64)
        torch.testing.assert_close(output, recorded["msda_out"], atol=1e-5, rtol=0)

    def test_samples_off_the_map_are_zero_and_those_at_the_border_count_partly(self) -> None:
        # One level of 1×2 cells holding 4 and 8; their centres lie at x = 0.25 and 0.75.
        value, shapes = torch.tensor([4.0, 8.0]).view(1, 2, 1, 1), torch.tensor([[1, 2]])
        x = torch.tensor([0.25, 0.5, 0.75, 1.0, 1.25, -1.0, 9.0, 1e30])
        places = torch.stack([x, torch.full_like(x, 0.5)], 1).view(1, -1, 1, 1, 1, 2)
        output = operators.deformable_attention(value, shapes, places, torch.ones(1, len(x), 1, 1, 1))
        assert output.flatten().tolist() == [4, 6, 8, 4, 0, 0, 0, 0]

    def test_each_head_and_level_reads_its_own_channels(self) -> None:
        # Two levels of one cell; head 0 holds 1 and 10, head 1 holds 2 and 20. Each head weighs the levels its own way.
        value = torch.tensor([[1.0, 2.0], [10.0, 20.0]]).view(1, 2, 2, 1)
        weights = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).view(1, 1, 2, 2, 1)
        places = torch.full((1, 1, 2, 2, 1, 2), 0.5)
        output = operators.deformable_attention(value, torch.tensor([[1, 1], [1, 1]]), places, weights)
        assert output.flatten().tolist() == [5.5, 20.0]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_inputs_are_computed_in_single_precision(self, recorded, dtype: torch.dtype) -> None:
        value, shapes, places, weights = self.inputs(recorded)
        rounded = [t.to(dtype) for t in (value, places, weights)]
        output = operators.deformable_attention(rounded[0], shapes, rounded[1], rounded[2])
        exact = operators.deformable_attention(rounded[0].float(), shapes, rounded[1].float(), rounded[2].float())
        assert torch.equal(output, exact.to(dtype))

    def test_mmcvs_module_uses_the_fast_operator(self) -> None:
        module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
        torch.manual_seed(0)
        attention = module.MultiScaleDeformableAttention(
            32, num_heads=4, num_levels=2, num_points=3, batch_first=True
        ).eval()
        attention.init_weights()
        inputs = {
            "query": torch.randn(1, 30, 32),
            "reference_points": torch.rand(1, 30, 2, 2),
            "spatial_shapes": torch.tensor([[4, 6], [2, 3]]),
            "level_start_index": torch.tensor([0, 24]),
        }
        with torch.no_grad():
            before = attention(**inputs)
            deformable.speed_up(attention)
            torch.testing.assert_close(attention(**inputs), before, atol=1e-5, rtol=0)


def test_the_box_head_of_mmdet_pools_from_four_levels() -> None:
    pytest.importorskip("mmdet")
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    extractor = SingleRoIExtractor(
        roi_layer={"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
        out_channels=3,
        featmap_strides=[4, 8, 16, 32],
    )
    levels = [torch.full((1, 3, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    rois = torch.tensor([[0, 3, 3, 3 + size, 3 + size] for size in (20, 120, 200, 250)], dtype=torch.float32)
    output = extractor(levels, rois)
    expected = torch.tensor([4.0, 8.0, 8.0, 16.0]).view(4, 1, 1, 1).expand(4, 3, 7, 7)
    torch.testing.assert_close(output, expected)
