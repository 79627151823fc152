"""What the header of a program or library tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.android import runner_sources
from devices.android.elf import read_elf
from devices.android.runner_build import HOST
from tests.programs import needs
from toolkit.errors import UserError

builds = [pytest.mark.slow, needs("cmake", "c++", "npm")]


class TestElf:
    def test_a_library_of_this_machine_is_read(self) -> None:
        library = runner_sources.executorch_package().prefix / "lib" / "libexecutorch_threadpool.so"

        described = read_elf(library)

        assert described.machine == HOST
        assert described.name == "libexecutorch_threadpool.so"
        assert {"libexecutorch.so", "libc.so.6"} <= set(described.needed)

    @pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" + bytes(100)])
    def test_other_files_are_told(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "library"
        path.write_bytes(content)

        with pytest.raises(UserError, match="no 64-bit ELF program or library"):
            read_elf(path)
