"""`eval` and `score` on a Ray cluster: its scheduler runs the shards, and starts again those whose worker dies."""

from panbench.base.studies import Study

STUDY = Study(
    "on_ray",
    "`eval` and `score` on a Ray cluster: its scheduler runs the shards, and starts again those whose worker dies.",
    order=130,
    options={
        "eval": "panbench.studies.on_ray.options:EvaluateOnRay",
        "score": "panbench.studies.on_ray.options:ScoreOnRay",
    },
)
