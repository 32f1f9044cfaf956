"""Python imports this before all else, where this folder is on ``PYTHONPATH``; it runs under whatever Python that is."""  # noqa: INP001

import ftharness_no_spin  # type: ignore[import-not-found] # beside this file, when it runs
import ftharness_stand_ins  # type: ignore[import-not-found]

ftharness_no_spin.install()
ftharness_stand_ins.install()
