"""Sentences of errors: what no terminal should obey is gone, unknown names get the nearest ones."""

import pytest

from models.errors import commonest_reason, first_line, one_line, printable_text, unknown_name


def test_what_cannot_be_shown_is_replaced_and_nothing_else() -> None:
    assert printable_text("a\x00b\x1b[0m\x1b\x7f\ud800\u202ec\u2066") == "a\ufffdb" + 4 * "\ufffd" + "c\ufffd"
    assert printable_text("tab\tline\nébène 名前 🙂 ± −") == "tab\tline\nébène 名前 🙂 ± −"


@pytest.mark.parametrize(("name", "hint"), [
    ("vgg17", "did you mean vgg16?"),
    ("xyz", "known: resnet20, resnet32, vgg16"),
])  # fmt: skip
def test_unknown_names_get_the_nearest_or_all(name: str, hint: str) -> None:
    names = ("vgg16", "resnet32", "resnet20")
    assert str(unknown_name("network", name, names)) == f"unknown network {name!r}; {hint}"


def test_errors_on_one_line() -> None:
    assert first_line(ValueError("\x1b[31mred\x1b[0m\nmore")) == "red"
    assert first_line(ValueError(" \n")) == first_line(ValueError()) == "ValueError"
    assert one_line("a\n b\t c") == "a b c"


def test_the_commonest_reason_and_of_several_the_first() -> None:
    assert commonest_reason(["x", "y", "y"]) == "y"
    assert commonest_reason(["x", "y"]) == "x"
