"""Takes what looks like a credential, or like a row's value in a library's message, out of a text (pure)."""

from __future__ import annotations

import re

REFUSED = "<refused>"
REDACTED = "<redacted>"


def redacted_text(text: str) -> str:
    """`text` without what looks like a credential, or like a row's value in a library's message."""
    for pattern, replacement in _UNWANTED:
        text = pattern.sub(replacement, text)
    return text


_NAME = (
    r"[\w-]{0,40}(?:secret|passw(?:or)?d|token|credential|signature|string_?to_?sign|authorization|cookie|"
    r"api[_-]?key|access[_-]?key(?:[_-]?id)?)[\w-]{0,40}"
)
_UNWANTED: tuple[tuple[re.Pattern[str], str], ...] = (
    # The access key ids of AWS, long-lived and temporary.
    (re.compile(r"(?<![0-9A-Za-z])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"), REDACTED),
    # user:password@ in a URL; a password may itself hold an @.
    (re.compile(r"(?<=://)[^/\s]+@"), f"{REDACTED}@"),
    (re.compile(r"(?<=://)[^\s:@/]{0,64}:[^\s@\"'<>]{1,256}@"), f"{REDACTED}@"),
    # The same without a scheme, as drivers print it.
    (re.compile(r"(?<![\w/.+-])[\w.+-]{1,64}:[^\s@:\"'<>]{1,128}@(?=[\w.-])"), f"{REDACTED}@"),
    # A header to the end of its line, whatever its scheme.
    (re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*b?[\"']?)[^\r\n\"'<]+"), rf"\1{REDACTED}"),
    # Schemes of HTTP; the parts of a signature stand behind the third, with commas between them.
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"(?i)\b(AWS4-HMAC-SHA256\s+)Credential=[^\r\n\"'}]*"), rf"\1{REDACTED}"),
    (re.compile(r"\bAWS [\w+/=-]{4,128}:[\w+/=]{8,}"), f"AWS {REDACTED}"),
    # <Name>value</Name>, as S3 answers a signature that it does not accept.
    (re.compile(rf"(?i)(<({_NAME})>)[^<]*(?=</)"), rf"\g<1>{REDACTED}"),
    # name=value, name: value, and "name": "value" as JSON or a dict prints it; and with %3D, inside another URL. Behind
    # a code of S3's, such as SignatureDoesNotMatch, begins its message.
    (
        re.compile(
            rf"(?i)\b({_NAME}[\"']?\s*(?:=>|%3D|[=:])\s*)"
            r"(?!(?:The|A|An|Your)\s)(?:b?\"[^\"]*\"|b?'[^']*'|[^\s,;&\"'\])}]+)"
        ),
        rf"\g<1>{REDACTED}",
    ),
    # Polars and Arrow quote the values that they could not convert.
    (re.compile(r"(?s)(\bout of \d+ values: )\[.*?\](?=\s|$)"), rf"\1[{REFUSED}]"),
    (re.compile(r"(?s)(\bcould not parse )`.*?`(?= as dtype)"), rf"\1{REFUSED}"),
    (re.compile(r"(?s)(\badding )`.*?`(?= to the `null_values`)"), rf"\1{REFUSED}"),
    (re.compile(r"(\binvalid value )'[^'\n]*'"), rf"\1{REFUSED}"),
)
