"""Shift the wall clock of a Python process by CHAOS_CLOCK_SHIFT seconds; its monotonic clock goes on as it is.

Python imports it by itself at its start when this directory is on PYTHONPATH, which only the chaos harness does.
"""

import os
import time

import time_machine

if _shift := os.environ.get("CHAOS_CLOCK_SHIFT"):
    time_machine.travel(time.time() + float(_shift), tick=True).start()
