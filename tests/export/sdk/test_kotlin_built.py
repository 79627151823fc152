"""The generated Kotlin, compiled against stand-ins for Android and the runtimes, and its tests run on a plain JVM.

The stand-in of ONNX Runtime gives what the real one gave for the bundle's artifact, and only for the same inputs: what
is executed here is the reading of samples, the leading of streams and the conversion of frames, and no network.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.export.sdk.bundles import executed
from tests.programs import find, needs

#: Where .ci/run puts the npm package `kotlin-compiler`.
FOLDERS = [Path("/opt/handheld/kotlin/node_modules/kotlin-compiler/bin")]
TIMEOUT_S = 500
STAND_INS = Path(__file__).parent / "kotlin_stand_ins"

pytestmark = [pytest.mark.slow, needs("java"), needs("kotlinc", folders=FOLDERS)]


def run(*words: object) -> str:
    """What a program prints; fails with it."""
    text = [str(word) for word in words]
    done = subprocess.run(
        text, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_kotlin_compiles_and_its_own_tests_pass(tmp_path: Path) -> None:
    bundles = executed(tmp_path)
    kotlinc = find("kotlinc", FOLDERS)
    assert kotlinc is not None
    library = Path(kotlinc).resolve().parents[1] / "lib"
    tools = f"{library / 'kotlin-test.jar'}:{library / 'kotlin-stdlib.jar'}"
    built = tmp_path / "built.jar"
    sources = [bundle / "sdk/kotlin" / part for bundle in bundles.values() for part in ("core/src", "android/src")]
    flags = ("-no-stdlib", "-jvm-target", "17", "-Xallow-kotlin-package", "-nowarn", "-J-Xmx1g")
    run("bash", kotlinc, *flags, "-classpath", tools, "-d", built, STAND_INS, *sources)
    for kind, bundle in bundles.items():
        (test,) = (bundle / "sdk/kotlin/core/src/test").rglob("*.kt")
        name = ".".join(test.relative_to(bundle / "sdk/kotlin/core/src/test/kotlin").with_suffix("").parts)
        told = run("java", f"-Dhandheld.bundle={bundle}", "-cp", f"{built}:{tools}", "kotlin.test.TestMainKt", name)
        passed = [line for line in told.splitlines() if line.endswith(": ok")]
        assert any("onnxFp32GivesPyTorchsOutput" in line for line in passed), told
        assert len(passed) >= 5, f"{kind}: {told}"
