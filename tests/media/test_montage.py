"""Pages of pictures: where everything lies, to the pixel."""

import numpy as np

from dispose_jax.media import montage


def frames(count, height=3, width=5):
    return np.arange(count * height * width * 3).reshape(count, height, width, 3).astype(np.uint8)


def test_small_pictures_grow_whole_times_and_large_ones_stay():
    some = frames(2)
    larger = montage.enlarged(some, 17)
    assert larger.shape == (2, 9, 15, 3)
    np.testing.assert_array_equal(larger[:, ::3, ::3], some)
    np.testing.assert_array_equal(montage.enlarged(some, 4), some)


def test_a_row_has_its_pictures_in_order_with_paper_between():
    some = frames(3)
    label = np.zeros((5, 4, 3), np.uint8)
    row = montage.row(some, 2, before=[label])
    assert row.shape == (5, 4 + 3 * 7, 3)
    for i, frame in enumerate(some):
        left = 4 + 7 * i
        np.testing.assert_array_equal(row[:3, left : left + 5], frame)
        assert (row[:, left + 5 : left + 7] == montage.PAPER).all()
    assert (row[3:, 4:] == montage.PAPER).all() and not row[:, :4].any()


def test_blocks_lie_below_each_other_on_paper():
    wide, narrow = np.zeros((2, 6, 3), np.uint8), np.ones((3, 4, 3), np.uint8)
    whole = montage.below([wide, narrow])
    assert whole.shape == (5, 6, 3)
    assert not whole[:2].any() and (whole[2:, :4] == 1).all()
    assert (whole[2:, 4:] == montage.PAPER).all()


def test_words_are_dark_on_paper():
    box = montage.written("base", 60, 20)
    assert box.shape == (20, 60, 3) and (box[0] == montage.PAPER).all() and box.min() < 100
