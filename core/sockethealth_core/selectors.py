"""Label selectors as in ``metav1.LabelSelector``."""

from collections.abc import Mapping

from sockethealth_core.resources.base import LabelSelector


def matches(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector; an absent or empty selector matches all."""
    if selector is None:
        return True
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for wanted in selector.match_expressions:
        value = labels.get(wanted.key)
        if wanted.operator == "Exists":
            holds = value is not None
        elif wanted.operator == "DoesNotExist":
            holds = value is None
        elif wanted.operator == "In":
            holds = value in wanted.values
        else:
            holds = value not in wanted.values
        if not holds:
            return False
    return True
