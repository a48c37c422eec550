import pytest

from sockethealth_cli.owners import Workload, closest, controllers, is_it, nearest, parsed, pods_of


def controlled(name: str, kind: str = "", owner: str = "", *, controller: bool = True) -> dict:
    references = [{"kind": kind, "name": owner, "controller": controller}] if kind else []
    return {"metadata": {"name": name, "ownerReferences": references}}


REPLICA_SETS = [controlled("web-1", "Deployment", "web"), controlled("api-1", "Rollout", "api"), controlled("lone")]
BETWEEN = controllers("ReplicaSet", REPLICA_SETS)
PODS = [
    controlled("web-1-a", "ReplicaSet", "web-1"),
    controlled("web-1-b", "ReplicaSet", "web-1"),
    controlled("api-1-a", "ReplicaSet", "api-1"),
    controlled("db-0", "StatefulSet", "db"),
    controlled("naked"),
    controlled("watched", "Deployment", "web", controller=False),
]


def names(text: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods_of(parsed(text), PODS, BETWEEN)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deployment/web", ["web-1-a", "web-1-b"]),
        ("deploy/web", ["web-1-a", "web-1-b"]),
        ("deployments.apps/web", ["web-1-a", "web-1-b"]),
        ("Deployment/web", ["web-1-a", "web-1-b"]),
        ("rs/web-1", ["web-1-a", "web-1-b"]),
        ("rollout/api", ["api-1-a"]),
        ("sts/db", ["db-0"]),
        ("statefulset/web", []),
        ("deployment/api", []),
    ],
)
def test_pods_are_those_the_workload_controls_directly_or_through_others(text, expected):
    assert names(text) == expected


@pytest.mark.parametrize("text", ["web", "/web", "deploy/", "deploy/a/b", ""])
def test_what_is_no_workload_is_told_with_an_example(text):
    with pytest.raises(ValueError, match="write KIND/NAME, such as deployment/web"):
        parsed(text)


def test_owners_in_a_circle_end():
    circle = {Workload("ReplicaSet", "a"): Workload("ReplicaSet", "b"), Workload("ReplicaSet", "b"): None}
    circle[Workload("ReplicaSet", "b")] = Workload("ReplicaSet", "a")
    assert pods_of(parsed("deploy/x"), [controlled("p", "ReplicaSet", "a")], circle) == []


def test_the_kind_is_compared_whatever_its_case_and_number_and_the_name_exactly():
    assert is_it(parsed("cronjobs/Nightly"), Workload("CronJob", "Nightly"))
    assert not is_it(parsed("cronjobs/nightly"), Workload("CronJob", "Nightly"))


def test_the_nearest_are_topmost_workloads_with_pods():
    assert nearest(parsed("deployment/wep"), PODS, BETWEEN) == "Deployment/web"
    assert nearest(parsed("x/y"), [], {}) == "none at all"


def test_the_closest_are_those_that_begin_so_then_those_that_are_alike_and_else_some():
    pods = ["web-5d8c-x2", "web-5d8c-9q", "wob", "zzz"]
    assert closest("web", pods) == ["web-5d8c-9q", "web-5d8c-x2", "wob"]
    assert closest("qqqqqq", pods) == sorted(pods)
