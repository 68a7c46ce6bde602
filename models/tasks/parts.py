"""The fingerprint of a task, which its outcomes are kept under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def fingerprint_of(parts: Mapping[str, object]) -> str:
    """A stable hash of a task's parts, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
