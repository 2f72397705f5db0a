"""Messages cut into numbered terms, many at once.

scikit-learn cuts one message at a time in Python, 170 us each. Here a batch is one array of
bytes: pieces are hashed where they lie, words and pairs four bytes a step, in a tenth of the
time. Terms and counts are scikit-learn's own on any text; `test_job.py` holds them to it.

Data:    n texts. A term's key is 2**18 times its slot plus its number; the slots are the n texts'
         pieces, then the n texts' words; under a vocabulary the n texts' words alone.
Source:  MurmurHash3 x86_32 with seed 0 (Appleby, github.com/aappleby/smhasher), names as there;
         `char_wb` and the token patterns: scikit-learn, feature_extraction.text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BITS, LONGEST = 18, 5
WORD, TOKEN = re.compile(r"\w\w+"), re.compile(r"\w+|[^\w\s]")


@cache
def constants() -> SimpleNamespace:
    """Return what the hash multiplies, shifts and masks by, as numpy takes it at once."""
    import numpy as np

    numbers = {"c1": 0xCC9E2D51, "c2": 0x1B873593, "c3": 0xE6546B64, "five": 5}
    numbers |= {"f1": 0x85EBCA6B, "f2": 0xC2B2AE35, "number": 2**BITS - 1, "bits": BITS}
    numbers |= {f"r{places}": places for places in (13, 15, 16, 17, 19)}
    found = SimpleNamespace(**{name: np.uint32(value) for name, value in numbers.items()})
    found.tails = np.array([[256**size - 1] for size in range(5)], np.uint32)
    found.sizes = np.arange(1, LONGEST + 1, dtype=np.uint32)[:, None]
    return found


def looked_up(texts: Sequence[str], vocabulary: Mapping[str, int]) -> np.ndarray:
    """Return the keys of the words of a vocabulary, one for each time that a word occurs."""
    import numpy as np

    keys = [
        slot << BITS | vocabulary[word]
        for slot, text in enumerate(texts)
        for word in WORD.findall(text.lower())
        if word in vocabulary
    ]
    return np.array(keys, np.uint32)


def hashed(texts: Sequence[str]) -> np.ndarray:
    """Return the keys of pieces, words and pairs, one for each time that one occurs.

    All is found in one run of bytes, first the texts, then their words: a space stands before
    every word and at the end.
    """
    import numpy as np

    lines = [" ".join(["", *text.lower().split()]) for text in texts]
    words = [" ".join(["", *TOKEN.findall(line)]) for line in lines]
    parts = [part.encode() for part in (*lines, *words)]
    content, half = b"".join([*parts, b" "]), sum(map(len, parts[: len(lines)]))
    slot = np.arange(len(parts), dtype=np.uint32).repeat(list(map(len, parts)))
    slot <<= constants().bits
    byte = np.frombuffer(content, np.uint8)
    space = (byte == ord(" ")).nonzero()[0]
    middle = int(space.searchsorted(half))
    block = scrambled(content)

    ends, (start, length) = space[1 : middle + 1], phrases(space[middle:], slot)
    if content.isascii():
        inside, owner = within(space[: middle + 1]), slot[:half]
        pieces = of_pieces(block[:, : half + LONGEST - 1])
    else:
        first, inside, wide = characters(byte[:half], space[: middle + 1])
        pieces, owner = of_pieces(block[:, first]), slot[first[: 1 - LONGEST]]
        start, length = np.concatenate([[start, length], wide], 1)
    # The space that ends a word begins the next: a piece of its own once more.
    state = np.concatenate([pieces.ravel(), block[1, ends] ^ 1, of_spans(block, start, length)])
    key = finished(state)
    key[pieces.size :] |= slot[np.concatenate([ends - 1, start])]
    keys = key[: pieces.size].reshape(pieces.shape)
    keys |= owner
    return np.concatenate([keys[inside], key[pieces.size :]])


def phrases(space: np.ndarray, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and length in bytes of each word between spaces, and of each pair in a text."""
    import numpy as np

    start = space[:-1] + 1
    length = space[1:] - start
    pair = (slot[start[1:]] == slot[start[:-1]]).nonzero()[0]
    both = length[pair] + length[pair + 1] + 1
    return np.concatenate([start, start[pair]]), np.concatenate([length, both])


def within(space: np.ndarray) -> np.ndarray:
    """Tell which pieces of 1 to 5 characters lie inside a word and its two spaces, (5, places)."""
    import numpy as np

    reach = space[1:].repeat(space[1:] - space[:-1])
    reach -= np.arange(-1, len(reach) - 1)
    return reach >= constants().sizes


def characters(byte: np.ndarray, space: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where characters start, which pieces are of ASCII alone, and the others' bytes.

    Four bytes more follow the starts; the others are start and length, (2, pieces).
    """
    import numpy as np

    first = np.append(((byte & 0xC0) != 0x80).nonzero()[0], len(byte) + np.arange(LONGEST - 1))
    count = len(first) + 1 - LONGEST
    foreign = np.concatenate([[-1], (byte[first[:count]] >= 0x80).nonzero()[0], [len(first)]])
    plain = foreign[1:].repeat(foreign[1:] - foreign[:-1])[:count] - np.arange(count)
    inside = within(first.searchsorted(space))
    ascii_ = plain >= constants().sizes
    size, place = (inside & ~ascii_).nonzero()
    begin = first[place]
    return first, inside & ascii_, np.array([begin, first[place + size + 1] - begin])


def scrambled(content: bytes) -> np.ndarray:
    """Return the 0 to 4 bytes from each place on as the hash takes them in, uint32 (5, bytes)."""
    import numpy as np

    hashing = constants()
    word = np.ndarray((len(content) + 4,), "<u4", content + bytes(8), strides=(1,))
    block = word.copy() & hashing.tails
    block *= hashing.c1
    low = block >> hashing.r17
    block <<= hashing.r15
    block |= low
    block *= hashing.c2
    return block


def stir(state: np.ndarray) -> None:
    """Stir a state in place, after a whole block was taken in."""
    hashing = constants()
    low = state >> hashing.r19
    state <<= hashing.r13
    state |= low
    state *= hashing.five
    state += hashing.c3


def of_pieces(block: np.ndarray) -> np.ndarray:
    """Return the state after the 1 to 5 bytes from each place on, but for the last four places."""
    import numpy as np

    state = np.empty((LONGEST, block.shape[1] - 4), np.uint32)
    state[:4] = block[1:, :-4]
    stir(state[3])
    np.bitwise_xor(state[3], block[1, 4:], state[4])
    state ^= constants().sizes
    return state


def of_spans(block: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the state after each span of bytes."""
    import numpy as np

    steps = length >> 2
    order = (-steps).argsort()
    place, whole = start[order], block[4]
    state = np.zeros(len(start), np.uint32)
    for left in (len(start) - np.bincount(steps).cumsum()[:-1]).tolist():
        part = state[:left]
        part ^= whole[place[:left]]
        stir(part)
        whole = whole[4:]
    state[order] = state.copy()
    state ^= block[length & 3, start + (length & ~3)]
    state ^= length.astype(np.uint32)
    return state


def finished(state: np.ndarray) -> np.ndarray:
    """Return the number of each term, the absolute value of its hash modulo 2**18."""
    import numpy as np

    hashing = constants()
    state ^= state >> hashing.r16
    state *= hashing.f1
    state ^= state >> hashing.r13
    state *= hashing.f2
    state ^= state >> hashing.r16
    number = np.abs(state.view(np.int32)).view(np.uint32)
    number &= hashing.number
    return number
