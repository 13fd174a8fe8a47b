"""The servers of the tests clean up after themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import remove_orphans

CODE = """
import sys, time
sys.path[:0] = sys.argv[1:]
from servers import embedded_binaries, postgresql_server
with postgresql_server(embedded_binaries()):
    print("running", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Return a folder that the unprivileged user of the servers can enter, as that of pytest is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_folder_of_a_killed_test_process_is_removed_by_the_next_one(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "TMPDIR": str(reachable)}
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *sys.path], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        monkeypatch.setattr(tempfile, "tempdir", str(reachable))
        remove_orphans()
        assert len(list(reachable.iterdir())) == 1, "the folder of a living process is not touched"
        process.send_signal(signal.SIGKILL)
    remove_orphans()
    assert list(reachable.iterdir()) == []
