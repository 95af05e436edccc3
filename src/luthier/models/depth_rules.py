"""Which layer of a trained model each layer of a new one starts from. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.errors import ModelError
from luthier.models.settings import DepthRule


def depth_sources(rule: DepthRule | Sequence[int], student: int, teacher: int) -> list[int]:
    """The teacher's layer of every layer of the student, both counted from 0.

    Args:
        rule: as `depth` of `remap_parameters`.
        student, teacher: how many layers they have.

    Raises:
        ModelError: the rule asks for layers that are not there.
    """
    if not isinstance(rule, str):
        if len(rule) != student or not all(0 <= layer < teacher for layer in rule):
            raise ModelError(
                f"the depth map {list(rule)} does not give each of {student} layers one of {teacher}",
                fix=f"give {student} numbers from 0 to {teacher - 1}",
            )
        return list(rule)
    if rule == "repeat_last":
        return [min(j, teacher - 1) for j in range(student)]
    if rule == "uniform":
        step = (teacher - 1) / max(1, student - 1)
        return [math.floor(j * step + 0.5) for j in range(student)]
    if student > teacher:
        raise ModelError(
            f"`{rule}` takes some of the teacher's layers, and the student has {student} where the teacher has "
            f"{teacher}",
            fix="use repeat_last or uniform, or list a layer of the teacher for every layer of the student",
        )
    start = teacher - student if rule == "last" else 0
    return list(range(start, start + student))
