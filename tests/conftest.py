"""Hypothesis for all tests: the same examples in every run, and no deadline, which a busy machine would miss.

`pytest --hypothesis-profile=explore` draws other examples each time.
"""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")
