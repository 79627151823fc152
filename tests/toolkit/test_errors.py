"""Errors: which exit code each kind stands for, and how an unknown name is answered."""

from __future__ import annotations

import pytest

from toolkit.errors import CheckFailed, DeviceError, HandheldError, UserError, unknown_name


@pytest.mark.parametrize(("kind", "code"), [(CheckFailed, 1), (UserError, 2), (DeviceError, 3)])
def test_each_kind_of_failure_has_its_exit_code(kind: type[HandheldError], code: int) -> None:
    error = kind("reason")
    assert isinstance(error, HandheldError)
    assert error.exit_code == code
    assert str(error) == "reason"


def test_unknown_name_is_the_users_error_and_names_the_nearest_and_all_known_in_order() -> None:
    error = unknown_name("target", "onx-fp32", ["onnx-fp32", "coreml-fp16"])
    assert isinstance(error, UserError)
    assert str(error) == "unknown target 'onx-fp32'. Did you mean 'onnx-fp32'? Known: coreml-fp16, onnx-fp32."


def test_unknown_name_suggests_nothing_where_nothing_is_near() -> None:
    assert str(unknown_name("device", "zzz", iter(["host"]))) == "unknown device 'zzz'. Known: host."


def test_unknown_name_says_so_where_nothing_is_known() -> None:
    assert str(unknown_name("recipe", "a", [])) == "unknown recipe 'a'. Known: none."
