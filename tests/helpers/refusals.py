"""What a call is refused with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from acmix_ms.errors import UserError


def refusal(call: Callable, *args) -> str:
    """The one line that ``call(*args)`` is refused with."""
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)
