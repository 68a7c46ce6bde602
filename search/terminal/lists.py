"""Commands that list what goes by a name: methods, strategies, networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from search.settings.flags import AsJson
from search.terminal.console import PlainConsole
from search.terminal.streams import json_output

_COLUMNS = ("name", "summary", "source")


def list_methods(json_: AsJson = False) -> None:
    """The compression methods."""
    from methods.joint_records import how_to_compose
    from methods.registry import methods

    records = methods()
    tables = [record for record in records.values() if not record.plain_layers]
    gains = f"\n{', '.join(record.name for record in tables)} gain {tables[0].gains}." if tables else ""
    _list_registry(records, f"\nTwo methods make one: {how_to_compose(records.values())}.{gains}", as_json=json_)


def list_strategies(json_: AsJson = False) -> None:
    """The search strategies."""
    from search.strategies.registry import strategy_infos

    _list_registry(strategy_infos(), as_json=json_)


def list_networks(json_: AsJson = False) -> None:
    """The networks that go by a name."""
    from models.networks.catalog import network_names

    with json_output(json_) as write_json:
        names = network_names()
        if not json_:
            print("\n".join(names))
        write_json(names)


def _list_registry(records: Mapping[str, Any], remark: str | None = None, *, as_json: bool) -> None:
    """A registry as JSON, or as a table with a remark below it."""
    with json_output(as_json) as write_json:
        fields = [dataclasses.asdict(record) for record in records.values()]
        if not as_json:
            table = Table(*_COLUMNS, box=None, pad_edge=False)
            for record in fields:
                table.add_row(*(Text(str(record[column])) for column in _COLUMNS))
            PlainConsole().print(table)
            if remark is not None:
                print(remark)
        write_json(fields)
