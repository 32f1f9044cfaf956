"""``python -m ftharness.faults.storage [BATCHES [CUTS]]``: explore the crashes of a run; prints how many as JSON."""

import json
import logging
import sys

from ftharness.faults.storage.explore import explore_somewhere

logging.disable(logging.ERROR)  # each recovery would say what it found
given = [int(argument) for argument in sys.argv[1:3]]
batches, cuts = (*given, *(3, 12)[len(given) :])
sys.stdout.write(json.dumps(explore_somewhere(batches, cuts)) + "\n")
