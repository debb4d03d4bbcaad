"""What a model is worth: quality on a task, size, and speed against another model."""

from __future__ import annotations

from neuroprune.anatomy.inputs import sample_inputs
from neuroprune.evaluation.importance import head_importance
from neuroprune.evaluation.quality import EvaluationError, evaluate
from neuroprune.evaluation.size import SizeReport, bytes_on_disk, count_flops, size_report
from neuroprune.evaluation.speed import (
    Comparison,
    Ratio,
    SpeedReport,
    Timing,
    compare_speed,
    compare_steps,
)

__all__ = [
    "Comparison",
    "EvaluationError",
    "Ratio",
    "SizeReport",
    "SpeedReport",
    "Timing",
    "bytes_on_disk",
    "compare_speed",
    "compare_steps",
    "count_flops",
    "evaluate",
    "head_importance",
    "sample_inputs",
    "size_report",
]
