"""Python imports this before all else, where this folder is on ``PYTHONPATH``; it runs under whatever Python that is."""

import ftharness_no_spin
import ftharness_stand_ins

ftharness_no_spin.install()
ftharness_stand_ins.install()
