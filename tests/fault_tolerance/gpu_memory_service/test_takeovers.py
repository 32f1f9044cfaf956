"""A thousand takeovers, each after a kill at a moment that nobody chose."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu_0, pytest.mark.pre_merge]

_PROGRAM = Path(__file__).with_name("takeovers.py")
_ROUNDS = 1_000


@pytest.mark.timeout(600)
def test_a_thousand_takeovers(tmp_path: Path) -> None:
    """Never do two serve: what the kernel gives in the order in which it was sent never goes back to an older token.

    Each serves soon after the last one's death; tokens only grow; and no engine has more files open than the first one.
    """
    command = [sys.executable, str(_PROGRAM), str(tmp_path / "lock"), str(tmp_path / "witness"), str(_ROUNDS)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    served = json.loads(ran.stdout)
    tokens = [token for _, token, _ in served]
    assert tokens == sorted(tokens), "one whose token is older served after one whose token is newer"
    by_token = {token: {number for number, of, _ in served if of == token} for token in set(tokens)}
    assert all(len(numbers) == 1 for numbers in by_token.values()), "a token was given twice"
    assert len(by_token) >= _ROUNDS
    files = [files for _, _, files in served]
    assert max(files) - files[0] <= 1, "a takeover leaves files open"  # one more: a waiting process's last pipe
