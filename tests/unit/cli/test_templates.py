"""From a pod to the template that a person can change."""

from sockethealth_cli import templates

CONTAINER = {"name": "app", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}


def pod(labels=None, **spec) -> dict:
    metadata = {"name": "web-x", "namespace": "shop", "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [CONTAINER], **spec}}


def workload(kind: str, spec: dict) -> dict:
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}


def with_template(kind: str, labels=None, selector=None, **spec) -> dict:
    template = {"metadata": {"labels": labels or {}}, "spec": {"containers": [CONTAINER], **spec}}
    return workload(kind, {"template": template} | ({"selector": selector} if selector else {}))


def test_the_highest_owner_that_has_a_template_is_the_one_to_change():
    source = templates.source_of([pod(), with_template("ReplicaSet"), with_template("Deployment")])
    assert (source.kind, source.path, source.above) == ("Deployment", ("spec", "template"), None)
    assert source.changeable


def test_an_owner_without_a_template_is_remembered_as_one_that_may_undo_it():
    source = templates.source_of([pod(), with_template("StatefulSet"), workload("Redis", {"replicas": 3})])
    assert source.kind == "StatefulSet"
    assert source.above is not None
    assert source.above["kind"] == "Redis"


def test_a_template_of_something_else_is_no_pod_template():
    source = templates.source_of([pod(), workload("Plan", {"template": {"spec": {"steps": []}}})])
    assert (source.kind, source.path, source.changeable) == ("Pod", (), False)


def test_a_job_is_changed_in_the_cron_job_above_it_and_cannot_change_without_one():
    job = with_template("Job")
    assert not templates.source_of([pod(), job]).changeable
    cron_job = workload("CronJob", {"jobTemplate": {"spec": job["spec"]}})
    source = templates.source_of([pod(), job, cron_job])
    assert source.path == ("spec", "jobTemplate", "spec", "template")
    assert source.template["spec"]["containers"] == [CONTAINER]


def test_ports_are_those_that_containers_probes_and_known_sidecars_listen_on():
    probed = {"name": "side", "readinessProbe": {"httpGet": {"port": 9000}}, "livenessProbe": {"grpc": {"port": 9001}}}
    named = {"name": "named", "startupProbe": {"tcpSocket": {"port": "http"}}}
    proxy = {"name": "istio-proxy"}
    one = pod(containers=[CONTAINER, probed, named], initContainers=[proxy])
    ports = templates.pod_spec(one, templates.source_of([one])).ports
    assert {8080, 9000, 9001, 15000, 15090} <= ports
    assert 53 not in ports
    assert 15091 not in ports


def test_sysctls_are_the_templates_and_names_in_use_the_running_pods():
    one = pod(securityContext={"sysctls": [{"name": "a", "value": "1"}]})
    owner = with_template("Deployment", securityContext={"sysctls": [{"name": "b", "value": "2"}]})
    spec = templates.pod_spec(one, templates.source_of([one, owner]))
    assert spec.sysctls == {"b": "2"}
    assert spec.running == {"a"}


def test_a_workloads_own_selector_selects_its_pods():
    own = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}
    one = pod({"app": "web", "tier": "x"})
    assert templates.selector(one, templates.source_of([one, with_template("Deployment", selector=own)])) == own


def test_without_a_selector_it_is_the_labels_that_last():
    labels = {"app": "night", "job-name": "night-1", "batch.kubernetes.io/controller-uid": "7"}
    one = pod(labels)
    assert templates.selector(one, templates.source_of([one])) == {"matchLabels": {"app": "night"}}
    assert templates.selector(pod(), templates.source_of([pod()])) is None


def test_the_selector_of_an_old_replication_controller_is_no_label_selector():
    one = pod({"app": "web"})
    controller = with_template("ReplicationController", labels={"app": "web"}, selector={"app": "web"})
    found = templates.selector(one, templates.source_of([one, controller]))
    assert found == {"matchLabels": {"app": "web"}}
