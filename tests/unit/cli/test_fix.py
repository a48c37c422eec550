"""The patch as a person reads it, and as a machine takes it."""

import yaml

from sockethealth_cli import fix, templates
from sockethealth_core.pod_fix import Fix, Setting

RANGE = Setting("net.ipv4.ip_local_port_range", "10240 64999", ("It carries more.", "It is no cure."))
KEPT = Setting("net.ipv4.tcp_syncookies", "1")


def source(api_version="apps/v1", kind="Deployment", sysctls=()) -> templates.Source:
    context = {"securityContext": {"sysctls": list(sysctls)}} if sysctls else {}
    spec = {"template": {"spec": {"containers": [], **context}}}
    metadata = {"name": "cart", "namespace": "shop"}
    return templates.Source(
        {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}, ("spec", "template")
    )


def text(found: Fix, made_from: templates.Source | None = None) -> str:
    return fix.patch_text(made_from or source(), found, "cart-1", 34)


def comments_before(printed: str, name: str) -> list[str]:
    lines = printed.splitlines()
    end = next(index for index, line in enumerate(lines) if line.strip() == f"- name: {name}")
    start = end
    while lines[start - 1].strip().startswith("#"):
        start -= 1
    return [line.strip() for line in lines[start:end]]


def test_the_text_is_the_patch_and_each_sysctl_has_its_reasons_above_it():
    found = Fix(sysctls=(KEPT, RANGE))
    printed = text(found)
    assert yaml.safe_load(printed) == fix.patch(source(), found)
    assert comments_before(printed, RANGE.name) == ["# It carries more.", "# It is no cure."]
    assert comments_before(printed, KEPT.name) == ["# Kept as it is: the list is replaced as a whole."]


def test_the_next_step_comes_before_the_commands_and_both_before_the_yaml():
    printed = text(Fix(sysctls=(RANGE,), first=("EphemeralPortExhaustion: Reuse connections.",)))
    order = [
        "First, against EphemeralPortExhaustion: Reuse connections.",
        "restarts the pods",
        "kubectl apply",
        "apiVersion:",
    ]
    assert sorted(order, key=printed.index) == order


def test_what_is_left_out_is_told_and_not_in_the_patch():
    printed = text(Fix(sysctls=(RANGE,), removed=(Setting("net.ipv4.tcp_max_tw_buckets", "512", ("It breaks.",)),)))
    assert "# Left out: net.ipv4.tcp_max_tw_buckets=512. It breaks." in printed
    assert [one["name"] for one in sysctls(printed)] == [RANGE.name]


def sysctls(printed: str) -> list[dict]:
    return yaml.safe_load(printed)["spec"]["template"]["spec"]["securityContext"]["sysctls"]


def test_force_is_told_only_where_the_list_has_another_owner():
    assert "--force-conflicts" not in text(Fix(sysctls=(RANGE,)))
    owned = source(sysctls=[{"name": KEPT.name, "value": "1"}])
    assert "--field-manager=kubectl-sockethealth --force-conflicts -f -" in text(Fix(sysctls=(KEPT, RANGE)), owned)


def test_a_custom_kind_is_patched_by_a_merge():
    assert "--type=merge" in text(Fix(sysctls=(RANGE,)), source("argoproj.io/v1alpha1", "Rollout"))
    assert "--type=merge" not in text(Fix(sysctls=(RANGE,)))


def test_no_name_of_others_can_end_a_comment():
    hostile = Setting(RANGE.name, RANGE.value, ("process x\nspec: {replicas: 0}\x1b[2J holds them.",))
    printed = text(Fix(sysctls=(hostile,), first=("A: b\nkind: Job",)))
    assert yaml.safe_load(printed) == fix.patch(source(), Fix(sysctls=(hostile,)))
    assert "\x1b" not in printed


def test_a_profile_is_in_audit_and_its_name_is_one_that_the_api_server_takes():
    long = templates.Source({"metadata": {"name": "a" * 240, "namespace": "n" * 12 + ".x"}}, ())
    assert len(fix.profile_name(long)) == 253
    made = fix.profile("shop-cart", [RANGE], pods_of="shop", selector=None, nodes={})
    assert made["spec"]["mode"] == "Audit"
    assert "nodeSelector" not in made["spec"]
    printed = fix.profile_text(made, [RANGE], Fix(), "Title")
    assert yaml.safe_load(printed) == made
    assert comments_before(printed, RANGE.name) == ["# It carries more.", "# It is no cure."]
