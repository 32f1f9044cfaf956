"""SVG as text: elements, and how wide a label will be."""

from html import escape

# Widths in em of DejaVu Sans, the widest of the usual fallbacks: a label that fits with it fits with any.
_NARROW = {" ": 0.32, "i": 0.28, "l": 0.28, "j": 0.28, "t": 0.4, "f": 0.36, "r": 0.42, "I": 0.3, "J": 0.3, "-": 0.37}
_NARROW |= dict.fromkeys(".,:;|'·", 0.34) | dict.fromkeys("()[]", 0.4) | {"s": 0.53, "c": 0.56, "z": 0.53, "/": 0.34}
_WIDE = {"m": 0.98, "w": 0.82, "M": 0.87, "W": 0.99} | dict.fromkeys("+−→=<>", 0.84) | dict.fromkeys("—…✓", 1.0)


def text_width(text: str, size: float) -> float:
    """At most how many pixels ``text`` is wide at a font size of ``size`` pixels."""
    em = 0.0
    for letter in text:
        em += _NARROW.get(letter) or _WIDE.get(letter) or (0.64 if letter.islower() or letter.isdigit() else 0.76)
    return em * size


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")


def element(tag: str, content: str = "", /, **attributes: str | float | None) -> str:
    """One element.

    Args:
        tag: Its name.
        content: Markup, already escaped.
        attributes: ``class_`` stands for class, ``_`` within for ``-``; those that are None are left out.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            shown = value if isinstance(value, str) else number(value)
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    opening = " ".join(parts)
    return f"<{opening}>{content}</{tag}>" if content else f"<{opening}/>"


def label(x: float, y: float, text: str, *, class_: str = "", anchor: str | None = None) -> str:
    """A text at its baseline; ``anchor`` is ``middle`` or ``end``."""
    return element("text", escape(text), x=x, y=y, class_=class_ or None, text_anchor=anchor)
