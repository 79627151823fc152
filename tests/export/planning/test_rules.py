"""The rules of the Neural Engine, on programs of one operator: types, shapes and attributes decide, not names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Operation, types

from export.planning.rules import Rules, Values, load_rules
from toolkit.errors import UserError
from toolkit.schema import validate

FP16 = types.fp16


def operation(make: Callable[..., Any], *shapes: tuple[int, ...], dtype: Any = FP16) -> Operation:
    """The last operator of a program that `make` builds from inputs of the given shapes."""

    specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]
    if len(specs) == 1:

        @mb.program(input_specs=specs)
        def program(x):  # type: ignore[no-untyped-def]
            return make(x)
    else:

        @mb.program(input_specs=specs)
        def program(x, y):  # type: ignore[no-untyped-def]
            return make(x, y)

    found = program.functions["main"].operations[-1]
    assert isinstance(found, Operation)
    return found


def convolution(*shape: int, **options: Any) -> Callable[[Any], Any]:
    weight = np.zeros(shape, dtype=np.float16)
    return lambda x: mb.conv(x=x, weight=weight, pad_type="same", **options)


def rule_of(found: Operation) -> str | None:
    rule = load_rules().first(found)
    return None if rule is None else rule.id


@pytest.mark.parametrize(
    ("rule", "make", "shape"),
    [
        (None, convolution(4, 3, 3, 3), (1, 3, 8, 8)),
        (None, convolution(4, 1, 3, 3, groups=4), (1, 4, 8, 8)),
        ("dilation", convolution(4, 3, 3, 3, dilations=[2, 2]), (1, 3, 8, 8)),
        ("wide-kernel", convolution(4, 3, 1, 17), (1, 3, 8, 32)),
        ("wide-kernel-a13", convolution(4, 3, 1, 15), (1, 3, 8, 32)),
        ("high-kernel", convolution(4, 3, 33, 1), (1, 3, 64, 8)),
        ("conv3d", convolution(4, 3, 3, 3, 3), (1, 3, 4, 8, 8)),
        (None, lambda x: mb.relu(x=x), (1, 3, 8, 16384)),
        ("extent-16384", lambda x: mb.relu(x=x), (1, 3, 8, 16385)),
        ("extent-65536", lambda x: mb.relu(x=x), (1, 65537, 1, 1)),
        ("gather", lambda x: mb.gather(x=x, indices=[0, 2], axis=1), (1, 3, 8, 8)),
        (None, lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0, 0], end=[1, 3, 8, 8]), (1, 3, 8, 8)),
        ("cumsum", lambda x: mb.cumsum(x=x, axis=1), (1, 3, 8, 8)),
        ("trigonometry", lambda x: mb.tan(x=x), (1, 3)),
        ("sine", lambda x: mb.sin(x=x), (1, 3)),
        (None, lambda x: mb.atan(x=x), (1, 3)),
        ("pad-channels", lambda x: mb.pad(x=x, pad=[0, 0, 1, 0, 0, 0, 0, 0]), (1, 3, 8, 8)),
        ("pad-batch", lambda x: mb.pad(x=x, pad=[1, 0, 0, 0, 0, 0, 0, 0]), (1, 3, 8, 8)),
        (None, lambda x: mb.pad(x=x, pad=[1, 1, 1, 1]), (1, 3, 8, 8)),
        ("pad-mode-a13", lambda x: mb.pad(x=x, pad=[1, 1, 1, 1], mode="reflect"), (1, 3, 8, 8)),
        ("arg-over-2048", lambda x: mb.reduce_argmax(x=x, axis=1), (1, 2049, 2, 2)),
        ("resizing-a13", lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2), (1, 3, 8, 8)),
        ("fp32", lambda x: mb.cast(x=mb.relu(x=mb.cast(x=x, dtype="fp32")), dtype="fp32"), (1, 3)),
        ("cast-at-the-border", lambda x: mb.cast(x=x, dtype="fp32"), (1, 3)),
        ("cast-to-integer", lambda x: mb.cast(x=x, dtype="int32"), (1, 3)),
    ],
)
def test_a_rule_applies_by_kind_type_shape_and_attribute(
    rule: str | None, make: Callable[[Any], Any], shape: tuple[int, ...]
) -> None:
    found = operation(make, shape)
    if rule == "fp32":
        found = next(op for op in found.enclosing_block.operations if op.op_type == "relu")
    assert rule_of(found) == rule


def test_computed_weights_leave_the_engine_only_for_a_batch() -> None:
    make = lambda x, y: mb.conv(x=x, weight=y, pad_type="same")  # noqa: E731
    assert rule_of(operation(make, (2, 3, 8, 8), (4, 3, 3, 3))) == "dynamic-weight"
    # the weight itself has four output channels, which is no batch
    assert rule_of(operation(make, (1, 3, 8, 8), (1, 3, 3, 3))) is None


def test_every_rule_names_its_source_and_each_its_own_id() -> None:
    rules = load_rules().rules
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.source and rule.reason for rule in rules)


def test_a_rule_reaches_the_chips_up_to_its_last() -> None:
    by_id = {rule.id: rule for rule in load_rules().rules}
    assert by_id["extent-16384"].reaches("A15")
    assert not by_id["extent-16384"].reaches("A16")
    assert by_id["gather"].reaches("A18")
    assert "up to A15" in by_id["extent-16384"].said()


@pytest.mark.parametrize(
    ("asked", "value", "holds"),
    [
        (Values(above=1), np.array([1, 2]), True),
        (Values(above=1), 1, False),
        (Values(any_of=["reflect"]), "reflect", True),
        (Values(none_of=[1, 2]), np.array([1, 3]), True),
        (Values(none_of=[1, 2]), np.array([1, 2]), False),
    ],
)
def test_constant_attributes_are_looked_at_number_by_number(asked: Values, value: object, holds: bool) -> None:
    assert asked.hold(value) is holds


def test_a_mistake_in_a_rule_names_the_key() -> None:
    rule = {"id": "x", "operators": ["conv"], "to": "CPU", "reason": "r", "confidence": "high"}
    with pytest.raises(UserError, match="source"):
        validate(Rules, {"baseline": "A14", "rules": [rule]}, "rules.yaml")
    with pytest.raises(UserError, match="unknown key 'wen'"):
        validate(Rules, {"baseline": "A14", "rules": [{**rule, "source": "someone said", "wen": {}}]}, "rules.yaml")
