"""Fixed-size blocks of a key/value cache: who holds which, and which old ones can serve a new prompt.

Bookkeeping only, no tensors. A full block is known by the hash of its tokens and of all blocks before it, so
two requests that begin alike share blocks (as in vLLM: Kwon et al., "Efficient Memory Management for Large
Language Model Serving with PagedAttention", 2023). A block with a prompt's end, which rarely fills it, is
known by all the prompt: it can be copied where that prompt comes again. Blocks nobody holds keep their
content until room is needed; the one unused for longest goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

Key = bytes
ROOT: Key = b""


def chain_key(parent: Key, tokens: Sequence[int]) -> Key:
    """The name of a block that holds `tokens` after the blocks that `parent` names.

    A cryptographic hash, because prompts come from strangers: a collision would show one's text to another.
    """
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


def text_key(tokens: Sequence[int], block_tokens: int, root: Key = ROOT) -> Key:
    """The name of the block that `tokens` end in, filled or not."""
    key = root
    for start in range(0, len(tokens), block_tokens):
        key = chain_key(key, tokens[start : start + block_tokens])
    return key


class BlockPool:
    """`size` blocks of `block_tokens` tokens each, by number from 0."""

    def __init__(self, size: int, block_tokens: int) -> None:
        self.size, self.block_tokens = size, block_tokens
        self._unused = list(range(size - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # named, held by nobody; oldest first
        self._holders = [0] * size
        self._names: dict[int, Key] = {}
        self._by_name: dict[Key, int] = {}

    @property
    def free(self) -> int:
        """Blocks that can be taken now."""
        return len(self._unused) + len(self._idle)

    @property
    def held(self) -> int:
        return self.size - self.free

    def match(self, tokens: Sequence[int], root: Key = ROOT) -> list[int]:
        """The blocks, from the first on, that already hold the beginning of `tokens`.

        `root` tells texts apart whose equal tokens have other keys and values, as an adapter's.
        """
        found: list[int] = []
        key, step = root, self.block_tokens
        for start in range(0, len(tokens) - step + 1, step):
            key = chain_key(key, tokens[start : start + step])
            block = self._by_name.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def named(self, key: Key) -> int | None:
        """The block of this name, if there still is one."""
        return self._by_name.get(key)

    def hold(self, blocks: Sequence[int]) -> None:
        """Keep blocks that `match` found from being given away."""
        for block in blocks:
            self._holders[block] += 1
            self._idle.pop(block, None)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks for new content, held; None when so many are not free."""
        if count > self.free:
            return None
        taken = []
        for _ in range(count):
            block = self._unused.pop() if self._unused else self._forget_oldest()
            self._holders[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Stop holding. The end of a text is given away before its beginning, which others may share."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._names:
                    self._idle[block] = None
                else:
                    self._unused.append(block)

    def name(self, blocks: Sequence[int], tokens: Sequence[int], root: Key = ROOT) -> None:
        """Say that `blocks` hold the beginning of `tokens`, so that `match` finds them.

        Where another block holds the same already, that one stays the known one.
        """
        key, step = root, self.block_tokens
        for index, block in enumerate(blocks[: len(tokens) // step]):
            key = chain_key(key, tokens[index * step : (index + 1) * step])
            if key not in self._by_name and block not in self._names:
                self._by_name[key] = block
                self._names[block] = key

    def name_end(self, block: int, key: Key) -> None:
        """Say that `block` holds the end of the text of this name, and that nothing will be added to it."""
        if key not in self._by_name and block not in self._names:
            self._by_name[key], self._names[block] = block, key

    def _forget_oldest(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._by_name[self._names.pop(block)]
        return block
