"""PQ in a training loop: id maps in memory, from as many processes as there are."""

import numpy as np

import panbench

CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]


def test_pq_of_maps_in_memory():
    truth, cat_and_grass = np.array([[7, 7, 9, 9]]), [{"id": 7, "category_id": 1}, {"id": 9, "category_id": 2}]
    found = np.array([[3, 3, 3, 4]])  # the cat takes a pixel of the grass: IoU 2/3, and 1/2, which is no match
    evaluator = panbench.Evaluator(CATEGORIES)
    evaluator.update(
        pred_ids=found,
        pred_segments=[{"id": 3, "category_id": 1}, {"id": 4, "category_id": 2}],
        gt_ids=truth,
        gt_segments=[{**segment, "area": 2} for segment in cat_and_grass],
    )
    result = evaluator.compute()
    assert result["Things"]["PQ"] == 2 / 3
    assert result["Stuff"]["PQ"] == 0
