"""Hypothesis for all tests: the same examples in every run, and no deadline, which a busy machine would miss.

`pytest --hypothesis-profile=explore` draws other examples each time. SIGHUP acts as usual in every process that a test
starts, although `nohup` had it ignored.
"""

import signal

from hypothesis import settings

signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")
