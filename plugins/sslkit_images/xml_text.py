"""Parse XML in the encoding that it declares: of expat's own four, or of any that Python knows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from sslkit.files import EncodingError, decode
from sslkit_images.problems import cut

_DECLARATION = re.compile(rb"""^(?:\xef\xbb\xbf)?\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([^"']+)["'][^>]*\?>""")
_BY_EXPAT = frozenset({"utf-8", "utf-16", "us-ascii", "iso-8859-1"})


def parse_xml(data: bytes) -> ElementTree.Element:
    """Return the root of an XML document.

    Raises:
        ElementTree.ParseError: It is not XML.
        EncodingError: It is not in the encoding that it declares, or Python does not know that one.
    """
    declaration = _DECLARATION.match(data)
    name = declaration[1].decode("ascii", "replace") if declaration else "utf-8"
    if not declaration or name.lower() in _BY_EXPAT:
        return ElementTree.fromstring(decode(data) if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else data)  # noqa: S314
    shown = f"it declares the encoding '{cut(name)}'"
    try:
        return ElementTree.fromstring(data[declaration.end() :].decode(name))  # noqa: S314 - expat refuses entity bombs
    except LookupError:
        raise EncodingError(f"{shown}, which is not known: save the file as UTF-8") from None
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise EncodingError(
            f"{shown}, and holds {character!r}, which is no character: save the file as UTF-8"
        ) from None
    except ValueError as error:
        raise EncodingError(f"{shown}, but is in another one ({error})") from None
