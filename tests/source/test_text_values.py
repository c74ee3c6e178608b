"""Text to typed values."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.text_values import digits_fit

NUMBERS = st.one_of(st.none(), st.from_regex(r"-?[0-9]{0,4}\.[0-9]{0,5}|-?[0-9]{1,4}", fullmatch=True))


@given(st.lists(NUMBERS, max_size=30), st.integers(0, 5), st.integers(0, 3))
def test_numbers_fit_when_none_has_more_digits_behind_its_point(numbers, scale, skipped):
    """Looking at all characters at once says what counting each number's digits says, in a part of a column too."""
    column = pa.array(numbers, pa.string()).slice(min(skipped, len(numbers)))
    digits = [len(number.partition(".")[2]) for number in numbers[skipped:] if number is not None]
    assert digits_fit(column, scale) == all(count <= scale for count in digits)


@pytest.mark.parametrize("number", ["1e2", "1E-2", "1.5e0"])
def test_a_number_with_an_exponent_does_not_fit(number):
    """An exponent moves the point, so that the number has to be read with care."""
    assert Decimal(number)
    assert not digits_fit(pa.array(["1.50", number], pa.string()), 2)
