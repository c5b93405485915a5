"""`eval` and `score` on a Ray cluster: its workers pull tasks, and one that dies is replaced."""

from panbench.base.studies import Study

__all__ = ["STUDY"]

STUDY = Study(
    "on_ray",
    "`eval` and `score` on a Ray cluster: its workers pull tasks, and one that dies is replaced.",
    options={
        "eval": "panbench.studies.on_ray.options:SpreadEvaluation",
        "score": "panbench.studies.on_ray.options:SpreadScoring",
    },
    engines={"ray": "panbench.studies.on_ray.engine:RayEngine"},
)
