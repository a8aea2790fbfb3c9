"""The user's own functions, named in the environment: ``module:callable``."""

from __future__ import annotations

import importlib
from typing import Any

from governance.errors import PermanentError


def call_hook(name: str, *, what: str, returns: str) -> Any:
    """Return what ``module:callable`` returns when it is called without arguments.

    Args:
        name: ``module:callable``.
        what: What it is for, as messages begin.
        returns: What it should return, in words.

    Raises:
        PermanentError: It cannot be imported or called. Only the type of its error is told, because
            the text may hold a secret; one that is a ``PermanentError`` already is passed on.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except PermanentError:
        raise
    except Exception as error:  # the user's own code
        message = (
            f"{what} {name}: expected module:callable that returns {returns}, got "
            f"{type(error).__name__}"
        )
        raise PermanentError(message) from None
