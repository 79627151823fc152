"""ExecuTorch with Core ML: what stands in the file, and that it means the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from export import executorch_coreml
from export.targets import FP16, Conversion
from toolkit.errors import UserError
from toolkit.parity import Execution, compare


def conversion(**options: object) -> Conversion:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.PixelShuffle(2)).eval()
    return Conversion(torch.export.export(network, (torch.randn(2, 3, 6, 8),)), ["x", "y"], **options)  # type: ignore[arg-type]


def test_one_precision_is_all_that_a_delegate_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one precision"):
        executorch_coreml.convert(conversion(wide=frozenset({"conv2d"})), tmp_path / "model.pte")


@pytest.mark.slow
def test_every_method_of_the_file_is_near_fp32(tmp_path: Path) -> None:
    given = conversion()
    path = tmp_path / "model.pte"
    written = executorch_coreml.convert(conversion(sizes={"again": given.program}), path)
    assert (written.max_rank, written.delegates, written.delegated_share) == (4, 1, 1.0)
    x = torch.randn(2, 3, 6, 8)
    with torch.no_grad():
        expected = given.program.module()(x).numpy()
    for name in ("forward", "again"):
        session = executorch_coreml.open_method(path, name)
        found = compare(Execution(session.call([x.numpy()]), session.how, session.runtime), [expected], FP16)
        assert found.passed
    with pytest.raises(UserError, match="unknown method"):
        executorch_coreml.open_method(path, "other").call([x.numpy()])
