"""Every call of the system that a write makes fails in turn: the write raises and is not there, or passes and is.

Once the disk works again, the store goes on, and no file stays open. Where it fails for good, an error may leave open what is
there: then it is the old or the new state, the same for everybody. At CI size every eleventh call fails, with
``FINDINGS_TEST_SCALE=full`` all do.
"""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
STEP = 11
FOLDER = pathlib.Path(__file__).resolve().parent
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return what fails calls, compiled."""
    made = tmp_path_factory.mktemp("library") / "failing_calls.so"
    source = FOLDER / "failing_calls.c"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-O1", "-w", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD and /proc are Linux's")
@pytest.mark.skipif(
    COMPILER is None, reason="no C compiler (cc, gcc, clang) to make what fails calls of the system"
)
@pytest.mark.parametrize(
    ("error", "for_good"),
    [(errno.EIO, False), (errno.ENOSPC, True), *([(errno.ENOSPC, False), (errno.EIO, True)] if FULL else [])],
)
def test_a_call_that_fails_leaves_all_or_nothing(
    tmp_path: pathlib.Path, library: pathlib.Path, error: int, for_good: bool
) -> None:
    arguments = [tmp_path, error, int(for_good), 1 if FULL else STEP]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.failing_calls", *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    tried = [int(line.split()[1]) for line in done.stdout.splitlines()]
    print(f"{errno.errorcode[error]}{' for good' if for_good else ''}: {sum(tried)} points")
    assert len(tried) == 14
    assert min(tried) >= 2
