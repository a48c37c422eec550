from sockethealth_cli import demo_scenes
from sockethealth_cli.demo_scenes import HELD_OPEN, LEAKED, PORT_RANGE, SCENES, VISITS, rules
from sockethealth_cli.measure import ages_asked_for
from sockethealth_cli.policies import default_rule_set
from sockethealth_core.detectors import DETECTORS, outbound_time_wait
from sockethealth_core.detectors.unsafe_sysctl import TINY_PORT_RANGE


def test_every_scene_is_of_a_detector_that_there_is():
    assert {scene.finding for scene in SCENES} <= set(DETECTORS)


def test_the_only_change_to_the_default_rules_is_the_age_of_close_wait():
    def told(some):
        return [(rule.key.rule, rule.threshold, rule.severity) for rule in some]

    assert told(rules()) == told(default_rule_set().rules)
    assert ages_asked_for(rules()) == (1.0,)


def test_each_namespace_has_one_kind_of_trouble_only():
    ports = PORT_RANGE[1] - PORT_RANGE[0] + 1
    (outbound,) = outbound_time_wait.DETECTOR.defaults
    assert ports > TINY_PORT_RANGE, "UnsafeSysctl would speak up"
    assert ports - HELD_OPEN < outbound.threshold, "OutboundTimeWait would speak up"
    assert (PORT_RANGE[1] - PORT_RANGE[0]) % 2 == 1, "the ends of a range should differ in parity"
    assert DETECTORS["InboundTimeWait"].defaults[0].threshold <= VISITS
    assert DETECTORS["CloseWaitLeak"].defaults[0].threshold <= LEAKED


def test_no_scene_advises_what_does_not_help():
    for scene in SCENES:
        assert "recycle" not in scene.why
        assert "fin_timeout" not in scene.why


def test_a_links_ends_are_on_one_network():
    for link in demo_scenes.links():
        (network,) = {address.rsplit(".", 1)[0] for address in (link.address, *link.peers)}
        assert network
