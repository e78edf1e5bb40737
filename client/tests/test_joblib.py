from __future__ import annotations

import gc
import io
import threading

import joblib
import numpy as np
import pxcluster
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import BACKENDS
from pxcluster import serialize
from pxcluster.joblib import PxclusterBackend, _Arrays, _Pickler
from pxcluster.serialize._pickler import OutOfBand


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr("joblib.parallel.BACKENDS", {**BACKENDS})
    monkeypatch.setattr("joblib.parallel.DEFAULT_BACKEND", joblib.parallel.DEFAULT_BACKEND)


class Lease:
    """What `_Arrays` is given in these tests for an array that was sent."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return np.zeros, (1,)


def test_an_array_is_sent_when_it_is_met_again():
    sent = []
    arrays = _Arrays(lambda array: sent.append(array) or Lease(array))
    first, second = np.ones(3), np.ones(3)
    assert arrays.lease(first) is None
    assert arrays.lease(second) is None
    lease = arrays.lease(first)
    assert arrays.lease(first) is lease
    assert [each is first for each in sent] == [True]


def test_arrays_that_are_gone_are_forgotten():
    arrays = _Arrays(Lease)
    array = np.ones(3)
    arrays.lease(array)
    assert len(arrays._known) == 1
    del array
    gc.collect()
    assert not arrays._known
    kept = np.ones(3)
    arrays.lease(kept)
    arrays.clear()
    assert arrays.lease(kept) is None


@pytest.mark.parametrize(("least", "sent"), [(8000, True), (8001, False), (None, False)])
def test_large_arrays_are_replaced_wherever_they_are(least, sent):
    arrays = _Arrays(Lease)
    array = np.ones(1000)
    for _ in range(2):
        file = io.BytesIO()
        out_of_band = OutOfBand()
        _Pickler(file, out_of_band, arrays, least).dump([{"deep": (array, array)}])
        loaded = serialize.loads([file.getvalue(), *out_of_band.buffers])[0]["deep"]
    assert loaded[0] is loaded[1]
    assert len(loaded[0]) == (1 if sent else 1000)


def test_arrays_of_objects_are_never_replaced():
    arrays = _Arrays(Lease)
    array = np.array([{}] * 10, object)
    for _ in range(3):
        _Pickler(io.BytesIO(), OutOfBand(), arrays, 8).dump(array)
    assert not arrays._known


def test_the_default_name_means_both(lbv):
    lbv.register_joblib_backend()
    for name in ("ipyparallel", "pxcluster"):
        with parallel_config(name):
            assert Parallel()(delayed(abs)(-n) for n in range(20)) == list(range(20))
            assert joblib.effective_n_jobs() == 4


def test_a_name_of_ones_own(lbv):
    lbv.register_joblib_backend("mine")
    assert "mine" in joblib.parallel.BACKENDS
    assert "pxcluster" not in joblib.parallel.BACKENDS
    with pytest.raises(ValueError, match="n_jobs == 0"), parallel_config("mine"):
        Parallel(n_jobs=0)(delayed(abs)(n) for n in range(3))


def test_the_default_backend(lbv):
    lbv.register_joblib_backend("mine", make_default=True)
    assert isinstance(joblib.parallel.get_active_backend()[0], PxclusterBackend)
    assert Parallel()(delayed(abs)(-n) for n in range(5)) == list(range(5))


def test_a_call_that_cannot_travel_raises_in_the_first_batches_and_in_later_ones(lbv):
    lbv.register_joblib_backend()
    lock = threading.Lock()
    with parallel_config("pxcluster"):
        with pytest.raises(pxcluster.SerializationError, match="lock"):
            Parallel()(delayed(abs)(lock) for _ in range(3))
        with pytest.raises(pxcluster.SerializationError, match="lock"):
            Parallel(batch_size=1)(delayed(abs)(lock if n == 100 else n) for n in range(200))
        assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_an_error_of_the_users_generator_raises_here(lbv):
    def calls():
        for n in range(100):
            yield delayed(abs)(n)
        raise LookupError("no more")

    lbv.register_joblib_backend()
    with parallel_config("pxcluster"), pytest.raises(LookupError, match="no more"):
        Parallel(batch_size=1)(calls())


def test_the_cluster_may_be_gone(rc, lbv):
    lbv.register_joblib_backend()
    with parallel_config("pxcluster"):
        rc.close()
        with pytest.raises(pxcluster.ConnectionLost):
            Parallel()(delayed(abs)(n) for n in range(3))


def test_without_a_view_the_default_cluster_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("PXCLUSTER_DIR", str(tmp_path))
    monkeypatch.delenv("PXCLUSTER_CLUSTER_ID", raising=False)
    asked = []
    monkeypatch.setattr("pxcluster.joblib.Client", lambda path: asked.append(path) or pytest.fail("no client"))
    pxcluster.register_joblib_backend()
    with pytest.raises(pytest.fail.Exception), parallel_config("pxcluster"):
        pass
    assert asked == [str(tmp_path / "default" / "connection.json")]
