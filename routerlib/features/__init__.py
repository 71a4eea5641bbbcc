"""What a policy may see: named fields with unit and protocol, observations, standardisation."""

from routerlib.features.observations import Observations, Standardiser
from routerlib.features.registry import (
    FEATURE_SETS,
    FIELDS,
    PROBLEM_COLUMN,
    PROTOCOLS,
    DecisionProtocol,
    Field,
    FieldGroup,
    check_protocol,
    get_feature_names,
    is_visible,
)

__all__ = [
    "FEATURE_SETS",
    "FIELDS",
    "PROBLEM_COLUMN",
    "PROTOCOLS",
    "DecisionProtocol",
    "Field",
    "FieldGroup",
    "Observations",
    "Standardiser",
    "check_protocol",
    "get_feature_names",
    "is_visible",
]
