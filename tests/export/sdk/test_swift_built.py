"""The generated Swift, compiled on Linux against stand-ins for Apple's libraries; the tests that need none of them run.

This shows that the Swift is valid, that samples are read, streams are led and frames converted. It shows nothing of
Core ML, ExecuTorch, Core Video or Metal.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.devices.apple.test_swift_built import STAND_INS as RUNNER_STAND_INS
from tests.export.sdk.bundles import KINDS, SIGNATURES, Kind, add_picture, manifest, write
from tests.programs import needs

pytestmark = [
    pytest.mark.slow,
    needs("swiftc", everywhere=False),
    pytest.mark.skipif(sys.platform == "darwin", reason="the stand-ins are for systems without Apple's libraries"),
]

STAND_INS = Path(__file__).parent / "swift_stand_ins"
TIMEOUT_S = 300
TARGETS = ["coreml-fp16", "executorch-xnnpack-fp32"]


def run(*words: object) -> str:
    done = subprocess.run(
        list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def swift(*words: object) -> None:
    run("swiftc", "-swift-version", "5", *words)


def module(folder: Path, name: str, *sources: Path) -> list[Path]:
    """Compile a module; its object files."""
    files = [source for path in sources for source in (sorted(path.glob("*.swift")) if path.is_dir() else [path])]
    named = ("-emit-module", "-emit-module-path", folder / f"{name}.swiftmodule", "-module-name", name)
    built = folder / f"{name}.o"
    flags = ("-parse-as-library", "-whole-module-optimization", "-enable-testing")
    swift("-emit-object", *flags, *named, "-I", folder, "-o", built, *files)
    return [built]


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_swift_is_valid_and_what_needs_no_apple_library_passes_its_tests(tmp_path: Path, kind: Kind) -> None:
    bundle, built = tmp_path / "bundle", tmp_path / "built"
    bundle.mkdir()
    built.mkdir()
    targets = [*TARGETS, "coreml-state-fp16"] if kind == "stream" else TARGETS
    write(bundle, manifest(kind, targets))
    (bundle / "manifest.json").touch()
    inputs, outputs, _ = SIGNATURES[kind]
    np.savez(bundle / "sample.npz", **{info.name: np.ones(info.shape, np.float32) for info in (*inputs, *outputs)})
    add_picture(bundle / "sample.npz")
    for name in ("CoreML", "Metal", "CoreVideo"):
        module(built, name, STAND_INS / f"{name}.swift")
    module(built, "ExecuTorch", RUNNER_STAND_INS / "ExecuTorch.swift")
    package = next(path for path in (bundle / "sdk/swift").iterdir() if not path.name.endswith("ExecuTorch"))
    name = package.name
    objects = module(built, f"{name}Kit", package / f"Sources/{name}Kit")
    module(built, f"{name}CoreML", package / f"Sources/{name}CoreML")
    beside = package.with_name(f"{name}ExecuTorch")
    module(built, f"{name}ExecuTorch", beside / f"Sources/{name}ExecuTorch")
    swift("-typecheck", "-I", built, package / f"Tests/{name}CoreMLTests/CoreMLTests.swift")
    swift("-typecheck", "-I", built, beside / f"Tests/{name}ExecuTorchTests/ExecuTorchTests.swift")
    tests = package / f"Tests/{name}KitTests/KitTests.swift"
    methods = re.findall(r"func (test\w+)", tests.read_text())
    listed = ", ".join(f'("{method}", KitTests.{method})' for method in methods)
    main = built / "main.swift"
    main.write_text(f"import XCTest\nXCTMain([testCase([{listed}])])\n")
    needed = [built / f"{name}.o" for name in ("Metal", "CoreVideo")]
    swift("-o", built / "tests", "-I", built, main, tests, *objects, *needed)
    assert f"Executed {len(methods)} tests, with 0 failures" in run(built / "tests")
