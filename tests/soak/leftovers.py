"""What must be gone once nothing churns any longer."""

from pathlib import Path

from product_lab import Place

# Not ReplicaSets: the Deployment controller copies annotations to them, and takes none away when the Deployment loses
# them (copyDeploymentAnnotationsToReplicaSet in pkg/controller/deployment/util/deployment_util.go of Kubernetes).
_ANNOTATED = "deployments,jobs,pods"


def leftovers(place: Place, journal: Path) -> list[str]:
    """A line for each thing that is still there; empty in the end.

    Args:
        place: where there was churn.
        journal: the folder in which the sysctl writer keeps what it found.
    """
    cluster, namespace = place.cluster, place.namespace
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in cluster.get("pods", "-n", namespace)["items"]}
    of_gone = [
        f"SocketHealth {each['metadata']['name']} of a pod that is gone"
        for each in cluster.get("sockethealths", "-n", namespace)["items"]
        if pods.get(each["metadata"]["name"]) != each["spec"]["podUID"]
    ]
    annotated = [
        f"{each['kind']} {each['metadata']['name']} has {key}"
        for each in cluster.get(_ANNOTATED, "-n", namespace)["items"]
        for key in each["metadata"].get("annotations", {})
        if "sockethealth.io/" in key
    ]
    reported = [
        f"{each['metadata']['name']} reports the profile {one['profile']}"
        for each in cluster.get("nodesockethealths")["items"]
        for one in each.get("status", {}).get("sysctlProfiles", [])
    ]
    kept = [f"the journal has {file.name}" for file in journal.glob("*.json")]
    return of_gone + annotated + reported + kept
