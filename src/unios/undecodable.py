"""What decoding raises for bytes that make no sense, whoever wrote them: a text that is none, and nesting without end, are not of msgspec's own."""

from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
