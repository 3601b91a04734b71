"""Filter patterns: CloudWatch's syntax for lines of text.

Words and "quoted phrases" must all be in the message, -words must not, and of ?words one must be, which count only
where nothing else is asked for. Letters must match in case, and a word may be part of a longer one. Patterns for JSON,
for columns and for regular expressions are refused.
"""

import re
from dataclasses import dataclass
from typing import Final

from batchyard.domain.errors import InvalidRequestError

PATTERN_CHARACTERS_MAX: Final = 1024

# A quoted phrase may hold quotes and backslashes behind a backslash. A bare word ends at white space.
_TERM: Final = re.compile(r'\s*(?P<sign>[?-]?)(?:"(?P<phrase>(?:[^"\\]|\\.)*)"|(?P<word>[^\s"]+))(?=\s|$)', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_OTHER_KINDS: Final = {"{": "JSON", "[": "space-delimited", "%": "regular expression"}


@dataclass(frozen=True, slots=True)
class FilterPattern:
    """What a message must and must not contain."""

    all_of: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()

    def matches(self, message: str) -> bool:
        """Tell whether a message is one of those that are asked for."""
        if not all(term in message for term in self.all_of) or any(term in message for term in self.none_of):
            return False
        optional_counts = self.any_of and not self.all_of and not self.none_of
        return not optional_counts or any(term in message for term in self.any_of)


EVERYTHING: Final = FilterPattern()


def parse_pattern(text: str) -> FilterPattern:
    """Read a filter pattern; an empty one matches all. Raises InvalidRequestError for what is none, or not served."""
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise _invalid(f"it has {len(text)} characters, and may have {PATTERN_CHARACTERS_MAX}")
    pattern = text.strip()
    kind = _OTHER_KINDS.get(pattern[:1])
    if kind is not None:
        raise _invalid(f"{kind} patterns are not supported by this server; ask for words or quoted phrases")
    terms: dict[str, list[str]] = {"": [], "?": [], "-": []}
    position = 0
    while position < len(pattern):
        match = _TERM.match(pattern, position)
        if match is None:
            raise _invalid(f"it cannot be read from {pattern[position : position + 20]!r} on; is a quote missing?")
        phrase = match["phrase"]
        term = match["word"] if phrase is None else _ESCAPED.sub(r"\1", phrase)
        if term:
            terms[match["sign"]].append(term)
        position = match.end()
    return FilterPattern(tuple(terms[""]), tuple(terms["?"]), tuple(terms["-"]))


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid filter pattern: {problem}", field="filterPattern")
