"""A hook of mkdocs: links out of `docs/`, to tests and examples, lead somewhere in a checkout and nowhere on a site."""

import re
from typing import Any, Final

_OUTWARD: Final = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with the text of such links alone."""
    return _OUTWARD.sub(r"\1", markdown)
