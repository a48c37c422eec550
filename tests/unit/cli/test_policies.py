import pytest

from sockethealth_cli.policies import PolicyFile, PolicyFileError, default_rule_set, rule_set_of_files

CLUSTER = """\
apiVersion: sockethealth.io/v1alpha1
kind: ClusterSocketHealthPolicy
metadata: {name: mine}
spec:
"""
NAMESPACED = """\
apiVersion: sockethealth.io/v1alpha1
kind: SocketHealthPolicy
metadata: {name: theirs, namespace: shop}
spec:
  rules: [{name: leak, detector: CloseWaitLeak, threshold: 5, clearThreshold: 1}]
"""


def rules(*lines: str) -> str:
    return CLUSTER + "  rules:\n" + "".join(f"  - {line}\n" for line in lines)


def load(*texts: str):
    return rule_set_of_files([PolicyFile(f"file{number}.yaml", text) for number, text in enumerate(texts, 1)])


def faults(*texts: str) -> tuple[str, ...]:
    with pytest.raises(PolicyFileError) as raised:
        load(*texts)
    return raised.value.faults


def test_a_file_replaces_the_default_policy():
    loaded = load(rules("{name: leak, detector: CloseWaitLeak, threshold: 7, clearThreshold: 3, severity: Critical}"))
    assert [(rule.key.rule, rule.threshold, rule.severity) for rule in loaded.rules] == [("leak", 7, "Critical")]
    assert loaded.notes == ()


def test_several_documents_files_and_lists_are_all_read():
    several = rules("{name: a, detector: CloseWaitLeak}") + "---\n# nothing here\n---\n" + NAMESPACED
    one_list = "kind: List\napiVersion: v1\nitems:\n- " + CLUSTER.replace("mine", "listed").replace("\n", "\n  ")
    one_list += "  rules: [{name: b, detector: InboundTimeWait}]\n"
    assert [rule.key.rule for rule in load(several, one_list).rules] == ["a", "leak", "b"]


def test_an_unknown_detector_is_told_with_the_known_ones():
    (fault,) = faults(rules("{name: leak, detector: CloseWaitLeek}"))
    assert fault.startswith("file1.yaml: ClusterSocketHealthPolicy mine: unknown detector 'CloseWaitLeek'")
    assert "CloseWaitLeak" in fault


def test_a_clear_threshold_above_the_threshold_is_told_with_both():
    (fault,) = faults(rules("{name: leak, detector: CloseWaitLeak, threshold: 5, clearThreshold: 6}"))
    assert "rule 'leak'" in fault
    assert "clearThreshold 6 is above threshold 5" in fault


@pytest.mark.parametrize(
    "rule",
    [
        "{name: leak, detector: CloseWaitLeak, for: 2 minutes}",
        "{name: leak, detector: CloseWaitLeak, clearAfter: 2 minutes}",
        "{name: leak, detector: CloseWaitLeak, parameters: {minAge: 2 minutes}}",
    ],
)
def test_a_malformed_duration_is_told_with_an_example(rule):
    (fault,) = faults(rules(rule))
    assert "'2 minutes' is not a duration" in fault
    assert "30s" in fault


def test_all_faults_of_all_files_are_told_at_once():
    found = faults(
        rules("{name: a, detector: Nothing}"),
        rules("{name: a, detector: CloseWaitLeak, for: soon}", "{name: b, detector: CloseWaitLeak, clearAfter: late}"),
    )
    assert [fault.split(":")[0] for fault in found] == ["file1.yaml", "file2.yaml", "file2.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "file1.yaml holds no policy"),
        ("{a: [", "file1.yaml is not YAML in line 1, column 6"),
        ("just words", "not a policy: an object"),
        ("kind: Pod\nmetadata: {name: x}\nspec: {}", "not a policy: kind must be one of SocketHealthPolicy"),
        (CLUSTER, "spec is missing or is no object"),
        (CLUSTER + "  - rules\n", "spec is missing or is no object"),
        (CLUSTER.replace("{name: mine}", "mine") + "  rules: []\n", "metadata is missing or is no object"),
        (CLUSTER + "  mode: Enforce\n", "rules"),
        (rules("{name: a, detector: CloseWaitLeak}") + "---\n" + rules("{name: b, detector: CloseWaitLeak}"), "twice"),
    ],
)
def test_what_is_no_policy_is_told_in_one_sentence(text, said):
    (fault,) = faults(text)
    assert said in fault
    assert "\n" not in fault


def test_a_terminal_escape_in_a_file_is_not_passed_on():
    (fault,) = faults(rules('{name: a, detector: "\\e[31mred"}'))
    assert "\x1b" not in fault
    assert "\\x1b[31mred" in fault


def test_a_policy_with_selectors_selects_nothing_and_a_note_says_so():
    text = CLUSTER + "  podSelector: {matchLabels: {app: web}}\n  nodeSelector: {matchLabels: {a: b}}\n"
    loaded = load(text + "  rules: [{name: leak, detector: CloseWaitLeak}]\n")
    assert loaded.rules == ()
    (note,) = loaded.notes
    assert "mine was evaluated for nothing" in note
    assert "podSelector and nodeSelector" in note


def test_a_namespaced_policy_is_for_every_namespace_and_a_note_says_so():
    loaded = load(NAMESPACED)
    assert [rule.key.rule for rule in loaded.rules] == ["leak"]
    (note,) = loaded.notes
    assert "SocketHealthPolicy shop/theirs" in note
    assert "pods of namespace shop only" in note


def test_without_a_file_the_rules_are_those_the_chart_installs():
    names = {rule.key.rule for rule in default_rule_set().rules}
    assert {"ephemeral-ports-warning", "ephemeral-ports-critical", "close-wait-critical"} <= names
