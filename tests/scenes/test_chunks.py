"""Photos in chunks, with a network that knows the truth up to a world and a unit of its own in every call."""

import weakref
from functools import partial

import numpy as np
import pytest
import torch

from lib.core.errors import Stop
from lib.data.pictures import Unreadable
from lib.scenes import chunks
from tests.scenes.walk import HEIGHT, WIDTH, Truth, photo


def walked(tmp_path, network, count, at_once, read=None):
    tmp_path.mkdir(exist_ok=True)
    given = [photo(number, read and partial(read, number)) for number in range(count)]
    return chunks.through_network(network, given, at_once, tmp_path)


def refuse_other(views, expected):
    assert [view.photo.called for view in views] == [view.photo.called for view in expected]
    for one, other in zip(views, expected, strict=True):
        torch.testing.assert_close(one.cam_from_world, other.cam_from_world, rtol=0, atol=1e-3)
        torch.testing.assert_close(one.intrinsics, other.intrinsics, rtol=1e-3, atol=0)
        torch.testing.assert_close(one.depth, other.depth, rtol=1e-3, atol=0)
        assert one.piece == 0


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    return walked(tmp_path_factory.mktemp("whole") / "raw", Truth(), 13, 13)


def test_chunks_answer_as_one_call_does(at_once, tmp_path):
    network = Truth()
    refuse_other(walked(tmp_path, network, 13, 6), at_once)
    assert network.calls == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9], [8, 9, 10, 11, 12]]


def test_a_wrong_camera_of_a_shared_photo_moves_nothing(at_once, tmp_path):
    def harm(call, cameras, depths):
        if call == 2:
            cameras[1, :, 3] += 0.8
            depths[1] *= 1.4

    refuse_other(walked(tmp_path, Truth(harm=harm), 13, 9), at_once)


def test_short_of_memory_smaller_chunks_go_on_where_the_large_one_failed(at_once, tmp_path, capsys):
    network = Truth(most=4)
    refuse_other(walked(tmp_path, network, 13, 13), at_once)
    assert network.calls[0] == [0, 1, 2] and "3 views at a time" in capsys.readouterr().out


def test_two_views_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(Stop, match="two views do not fit"):
        walked(tmp_path, Truth(most=1), 4, 4)


def test_a_chunk_that_does_not_fit_begins_a_piece_and_is_said(tmp_path, capsys):
    def harm(call, cameras, depths):
        if call == 2:
            depths[:2] *= 1 + 9 * torch.rand(depths[:2].shape, generator=torch.Generator().manual_seed(0))

    views = walked(tmp_path, Truth(harm=harm), 13, 6)
    assert [view.piece for view in views] == [0] * 6 + [1] * 7
    said = capsys.readouterr().out
    assert "4 photos from walk/006 to walk/009 begin a scene of their own, in piece2" in said


def test_an_answer_that_is_not_finite_is_refused(tmp_path):
    def harm(call, cameras, depths):
        depths[1, 3, 4] = torch.nan

    with pytest.raises(Stop, match="the network's depth of walk/000 to walk/003 is not finite"):
        walked(tmp_path, Truth(harm=harm), 4, 4)


def test_a_photo_that_cannot_be_decoded_is_left_out_of_its_chunk(at_once, tmp_path, capsys):
    def read(number):
        if number in (4, 12):
            raise Unreadable("it is damaged")
        return np.full((HEIGHT, WIDTH, 3), number, np.uint8)

    views = walked(tmp_path, Truth(), 13, 6, read)
    refuse_other(views, [view for number, view in enumerate(at_once) if number not in (4, 12)])
    assert "walk/004.jpg is left out: it is damaged" in capsys.readouterr().out
    with pytest.raises(Stop, match="none of 1 photo can be used"):
        walked(tmp_path / "none", Truth(), 1, 6, lambda number: read(4))


def test_no_more_pictures_are_held_for_many_photos_than_for_few(tmp_path):
    held, most = 0, {}

    def gone():
        nonlocal held
        held -= 1

    def read(count, number):
        nonlocal held
        held += 1
        most[count] = max(most.get(count, 0), held)
        picture = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
        weakref.finalize(picture, gone)
        return picture

    for count in (12, 20):
        walked(tmp_path / str(count), Truth(), count, 6, partial(read, count))
    assert most[12] == most[20] == 6
