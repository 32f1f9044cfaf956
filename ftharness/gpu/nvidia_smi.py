"""What ``nvidia-smi`` says, kept with the run for people: whole, and unread by us."""

import asyncio
import shutil
from pathlib import Path

FILE = "nvidia-smi.txt"
_ANSWER_S = 30.0


async def keep(folder: Path, when: str) -> None:
    """Add what it says now to ``nvidia-smi.txt`` in ``folder``; where it says nothing, why.

    Args:
        folder: Of the run.
        when: A heading, such as ``before the launch``.

    Raises:
        OSError: The file cannot be written.
    """
    said = await _said()
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(f"# {when}\n{said.rstrip()}\n\n")


async def _said() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "nvidia-smi is not on PATH"
    process = await asyncio.create_subprocess_exec(
        program, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _ANSWER_S)
    except TimeoutError:
        return f"{program} has not answered within {_ANSWER_S:g} s"
    finally:
        if process.returncode is None:  # it hangs where a GPU does
            process.kill()
    text = output.decode(errors="replace")
    return text if process.returncode == 0 else f"{text.rstrip()}\n{program} ended with {process.returncode}"
