"""For authors of methods: checks that every method must pass, to call from tests of your own.

import pytest
from methods.testing import CHECKS, NETWORKS, MethodCase

@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("network", NETWORKS)
def test_my_method(network, check):
    check(MethodCase("my/method.py:MyMethod", network))
"""

from methods.testing.conformance import CHECKS as CHECKS
from methods.testing.conformance import MethodCase as MethodCase
from methods.testing.conformance import count_flops as count_flops
from methods.testing.small_networks import NETWORKS as NETWORKS
