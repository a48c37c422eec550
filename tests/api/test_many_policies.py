"""A tenant with more policies than anybody needs: what that costs the operator, and the pods of others.

``SOCKETHEALTH_TEST_POLICIES=10000`` makes as many; without it there are a few more than are in force.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from harness.waiting import until
from operator_lab import Stage, running_operator
from sockethealth_core.names import API_VERSION
from sockethealth_core.policies_in_force import MAXIMUM_RULES

pytestmark = pytest.mark.api

MANY = int(os.environ.get("SOCKETHEALTH_TEST_POLICIES", "150"))
SECONDS = 60 + MANY / 10
AT_ONCE = 8
FINDINGS = 3
RULE = {"name": "leak", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10}
RULE |= {"for": "0s", "clearAfter": "0s", "parameters": {"minAge": "0s"}}


def memory_and_cpu(pid):
    """Resident MiB and CPU seconds of a process."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, ticks / os.sysconf("SC_CLK_TCK")


class Tenant:
    """Who writes policies in a namespace."""

    def __init__(self, cluster, namespace):
        self._pool = urllib3.PoolManager(maxsize=AT_ONCE, ca_certs=str(cluster.ca_file))
        self._url = f"{cluster.server}/apis/{API_VERSION}/namespaces/{namespace}/sockethealthpolicies"
        self._headers = {"Authorization": f"Bearer {cluster.admin_token}", "Content-Type": "application/json"}
        self.namespace = namespace

    def create(self, number):
        rule = {**RULE, "threshold": number + 1, "clearThreshold": number}
        metadata = {"name": f"p{number:05}", "namespace": self.namespace}
        body = {"apiVersion": API_VERSION, "kind": "SocketHealthPolicy", "metadata": metadata}
        self._ask("POST", {**body, "spec": {"rules": [rule]}})

    def reasons(self):
        """How many policies have which reason for being ready or not."""
        counted = {}
        for item in self._ask("GET")["items"]:
            ready = [c["reason"] for c in item.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
            reason = ready[0] if ready else ""
            counted[reason] = counted.get(reason, 0) + 1
        return counted

    def close(self):
        self._pool.clear()

    def _ask(self, method, body=None):
        document = json.dumps(body) if body else None
        answer = self._pool.request(method, self._url, body=document, headers=self._headers, timeout=60)
        assert answer.status < 300, answer.data
        return json.loads(answer.data)


@pytest.fixture
def tenant(control_plane, namespace):
    name = f"{namespace}-evil"
    control_plane.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    made = Tenant(control_plane, name)
    yield made
    made.close()
    control_plane.delete("namespace", name)


def seconds_to_a_finding(stage, pod, operator):
    """From facts to what is said of them: the median of some findings that come and go."""
    waited = []
    for close_wait, types in ((0, []), (200, ["CloseWaitLeak"])) * FINDINGS:
        stage.report(pod, close_wait=close_wait)
        begun = time.monotonic()
        until(
            lambda types=types: [kind for kind, _ in stage.finding_types(pod)] == types,
            "the finding of another tenant's pod",
            seconds=SECONDS,
            explain=operator.log_text,
        )
        waited.append(time.monotonic() - begun)
    return sorted(waited)[len(waited) // 2]


@pytest.mark.timeout(300 + SECONDS)
def test_however_many_policies_a_tenant_has_the_pods_of_others_are_judged_as_before(
    control_plane, crds, namespace, tenant, tmp_path, record_property
):
    with Stage.set_up(control_plane, namespace) as stage, running_operator(control_plane, tmp_path) as operator:
        stage.policy(rule=RULE)
        pod = stage.pod("web")

        def measured(when):
            memory, cpu = memory_and_cpu(operator.pid)
            latency = seconds_to_a_finding(stage, pod, operator)
            record_property(f"{when}_memory_mib", round(memory, 1))
            record_property(f"{when}_cpu_seconds", round(cpu, 1))
            record_property(f"{when}_finding_seconds", round(latency, 2))
            return latency

        before = measured("before")
        begun = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as workers:
            made = [workers.submit(tenant.create, number) for number in range(MANY)]
            measured("during")
            for one in made:
                one.result()
        wanted = {"InForce": MAXIMUM_RULES, "TooMany": MANY - MAXIMUM_RULES}
        until(
            lambda: tenant.reasons() == wanted, f"{wanted}", seconds=SECONDS, poll_seconds=1, explain=operator.log_text
        )
        record_property("settled_seconds", round(time.monotonic() - begun, 1))
        after = measured("after")
        assert after < before + 5, "the evaluation of another tenant's pod has become slow"
        points = stage.cluster.get("nodesockethealth", stage.node)["spec"]["watchpoints"]
        assert {50, 10} <= {value for point in points for value in point["values"]}
        theirs = Stage(control_plane, tenant.namespace)
        theirs.node = stage.node
        theirs.report(theirs.pod("own"), close_wait=1_000_000)
        theirs.wait(lambda: bool(theirs.status("own").get("findings")), "a finding of the tenant's pod", operator)
        assert len(theirs.status("own")["evaluation"]) == MAXIMUM_RULES
