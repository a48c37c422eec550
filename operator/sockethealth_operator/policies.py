"""What a policy's status says of it."""

from collections.abc import Collection, Sequence

from sockethealth_core.conditions import stated
from sockethealth_core.resources import Condition, SysctlProfile


def conditions(
    faults: Sequence[str],
    profile: str | None,
    profiles: Collection[str],
    error: str | None = None,
    *,
    remark: str = "",
    waiting: str = "",
    generation: int | None,
    previous: Sequence[Condition],
    now: float,
) -> list[Condition]:
    """Conditions of a policy.

    Args:
        faults: sentences of the :class:`~sockethealth_core.policy.PolicyError`, or none when it is valid.
        profile: what ``actions.sysctlProfile`` names, or None.
        profiles: SysctlProfiles there are.
        error: a sentence about an object that a rule could not be applied to, or None.
        remark: a sentence about a profile that exists, which its findings do not activate; or nothing.
        waiting: why it is not in force although it is valid, as a sentence; or nothing.
        generation: the policy's ``metadata.generation``.
        previous: its conditions; ``lastTransitionTime`` is kept where status stays.
        now: epoch seconds.
    """
    found: list[tuple[str, bool, str, str]] = []
    if faults:
        found.append(("Accepted", False, "Invalid", "; ".join(faults)))
    else:
        found.append(("Accepted", True, "Valid", "The policy is valid."))
    missing = not faults and profile is not None and profile not in profiles
    if not faults and profile is not None:
        sentence = (
            f"SysctlProfile '{profile}' does not exist: create it or remove actions.sysctlProfile"
            if missing
            else f"SysctlProfile '{profile}' exists. {remark}".strip()
        )
        found.append(("ProfileResolved", not missing, "ProfileNotFound" if missing else "ProfileFound", sentence))
    if error is not None:
        found.append(("Evaluated", False, "RuleFailed", error))
    elif any(condition.type == "Evaluated" for condition in previous):
        found.append(("Evaluated", True, "RulesApply", "Every rule can be applied to every pod it is for."))
    if faults:
        found.append(("Ready", False, "Invalid", "The policy is not in force: see condition Accepted."))
    elif waiting:
        found.append(("Ready", False, "TooMany", waiting))
    elif missing:
        # Its findings are as true without the profile, so its rules stay in force.
        found.append(("Ready", False, "ProfileNotFound", "The rules are in force; the sysctlProfile is missing."))
    elif error is not None:
        found.append(("Ready", False, "RuleFailed", "A rule cannot be applied to some pods: see condition Evaluated."))
    else:
        found.append(("Ready", True, "InForce", "The policy is in force."))
    return stated(found, generation=generation, previous=previous, now=now)


def profile_remark(policy_kind: str, profile: SysctlProfile | None) -> str:
    """Why findings of a policy make no difference to the SysctlProfile that it names; empty where they do."""
    if profile is None:
        return ""
    if not policy_kind.startswith("Cluster"):
        return (
            "Findings of this policy do not activate it: name it in a ClusterSocketHealthPolicy, as only who may write "
            "those may have sysctls changed by findings."
        )
    if profile.spec.activation == "Always":
        return (
            "Its activation is Always, so findings of this policy make no difference to it: set activation: OnFinding "
            "in the profile, or remove actions.sysctlProfile here."
        )
    return ""
