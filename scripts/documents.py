"""Documents with parts that a script writes, between two lines that stay."""

from __future__ import annotations

from acmix_ms.errors import UserError


def replace_between(document: str, start: str, end: str, text: str, name: str) -> str:
    """The document called ``name`` with ``text`` in place of what stood between the lines ``start`` and ``end``.

    Raises:
        UserError: it does not have these lines.
    """
    before, found, rest = document.partition(start)
    _, closing, after = rest.partition(end)
    if not found or not closing:
        raise UserError(f"{name} belongs between the lines {start} and {end}")
    return f"{before}{start}\n{text.rstrip()}\n{end}{after}"
