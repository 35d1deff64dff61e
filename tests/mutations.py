"""Files changed at random, for readers that must answer with a result or one sentence."""

import resource
import time

LONGEST, LARGEST = 10.0, 1 << 30  # seconds, and bytes that a reader may add to the process


def mutated(content: bytes, rng) -> bytes:
    """One to eight changes: a byte, a run of bytes, a cut, a piece said again or moved."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        if not data:
            break
        kind, at = rng.integers(6), int(rng.integers(len(data)))
        length = int(min(rng.integers(1, 64), len(data) - at))
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at : at + length] = rng.integers(0, 256, length, "uint8").tobytes()
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 20))
        elif kind == 4:
            data[at : at + length] = rng.choice([b"\xff", b"\0", b"9", b"-"]) * length
        else:
            del data[at + length :]
    return bytes(data)


def answer(read) -> str | None:
    """None for a result, or the sentence of a refusal; anything else is a failure."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        read()
        said = None
    except (ValueError, OSError) as error:
        said = str(error)
        assert said and len(said) < 5000
    assert time.perf_counter() - start < LONGEST
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LARGEST
    return said
