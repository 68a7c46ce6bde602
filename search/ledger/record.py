"""A candidate and what became of it, as the text that a ledger keeps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from search.candidate import Candidate, Outcome

SCHEMA = 1
_DIGEST = "digest"  # of everything else in the text; records of earlier versions have none
_COMPACT = (",", ":")
TOO_DEEP = "a text that is nested too deep"


@dataclass(frozen=True)
class Record:
    """A candidate and what became of it."""

    key: str
    candidate: Candidate
    outcome: Outcome
    meta: dict[str, Any] = field(default_factory=dict)
    """What the search wants remembered: strategy, target, ..."""

    def to_json(self) -> str:
        body = {"schema": SCHEMA, "key": self.key, "candidate": self.candidate.model_dump(mode="json"),
                "outcome": self.outcome.model_dump(mode="json"), "meta": self.meta}  # fmt: skip
        return json.dumps({**body, _DIGEST: _body_digest(body)}, separators=_COMPACT)

    @classmethod
    def from_json(cls, text: Any) -> Record:
        """ValueError for anything that this version did not write or cannot read."""
        try:
            return cls._from_body(load_json(text) if isinstance(text, str) and text.isascii() else None)
        except RecursionError:  # raised by the digest of what json could just read
            raise ValueError(TOO_DEEP) from None

    @classmethod
    def _from_body(cls, body: Any) -> Record:
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise ValueError("not a record of this version")
        if not isinstance(body.get("key"), str) or not isinstance(body.get("meta"), dict):
            raise ValueError("a record without key or meta")
        # A flipped digit of an accuracy is valid JSON: only the digest tells.
        if _DIGEST in body and body.pop(_DIGEST) != _body_digest(body):
            raise ValueError("a record whose bytes are not those that were written")
        candidate, outcome = body.get("candidate"), body.get("outcome")
        return cls(body["key"], Candidate.model_validate(candidate), Outcome.model_validate(outcome), body["meta"])


def load_json(text: str) -> Any:
    """The value of a JSON text; ValueError if it is none, or nested too deep for Python's reader."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _body_digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, separators=_COMPACT)  # what was read dumps to what was written: floats are exact in JSON
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
