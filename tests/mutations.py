"""Valid files made wrong: the mutations that every parser of foreign files is tried with."""

from __future__ import annotations

from hypothesis import strategies as st

#: What breaks parsers: brackets, limits of number types, other types, text that is no text.
TOKENS = (
    b"",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b";",
    b"\n",
    b"\\",
    b"\x00",
    b"\xff\xfe",
    b"0",
    b"-1",
    b"1e999",
    b"-1e308",
    b"3.5e38",
    b"1e-320",
    b"NaN",
    b"nan",
    b"Infinity",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"9223372036854775808",
    b"99999999999999999999999999999999",
    b"9" * 5000,
    b"[" * 3000,
    b"MOTION",
    b"}\n}",
)

_edit = st.tuples(
    st.sampled_from(("cut", "drop", "insert", "replace", "repeat", "flip", "number")),
    st.floats(0, 1),
    st.floats(0, 0.02),
    st.sampled_from(TOKENS),
    st.integers(0, 255),
)


def mutated(data: bytes, *, most: int = 4) -> st.SearchStrategy[bytes]:
    """``data`` with up to ``most`` edits."""
    return st.lists(_edit, min_size=1, max_size=most).map(lambda edits: _apply(data, edits))


def _apply(data: bytes, edits: list[tuple[str, float, float, bytes, int]]) -> bytes:
    for kind, where, length, token, byte in edits:
        a = round(where * len(data))
        b = a + max(1, round(length * len(data)))
        if kind == "cut":
            data = data[:a]
        elif kind == "drop":
            data = data[:a] + data[b:]
        elif kind == "insert":
            data = data[:a] + token + data[a:]
        elif kind == "replace":
            data = data[:a] + token + data[b:]
        elif kind == "repeat":
            data = data[:b] + data[a:]
        elif kind == "flip":
            data = data[:a] + bytes([byte]) + data[a + 1 :]
        else:  # a whole number, so that what is around it stays as it was
            b = a
            while a > 0 and data[a - 1 : a] in _DIGITS:
                a -= 1
            while b < len(data) and data[b : b + 1] in _DIGITS:
                b += 1
            data = data[:a] + token + data[b:]
    return data


_DIGITS = {bytes([c]) for c in b"0123456789.-e"}
