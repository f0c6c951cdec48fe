"""Labels that a page or a figure must show without harm."""

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    'it\'s & "quoted"',
    "كلب",
    "חתול",
    "狗",
    "$x_{$",
    "_private",
    "a\nb\x00",
    "=cmd()",
    "{{ 7 * 7 }}",
    "long " * 30,
]
