"""The control channel: frames whole and in order, whatever the socket does, with descriptors beside them."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest

from mlserve import frames
from mlserve.channel import Channel, ChannelClosed
from mlserve.frames import Message, Part, SlotRef


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    pool, worker = Channel(left, frames.ToPool), Channel(right, frames.ToWorker)
    yield pool, worker
    pool.close()
    worker.close()


def _receive_all(channel: Channel, sender: Channel, count: int) -> list:
    received = []
    while len(received) < count:
        received += channel.receive(wait_for_descriptors=True)
        sender.flush()
    return received


def _infer(number: int, size_bytes: int = 10) -> frames.Infer:
    part = Part("x", "FP32", [size_bytes // 4], "raw", data=b"\x01" * size_bytes, parameters={"content_type": "np"})
    return frames.Infer(number, 7, "json", Message([part], id="a", parameters={"headers": {"k": "v"}}))


def test_a_frame_arrives_as_it_was_sent(ends):
    pool, worker = ends
    pool.send(_infer(1))
    assert worker.receive() == [_infer(1)]


def test_nothing_to_read_is_an_empty_list(ends):
    assert ends[0].receive() == []


def test_frames_put_together_arrive_in_order(ends):
    pool, worker = ends
    for number in range(50):
        worker.put(frames.Pulled(number))
    worker.flush()
    assert pool.receive() == [frames.Pulled(number) for number in range(50)]


def test_frames_larger_than_the_buffer_and_the_socket_arrive_whole(ends):
    pool, worker = ends
    sent = [_infer(1, 4_000_000), _infer(2), _infer(3, 1_000_000)]
    for frame in sent:
        pool.send(frame)
    assert pool.backlog, "a frame of 4 MB does not fit into the socket at once"
    assert _receive_all(worker, pool, 3) == sent
    assert not pool.backlog


def test_a_frame_that_comes_byte_by_byte_is_put_together(ends):
    pool, worker = ends
    left, right = socket.socketpair()
    feeder = Channel(left, frames.ToPool)
    feeder.put(_infer(1))
    data = bytes(feeder._batch)
    for one in data[:-1]:
        pool.sock.send(bytes([one]))
        assert worker.receive() == []
    pool.sock.send(data[-1:])
    assert worker.receive() == [_infer(1)]
    feeder.close()
    right.close()


def test_descriptors_arrive_beside_their_frames_in_order(ends):
    pool, worker = ends
    pipes = [os.pipe() for _ in range(3)]
    for number, (reader, _) in enumerate(pipes):
        pool.send(frames.Grant(SlotRef(number, 10, fresh=True)), [reader])
    received = []
    while len(received) < 3:
        received += worker.receive(wait_for_descriptors=True)
    for number, (_, writer) in enumerate(pipes):
        os.write(writer, bytes([number]))
        [fd] = worker.take(1)
        assert os.read(fd, 1) == bytes([number])
        assert not os.get_inheritable(fd)
        os.close(fd)
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_the_other_ends_close_is_an_error_after_the_last_frame(ends):
    pool, worker = ends
    worker.send(frames.End(1))
    worker.close()
    assert pool.receive() == [frames.End(1)]
    with pytest.raises(ChannelClosed):
        pool.receive()
    with pytest.raises(ChannelClosed):
        for _ in range(10):
            pool.send(frames.Close(1))


def test_numpy_scalars_in_parameters_travel_as_numbers(ends):
    pool, worker = ends
    worker.send(frames.Observed("m", "v", {"x": np.float32(0.5)}))
    assert pool.receive()[0].values == {"x": 0.5}


def test_a_frame_that_cannot_be_encoded_leaves_the_channel_as_it_was(ends):
    pool, worker = ends
    frame = _infer(1)
    frame.request.parameters = {"too big": 2**70}
    with pytest.raises(OverflowError):
        pool.send(frame)
    pool.send(_infer(2))
    assert worker.receive() == [_infer(2)]
