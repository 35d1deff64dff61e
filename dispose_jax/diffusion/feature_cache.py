"""When deep features of the network are computed again, and when those of an earlier call serve.

From one step to the next the coarse levels of a U-Net change little (DeepCache: Ma et al. 2024); so
do the ControlNet's residuals, which follow the same latent.
"""

from __future__ import annotations

from collections.abc import Sequence


def computed(rows: Sequence[int], every: int) -> list[bool]:
    """Whether each call computes everything: the first, every n-th after it, and any whose rows of
    guidance are other ones than the last call's; the count starts again with each.

    rows: of guidance in each call, 1 or 2. every: 1 computes always.
    """
    made, since = [], 0
    for i, now in enumerate(rows):
        fresh = i == 0 or now != rows[i - 1] or since + 1 >= every
        since = 0 if fresh else since + 1
        made.append(fresh)
    return made
