"""Names that users, dashboards and tests rely on: they may grow, and are never changed."""

from typing import Final
from urllib.parse import quote

GROUP: Final = "sockethealth.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

AGENT_FIELD_MANAGER: Final = "sockethealth-agent"
"""Server-side-apply manager of the facts in SocketHealth and NodeSocketHealth."""
OPERATOR_FIELD_MANAGER: Final = "sockethealth-operator"
"""Server-side-apply manager of findings, health and desired sysctls."""

SYSCTL_FIELD_MANAGER: Final = "sockethealth-sysctls"
"""Server-side-apply manager of what the node's sysctl writer reports in NodeSocketHealth."""

ANNOTATION_RETRY: Final = f"{GROUP}/retry"
"""On a SysctlProfile: another value starts a roll-out that has stopped anew."""

ANNOTATION_HEALTH: Final = f"{GROUP}/health"
ANNOTATION_FINDINGS: Final = f"{GROUP}/findings"
ANNOTATION_SINCE: Final = f"{GROUP}/since"
WORKLOAD_ANNOTATIONS: Final = (ANNOTATION_HEALTH, ANNOTATION_FINDINGS, ANNOTATION_SINCE)

DEFAULT_POLICY_NAME: Final = "sockethealth-default"
RUNBOOK_BASE_URL: Final = f"https://{GROUP}/runbooks"


def runbook_url(detector: str, base: str = RUNBOOK_BASE_URL) -> str:
    """Address of the runbook page of a detector or finding type; a type may be a stranger's, read from a label."""
    return f"{base}/{quote(detector, safe='')}"
