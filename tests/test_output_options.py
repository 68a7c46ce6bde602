"""Options that name a file to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import refused


def test_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"precious")
    line = ["train", "--network", "small", "--epochs", "0"]
    assert "--force" in refused(capsys, *line, "--out", str(tmp_path / "w.pt"))
    assert "/dev/null" in refused(capsys, *line, "--out", "/dev/null", "--force")
    assert "folder" in refused(capsys, "leaderboard", "--to", str(tmp_path))
    assert "--force" in refused(capsys, "leaderboard", "--to", str(tmp_path / "w.pt"))
    assert (tmp_path / "w.pt").read_bytes() == b"precious"
