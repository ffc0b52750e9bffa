"""Strings that have broken other programs."""

from __future__ import annotations


def naughty() -> list[str]:
    """Two hundred strings of the kinds that have broken other programs."""
    planes = [
        chr(code) * 3 for code in range(0x80, 0x110000, 0x1900) if not 0xD800 <= code < 0xE000
    ]
    controls = [f"a{chr(code)}b" for code in (*range(32), *range(127, 160))]
    known = [
        *(
            "undefined",
            "null",
            "NaN",
            "true",
            "-0",
            "1e1000",
            "0x10",
            "1/0",
            "\\",
            "\\\\",
            "'",
            '"',
        ),
        *(
            "--",
            "' OR 1=1 --",
            "'; DROP TABLE rooms; --",
            '"*"',
            "NEAR(",
            "a AND",
            "{{7*7}}",
            "%00",
        ),
        *("$(touch /tmp/x)", "`id`", "; ls", "../../etc/passwd", "file:///etc/passwd", "\ufeff"),
        *("\u202eevil", "\u2066a\u2069", "a\u200bb", "\u200d", "e" + "\u0301" * 100, "Z̸̡͎a̵l̴g̷o̶"),
        *("👩‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🇩🇪", "﷽", "ﷺ", "表ポあA鷗", "سلام", "שלום", "ÅÅ", "ǅ", "ſ", "ß", "İı"),
        *("\uffff", "\ufffe", "\U0010ffff", "\ue000", "\u2028", "\u2029", "\u0000", "\u001b[2J"),
        *("<script>", "]]>", "<!--", "&amp;", "%0d%0aSet-Cookie:a", "a\r\nb: c", "\t", "a\n\n\nb"),
    ]
    return [*planes, *controls, *known]
