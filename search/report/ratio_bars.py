"""Data of the bars that show how hard each site is compressed; `templates/report.js` draws them.

They are no plotly figure: a network has up to hundreds of sites with long names, which must wrap on a phone and break
over printed pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import printable_text

Ratios = Mapping[str, tuple[float, str]]  # site -> how hard it is compressed (0..1), and its setting in words
SHOWN = 4  # candidates side by side; as many as page.css has colours for bars


def ratio_data(names: Mapping[str, str], ratios: Mapping[str, Ratios], chosen: Sequence[str]) -> dict[str, Any]:
    """A choice of candidates (id -> name), with the bars of each, and those that are `chosen` at first."""
    # Pairs, because an object would put names that look like numbers first.
    sites = {
        candidate: [
            (printable_text(site), strength, printable_text(setting)) for site, (strength, setting) in bars.items()
        ]
        for candidate, bars in ratios.items()
    }
    return {
        "names": [(candidate, printable_text(name)) for candidate, name in names.items()],
        "sites": sites,
        "shown": list(chosen)[:SHOWN],
        "most": SHOWN,
    }
