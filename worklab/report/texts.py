"""Texts from files, as a page shows them."""

import unicodedata

# Marks that turn the writing around, and with it what stands beside.
_TURNING = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


def shown(text: str) -> str:
    r"""Return a text without what a page cannot show, or would obey; lines stay.

    Joiners within words and emoji stay as well, other than on a terminal.

    Example:
        >>> shown("a\x00b") == "a\N{REPLACEMENT CHARACTER}b"
        True
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if c in _TURNING or (unicodedata.category(c) in ("Cc", "Cs") and c != "\n")
        else c
        for c in text
    )
