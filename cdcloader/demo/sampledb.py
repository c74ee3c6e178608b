"""A deterministic model of the AWS walkthrough's `sampledb`: product, store, productorder, and their changes.

The model is the truth that the loaded tables are compared with. As in the walkthrough there are no foreign keys
between what arrives in the lake, so a product or store may go while orders still name it. All times are whole
milliseconds, because DMS may write Parquet timestamps in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random

from cdcloader.demo.dms_writer import Change, Row

Key = tuple[object, ...]

SCHEMA = "sampledb"
START = datetime(2026, 9, 1, 8, tzinfo=UTC)
_PRODUCTS, _STORES, _ORDER_LINES = 1_000, 50, 100_000
_ORDER_DAYS = 14
_LINES_PER_ORDER = 5
# Most changes of an order come soon after it, as in a shop: this part of the lines gets most of them.
_RECENT_PART, _RECENT_SHARE = 0.1, 0.8


@dataclass(frozen=True, slots=True)
class SampleTable:
    """One source table: its columns are (name, Delta type name) in source order."""

    name: str
    columns: tuple[tuple[str, str], ...]
    primary_key: tuple[str, ...]
    partition_by: tuple[str, ...] = ()


PRODUCT = SampleTable(
    "product",
    (
        ("product_id", "integer"),
        ("name", "string"),
        ("category", "string"),
        ("price", "decimal(10,2)"),
        ("weight_kg", "double"),
        ("discontinued", "boolean"),
        ("updated_at", "timestamp"),
    ),
    ("product_id",),
)
STORE = SampleTable(
    "store",
    (
        ("store_id", "string"),
        ("city", "string"),
        ("address", "string"),
        ("manager", "string"),
        ("opened", "date"),
        ("area_square_meters", "double"),
        ("employees", "short"),
        ("updated_at", "timestamp"),
    ),
    ("store_id",),
)
PRODUCTORDER = SampleTable(
    "productorder",
    (
        ("order_id", "long"),
        ("line", "short"),
        ("product_id", "integer"),
        ("store_id", "string"),
        ("quantity", "integer"),
        ("amount", "decimal(12,2)"),
        ("order_date", "date"),
        ("note", "string"),
        ("updated_at", "timestamp"),
    ),
    ("order_id", "line"),
    ("order_date",),
)
TABLES = (PRODUCT, STORE, PRODUCTORDER)

_CATEGORIES = ("Books", "Garden", "Home", "Kitchen", "Music", "Sports", "Toys")
_NOUNS = ("Kettle", "Lamp", "Rake", "Racket", "Guitar", "Puzzle", "Atlas", "Chair", 'Screen 27"', "Cup, large")
_CITIES = ("Zürich", "Lisboa", "Kraków", "Seattle", "São Paulo", "東京", "Nairobi", "St. John's")
_PEOPLE = ("A. Okafor", "B. Müller", "C. Nakamura", "D. O'Brien", "E. Łukasz", None)
_NOTES = (
    None, None, None, None, None, "", "gift", "leave at the door", 'say "hello" first', "fragile, this side up",
    "ring twice\nthen wait", "livraison après 18 h", "お届けは午前中", "🎁 wrap", " leading and trailing ", "NULL",
    "a\\b;c|d\t'e'",
)  # fmt: skip


class SampleDatabase:
    """The source database: the same seed and scale give the same rows and the same changes.

    `scale` 1 is about 1,000 products, 50 stores and 100,000 order lines; `start` is the time of the full load.
    """

    tables = TABLES

    def __init__(self, seed: int = 1, scale: float = 1.0, *, start: datetime = START) -> None:
        self._random = Random(seed)
        self._clock = start.replace(microsecond=start.microsecond // 1000 * 1000)
        self._rows = {table.name: _Rows(table) for table in TABLES}
        self._changes: dict[str, list[Change]] = {}
        self._last_product = self._last_store = self._last_order = 0
        for _ in range(max(4, round(_PRODUCTS * scale))):
            self._rows["product"].put(self._new_product())
        for _ in range(max(4, round(_STORES * scale))):
            self._rows["store"].put(self._new_store())
        self._fill_orders(max(20, round(_ORDER_LINES * scale)))

    def full_load(self, table: str) -> list[Row]:
        """The rows of a table as they stand, in the order of their arrival."""
        return list(self._rows[table].by_key.values())

    def current(self, table: str) -> dict[Key, Row]:
        """The truth: key -> row."""
        return dict(self._rows[table].by_key)

    def next_transactions(self, count: int) -> dict[str, list[Change]]:
        """Commit `count` further transactions; their changes by table, in commit order.

        The first transactions of a call are one of each kind, so that a call with `count` of at least
        `len(ACTIONS)` shows every kind of change.
        """
        self._changes = {table.name: [] for table in TABLES}
        actions = [action for action, _ in ACTIONS]
        weights = [weight for _, weight in ACTIONS]
        chosen = actions[:count] + self._random.choices(actions, weights, k=max(0, count - len(actions)))
        for action in chosen:
            self._clock += timedelta(milliseconds=self._random.randrange(1, 400))
            action(self)
        return self._changes

    # The transactions, of which ACTIONS gives the frequency.

    def place_order(self) -> None:
        """I of one to five lines in one transaction."""
        self._last_order += 1
        for line in range(1, self._random.randint(1, _LINES_PER_ORDER) + 1):
            self._insert("productorder", self._new_line(self._last_order, line, self._clock.date()))

    def change_line(self) -> None:
        """U of a line's quantity and amount."""
        row = self._draw_line()
        quantity = self._random.randint(1, 9)
        self._update("productorder", row, quantity=quantity, amount=self._money(100, 20_000) * quantity)

    def reschedule_line(self) -> None:
        """U of a line's date: the row moves to another partition."""
        row = self._draw_line()
        day = row["order_date"]
        if not isinstance(day, date):
            raise TypeError(f"order_date is {day!r}")
        self._update("productorder", row, order_date=day + timedelta(days=self._random.randint(1, 3)))

    def rewrite_line(self) -> None:
        """U of every column outside the key."""
        row = self._draw_line()
        key = {name: row[name] for name in PRODUCTORDER.primary_key}
        self._update("productorder", row, **{**self._new_line(0, 0, self._clock.date()), **key})

    def remove_line(self) -> None:
        """D of a line."""
        self._delete("productorder", self._draw_line(), keep_last=True)

    def place_and_cancel(self) -> None:
        """I and at once D of an order: it was never in the lake."""
        self._last_order += 1
        row = self._new_line(self._last_order, 1, self._clock.date())
        self._insert("productorder", row)
        self._delete("productorder", row)

    def restless_line(self) -> None:
        """I, U, D and I again of one key, with different values."""
        self._last_order += 1
        row = self._new_line(self._last_order, 1, self._clock.date())
        self._insert("productorder", row)
        self._delete("productorder", self._update("productorder", row, note="changed my mind"))
        self._insert("productorder", self._new_line(self._last_order, 1, self._clock.date()))

    def price_product(self) -> None:
        """U of a price."""
        self._update("product", self._rows["product"].draw(self._random), price=self._money(100, 100_000))

    def discontinue_product(self) -> None:
        """U of a boolean, and of a number to NULL."""
        self._update("product", self._rows["product"].draw(self._random), discontinued=True, weight_kg=None)

    def add_product(self) -> None:
        """I of a product."""
        self._insert("product", self._new_product())

    def remove_product(self) -> None:
        """D of a product."""
        self._delete("product", self._rows["product"].draw(self._random), keep_last=True)

    def restless_product(self) -> None:
        """D of a product, I of the same key, and U of it."""
        row = self._rows["product"].draw(self._random)
        self._delete("product", row)
        self._insert("product", {**row, "discontinued": False, "updated_at": self._clock})
        self._update("product", {**row, "discontinued": False}, price=self._money(100, 100_000))

    def move_store(self) -> None:
        """U of a store's city and address."""
        row = self._rows["store"].draw(self._random)
        self._update("store", row, city=self._random.choice(_CITIES), address=self._new_address())

    def open_store(self) -> None:
        """I of a store."""
        self._insert("store", self._new_store())

    def close_store(self) -> None:
        """D of a store."""
        self._delete("store", self._rows["store"].draw(self._random), keep_last=True)

    # One change of one row, in the model and in the list of changes.

    def _insert(self, table: str, row: Row) -> None:
        self._rows[table].put(row)
        self._changes[table].append(Change("I", row, self._clock))

    def _update(self, table: str, row: Row, **values: object) -> Row:
        updated = {**row, **values, "updated_at": self._clock}
        self._rows[table].put(updated)
        self._changes[table].append(Change("U", updated, self._clock))
        return updated

    def _delete(self, table: str, row: Row, *, keep_last: bool = False) -> None:
        if keep_last and len(self._rows[table].by_key) == 1:
            return  # A later transaction draws from this table.
        self._rows[table].remove(row)
        self._changes[table].append(Change("D", row, self._clock))

    def _draw_line(self) -> Row:
        return self._rows["productorder"].draw(self._random, recent=self._random.random() < _RECENT_SHARE)

    # New rows.

    def _fill_orders(self, lines: int) -> None:
        """Orders of the last days, evenly over the days, up to `lines` lines in all."""
        rows = self._rows["productorder"]
        first_day = self._clock.date() - timedelta(days=_ORDER_DAYS - 1)
        while (count := len(rows.by_key)) < lines:
            self._last_order += 1
            day = first_day + timedelta(days=count * _ORDER_DAYS // lines)
            for line in range(1, min(self._random.randint(1, _LINES_PER_ORDER), lines - count) + 1):
                rows.put(self._new_line(self._last_order, line, day))

    def _new_product(self) -> Row:
        self._last_product += 1
        weight = None if self._random.random() < 0.1 else self._random.random() * 30
        return {
            "product_id": self._last_product,
            "name": f"{self._random.choice(_NOUNS)} {self._last_product}",
            "category": self._random.choice(_CATEGORIES),
            "price": self._money(100, 100_000),
            "weight_kg": weight,
            "discontinued": self._random.random() < 0.05,
            "updated_at": self._clock,
        }

    def _new_store(self) -> Row:
        self._last_store += 1
        return {
            "store_id": f"S-{self._last_store:04d}",
            "city": self._random.choice(_CITIES),
            "address": self._new_address(),
            "manager": self._random.choice(_PEOPLE),
            "opened": date(1990, 1, 1) + timedelta(days=self._random.randrange(12_000)),
            "area_square_meters": self._random.random() * 2_000,
            "employees": self._random.randint(2, 300),
            "updated_at": self._clock,
        }

    def _new_address(self) -> str:
        return f'{self._random.randint(1, 999)} Main Street, "Unit {self._random.randint(1, 9)}"\n2nd floor'

    def _new_line(self, order: int, line: int, day: date) -> Row:
        quantity = 1 + int(self._random.random() * 9)
        return {
            "order_id": order,
            "line": line,
            "product_id": 1 + int(self._random.random() * self._last_product),
            "store_id": f"S-{1 + int(self._random.random() * self._last_store):04d}",
            "quantity": quantity,
            "amount": self._money(100, 20_000) * quantity,
            "order_date": day,
            "note": _NOTES[int(self._random.random() * len(_NOTES))],
            "updated_at": self._clock,
        }

    def _money(self, low_cents: int, high_cents: int) -> Decimal:
        return Decimal(low_cents + int(self._random.random() * (high_cents - low_cents))).scaleb(-2)


ACTIONS: tuple[tuple[Callable[[SampleDatabase], None], int], ...] = (
    (SampleDatabase.place_order, 30),
    (SampleDatabase.change_line, 30),
    (SampleDatabase.reschedule_line, 6),
    (SampleDatabase.rewrite_line, 4),
    (SampleDatabase.remove_line, 8),
    (SampleDatabase.place_and_cancel, 2),
    (SampleDatabase.restless_line, 3),
    (SampleDatabase.add_product, 3),
    (SampleDatabase.price_product, 6),
    (SampleDatabase.discontinue_product, 2),
    (SampleDatabase.remove_product, 2),
    (SampleDatabase.restless_product, 1),
    (SampleDatabase.open_store, 2),
    (SampleDatabase.move_store, 2),
    (SampleDatabase.close_store, 1),
)


class _Rows:
    """One table's rows by key, with a uniform draw of a row in constant time."""

    def __init__(self, table: SampleTable) -> None:
        self.by_key: dict[Key, Row] = {}
        self._key = table.primary_key
        self._keys: list[Key] = []
        self._places: dict[Key, int] = {}

    def put(self, row: Row) -> None:
        """Insert a row, or replace the row of its key."""
        key = tuple(row[name] for name in self._key)
        if key not in self.by_key:
            self._places[key] = len(self._keys)
            self._keys.append(key)
        self.by_key[key] = row

    def remove(self, row: Row) -> None:
        """Take a row out; the last key fills its place in the list that is drawn from."""
        key = tuple(row[name] for name in self._key)
        del self.by_key[key]
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._places[last] = place

    def draw(self, random: Random, *, recent: bool = False) -> Row:
        """Any row, or one of the latest tenth."""
        count = len(self._keys)
        first = min(count - 1, int(count * (1 - _RECENT_PART))) if recent else 0
        return self.by_key[self._keys[random.randrange(first, count)]]
