"""The log of the sysctl writer does not grow with pods."""

from logging import DEBUG, INFO

import pytest

from sockethealth_agent.sysctls.telling import Telling
from sockethealth_core.sysctl_plan import Place

ONE = Place("shop/one", "Pods", uid="1")
TWO = Place("shop/two", "Pods", uid="2")


@pytest.fixture
def telling():
    made = Telling()
    made.begin(["p"])
    return made


def test_of_many_pods_the_first_is_told(telling):
    assert [telling.level(place, "set", "p", "a 1", INFO) for place in (ONE, TWO, ONE)] == [INFO, DEBUG, DEBUG]
    telling.begin(["p"])
    assert telling.level(TWO, "set", "p", "a 1", INFO) == DEBUG, "the next pass has new pods"
    assert telling.level(TWO, "set", "p", "a 2", INFO) == INFO, "another value"
    assert telling.level(TWO, "set", "q", "a 1", INFO) == INFO, "another profile"


def test_pods_that_end_while_the_profile_stays_are_told_of_once(telling):
    seen = []
    for place in (ONE, TWO, ONE):
        telling.begin(["p"])
        seen += [telling.level(place, what, "p", "a", INFO) for what in ("set", "put back")]
    assert seen == [INFO, INFO, *[DEBUG] * 4]


def test_of_the_node_everything_is_told(telling):
    assert [telling.level(Place(), "set", "p", "a 1", INFO) for _ in range(3)] == [INFO] * 3


def test_a_profile_that_goes_and_comes_again_is_told_of_each_time(telling):
    seen = []
    for there in ([], ["p"], []):
        what = "set" if there else "put back"
        telling.begin(there)
        seen += [telling.level(place, what, "p", "a 1", INFO) for place in (ONE, TWO)]
    assert seen == [INFO, DEBUG] * 3
