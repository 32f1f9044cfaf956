"""SIGKILL of a writer at any moment: nothing that was acknowledged is lost, and what is there is always whole.

``FTHARNESS_TEST_KILLS`` says how many, and ``FTHARNESS_TEST_SEED`` which; the moments are drawn from the seed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_KILLS = int(os.environ.get("FTHARNESS_TEST_KILLS", "15"))
_SEED = int(os.environ.get("FTHARNESS_TEST_SEED", "1"))


@pytest.mark.timeout(120 + 2 * _KILLS)
@pytest.mark.parametrize("kind", ["manifest", "checkpoints"])
def test_a_killed_writer_loses_nothing(tmp_path: Path, kind: str) -> None:
    """Of what it was told is done; what it was doing is done whole, or not at all; others go on as if nothing had been."""
    argv = [
        sys.executable,
        str(Path(__file__).with_name("kill_writers.py")),
        kind,
        str(tmp_path),
        str(_SEED),
        str(_KILLS),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kills"] == _KILLS
    assert seen["acknowledged"] > 0  # they were killed at work, not before it
