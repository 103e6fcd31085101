"""Fixed-size blocks of a key/value cache: who holds which, and which old ones can serve a new prompt.

Bookkeeping only, no tensors. A full block is known by the hash of its tokens and of all blocks before it, so
two requests that begin alike share blocks (as in vLLM: Kwon et al., "Efficient Memory Management for Large
Language Model Serving with PagedAttention", 2023). Of a block that goes on otherwise, or is not full, the
beginning can be copied. Blocks that no sequence holds keep their content until it is evicted; the least
recently used goes first.
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
        self._idle: OrderedDict[int, None] = OrderedDict()  # known and held by no sequence; oldest first
        self._holders = [0] * size
        self._full: dict[Key, int] = {}
        self._before: dict[int, Key] = {}  # of each known block: the key of the blocks before it
        self._after: dict[Key, dict[int, tuple[int, ...]]] = {}  # of each such key: blocks and their tokens

    @property
    def free(self) -> int:
        """Blocks that can be taken now."""
        return len(self._unused) + len(self._idle)

    @property
    def held(self) -> int:
        return self.size - self.free

    def match(self, tokens: Sequence[int], root: Key = ROOT) -> list[int]:
        """The blocks, from the first on, that already hold the beginning of `tokens`.

        `root` keeps sequences apart whose equal tokens have other keys and values, such as an adapter's.
        """
        found: list[int] = []
        key, step = root, self.block_tokens
        for start in range(0, len(tokens) - step + 1, step):
            key = chain_key(key, tokens[start : start + step])
            block = self._full.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def match_end(self, tokens: Sequence[int], blocks: int, root: Key = ROOT) -> tuple[int, int] | None:
        """A block whose beginning holds what follows the first `blocks` that `match` found, and how many.

        That block is for copying: it continues otherwise.
        """
        at = blocks * self.block_tokens
        rest = tuple(tokens[at : at + self.block_tokens])
        found: tuple[int, int] | None = None
        for block, held in self._after.get(text_key(tokens[:at], self.block_tokens, root), {}).items():
            same = 0
            for ours, theirs in zip(rest, held, strict=False):
                if ours != theirs:
                    break
                same += 1
            if same > (found[1] if found else 0):
                found = block, same
        return found

    def hold(self, blocks: Sequence[int]) -> None:
        """Keep blocks that `match` found from being evicted."""
        for block in blocks:
            self._holders[block] += 1
            self._idle.pop(block, None)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks for new content, held; None when so many are not free."""
        if count > self.free:
            return None
        taken = []
        for _ in range(count):
            block = self._unused.pop() if self._unused else self._evict()
            self._holders[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Stop holding. The end of a sequence is evicted before its beginning, which others may share."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._before:
                    self._idle[block] = None
                else:
                    self._unused.append(block)

    def name(self, blocks: Sequence[int], tokens: Sequence[int], root: Key = ROOT) -> None:
        """Say that `blocks` hold the beginning of `tokens`, so that they are found; the last may not be full.

        Where another block holds the same already, that one stays the known one.
        """
        before, step = root, self.block_tokens
        for start, block in zip(range(0, len(tokens), step), blocks, strict=False):
            held = tuple(tokens[start : start + step])
            key = chain_key(before, held)
            if len(held) < step or self._full.setdefault(key, block) == block:
                self._before[block] = before
                self._after.setdefault(before, {})[block] = held
            before = key

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        before = self._before.pop(block)
        held = self._after[before].pop(block)
        if not self._after[before]:
            del self._after[before]
        if len(held) == self.block_tokens:
            del self._full[chain_key(before, held)]
        return block
