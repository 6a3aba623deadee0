"""What a Python process under test does before anything else, when this directory is on PYTHONPATH.

CHAOS_CLOCK_SHIFT shifts its wall clock by so many seconds; its monotonic clock goes on as it is. CHAOS_BREAKAGE breaks
the product in it on purpose: see tests/chaos/breakages.py. Only the chaos harness sets them.
"""

import os
import time

import time_machine

if _shift := os.environ.get("CHAOS_CLOCK_SHIFT"):
    time_machine.travel(time.time() + float(_shift), tick=True).start()

if _breakage := os.environ.get("CHAOS_BREAKAGE"):
    from tests.chaos.mutations import MUTATIONS

    MUTATIONS[_breakage]()
