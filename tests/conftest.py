"""What every test shares: Hypothesis profiles. `HYPOTHESIS_PROFILE=explore make test` searches further."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The default tries the same examples in every run, so that a red test is red for everyone.
settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
