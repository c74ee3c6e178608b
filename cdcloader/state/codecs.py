"""How the values of a state record are stored: in the walkthrough's formats, each checked when it is read (pure)."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Attribute = str | int | None
Attributes = dict[str, Attribute]

COUNT_MAX = 2**63 - 1
LEDGER_BYTES_MAX = 64 * 1024 * 1024


def whole_seconds(time: datetime) -> datetime:
    """An aware time in UTC, cut to seconds as the walkthrough stores it."""
    return time.astimezone(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Codec:
    """How one kind of value is stored; `read` raises ValueError for what `write` cannot have written."""

    write: Callable[[Any], Attribute]
    read: Callable[[object], object]


def read_text(stored: object) -> str:
    """Text as it is; ValueError for anything else."""
    if not isinstance(stored, str):
        raise ValueError(f"{stored!r} should be text")  # noqa: TRY004
    return stored


def _read_count(stored: object) -> int:
    if not isinstance(stored, int) or isinstance(stored, bool) or not 0 <= stored <= COUNT_MAX:
        raise ValueError(f"{stored!r} should be a whole number, 0 or more")
    return stored


def _read_flag(stored: object) -> bool:
    text = read_text(stored).strip().lower()
    if text not in ("true", "false"):
        raise ValueError(f"{stored!r} should be 'true' or 'false'")
    return text == "true"


def _write_names(names: tuple[str, ...] | None) -> str:
    if not names:
        return "null"
    # A comma list, as the walkthrough has it, cannot say a name with a comma in it; JSON can.
    plain = all(name and "," not in name and name == name.strip() for name in names)
    text = ",".join(names)
    return text if plain and text != "null" and not text.startswith("[") else json.dumps(names)


def _read_names(stored: object) -> tuple[str, ...]:
    text = read_text(stored).strip()
    if text in ("null", ""):
        return ()
    names = json.loads(text) if text.startswith("[") else [name.strip() for name in text.split(",")]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{text!r} should be column names separated by commas")
    return tuple(names)


def _parsed(stored: object) -> tuple[str, datetime | None]:
    text = read_text(stored)
    try:
        return text, datetime.fromisoformat(text)
    except ValueError:
        return text, None


def _write_date(time: datetime) -> str:
    return whole_seconds(time).replace(tzinfo=None).isoformat(sep=" ")


def _read_date(stored: object) -> datetime:
    text, time = _parsed(stored)
    # Conditional writes compare the text, so that another spelling of the same second would never match again.
    if time is None or time.tzinfo is not None:
        raise ValueError(f"{text!r} should be a UTC time as '2026-01-31 23:59:59'")
    spelled = _write_date(time.replace(tzinfo=UTC))
    if spelled != text:
        raise ValueError(f"{text!r} should be written {spelled!r}")
    return time.replace(tzinfo=UTC)


def _write_time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="microseconds")


def _read_time(stored: object) -> datetime:
    text, time = _parsed(stored)
    if time is None or time.tzinfo is None:
        raise ValueError(f"{text!r} should be a time as '2026-01-31T23:59:59.000000+00:00'")
    return time.astimezone(UTC)


def _write_ledger(ledger: Mapping[str, str]) -> str:
    text = json.dumps(dict(ledger), sort_keys=True, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _read_ledger(stored: object) -> dict[str, str]:
    text = read_text(stored)
    try:
        inflate = zlib.decompressobj()
        unpacked = inflate.decompress(base64.b64decode(text, validate=True), LEDGER_BYTES_MAX)
        ledger = json.loads(unpacked) if inflate.eof else None
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if isinstance(ledger, dict) and all(isinstance(etag, str) for etag in ledger.values()):
        return ledger
    raise ValueError("it does not hold file names with their ETags")


def _unchanged(value: Attribute) -> Attribute:
    return value


TEXT = Codec(_unchanged, read_text)
COUNT = Codec(_unchanged, _read_count)
FLAG = Codec(lambda flag: "true" if flag else "false", _read_flag)
KEY = Codec(_write_names, lambda stored: _read_names(stored) or None)
NAMES = Codec(_write_names, _read_names)
DATE = Codec(_write_date, _read_date)
TIME = Codec(_write_time, _read_time)
LEDGER = Codec(_write_ledger, _read_ledger)
