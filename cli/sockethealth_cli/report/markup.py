"""HTML and SVG as text in which nothing of others can be anything but text. Pure.

What is no Markup is shown as `sockethealth_cli.text.printable` has it, so that no name can reorder a line by
bidirectional controls or reach a terminal that the page is printed on, and then escaped.
"""

from html import escape

from sockethealth_cli.text import printable

Value = str | int | float | bool | None


class Markup(str):
    """Text that is HTML already. Any other string is escaped where it is put into an element."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: Value) -> Markup:
    """An element with its children in order.

    Args:
        name: of the element.
        children: Markup as it is, any other string escaped.
        attributes: ``class_`` is class, ``data_index`` is data-index, ``viewBox`` stays; True is an attribute
            without a value, None and False leave it out.
    """
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{opening}>{joined(*children)}</{name}>")


def void(name: str, /, **attributes: Value) -> Markup:
    """An element that has no content and no end tag, such as meta; in SVG one that closes itself."""
    return Markup(f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}/>")


def joined(*children: str) -> Markup:
    """Children one after the other, without an element around them."""
    return Markup("".join(child if isinstance(child, Markup) else _text(child) for child in children))


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = number(value) if isinstance(value, float) else str(value)
    return f' {name}="{_text(text)}"'


def _text(text: str) -> str:
    return escape(printable(text), quote=True)


def number(value: float) -> str:
    """A coordinate with at most one decimal: what a screen can show, in few bytes."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
