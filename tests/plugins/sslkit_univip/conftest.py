"""POT's first import compiles a docstring that Python 3.12 and later warn about; warnings are errors in tests."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ot  # noqa: F401
