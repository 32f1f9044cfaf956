"""``python -m ftharness.faults.storage [BATCHES]``: explore the crashes of a run; prints how many as JSON."""

import json
import logging
import sys

from ftharness.faults.storage.explore import explore_somewhere

logging.disable(logging.ERROR)  # each recovery would say what it found
sys.stdout.write(json.dumps(explore_somewhere(int(sys.argv[1]) if len(sys.argv) > 1 else 3)) + "\n")
