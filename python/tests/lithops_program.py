"""A Lithops program, run as a process of its own: Lithops keeps files in HOME and TMPDIR, which the test chooses."""

import io
import os
from pathlib import Path

import lithops
from lithops.constants import JOBS_PREFIX

import farloom
import farloom.lithops

CONFIG = {"lithops": {"backend": "farloom", "storage": "farloom", "monitoring_interval": 0.1, "data_cleaner": False}}


def square(x):
    return x * x, os.getpid()


def total(results):
    return sum(value for value, _ in results)


def broken(x):
    raise KeyError(f"call {x}")


def dies(x):
    os.kill(os.getppid(), 9)


def stored(obj):
    return len(obj.data_stream.read())


def keep(name, storage):
    storage.put_object(storage.bucket, f"own/{name}", name.upper())
    return storage.list_keys(storage.bucket, "own/")


def compute() -> str:
    with lithops.FunctionExecutor(config=CONFIG) as fexec:
        futures = fexec.map(square, range(6))
        results = fexec.get_result()
        # Lithops cleans up by a process of its own, which knows of our storage by what it reads.
        fexec.clean(fs=futures)
        cleaned = f"{JOBS_PREFIX}/{futures[0].executor_id}-{futures[0].job_id}"
        assert [value for value, _ in results] == [0, 1, 4, 9, 16, 25]
        assert os.getpid() not in {pid for _, pid in results}
        fexec.map_reduce(square, range(5), total)
        assert fexec.get_result() == 30
        assert fexec.call_async(keep, "a").result() == ["own/a"]
        for function, error in ((broken, KeyError), (dies, farloom.WorkerDiedError)):
            future = fexec.call_async(function, 3)
            try:
                future.result()
            except error as raised:
                print(f"{function.__name__} raised {raised!r}")
            else:
                raise AssertionError(f"{function.__name__} raised nothing")
    return cleaned


def storage() -> None:
    store = lithops.Storage(config=CONFIG)
    store.put_object("b", "k/1", b"0123456789")
    store.put_object("b", "k/2", "text")
    store.put_object("b", "k/3", io.BytesIO(b"file"))
    store.put_object("b", "l", io.StringIO("lines"))
    assert [store.get_object("b", key) for key in ("k/2", "k/3", "l")] == [b"text", b"file", b"lines"]
    for wanted, found in (("0-3", b"0123"), ("4-", b"456789"), ("-2", b"89"), ("8-100", b"89")):
        assert store.get_object("b", "k/1", extra_get_args={"Range": f"bytes={wanted}"}) == found
    stream = store.get_object("b", "k/1", stream=True, extra_get_args={"Range": "bytes=2-8"})
    assert (stream.read(3), stream.read()) == (b"234", b"5678")
    assert store.head_object("b", "k/1")["content-length"] == "10"
    assert store.list_keys("b") == ["k/1", "k/2", "k/3", "l"]
    assert [(item["Key"], item["Size"]) for item in store.list_objects("b", "k/")] == [
        ("k/1", 10),
        ("k/2", 4),
        ("k/3", 4),
    ]
    for call in (store.get_object, store.head_object):
        try:
            call("b", "none")
        except lithops.storage.utils.StorageNoSuchKeyError:
            pass
        else:
            raise AssertionError("nothing was raised")
    Path("here").write_bytes(b"a file")
    assert store.upload_file("here", "b", "up")
    assert store.download_file("b", "up", "new/there")
    assert Path("new/there").read_bytes() == b"a file"
    assert not store.download_file("b", "none", "nothing")
    again = store.get_cloudobject(store.put_cloudobject(b"cloud"))
    assert again == b"cloud"
    # Lithops cuts an object of the store for its map, at the ends of lines.
    store.put_object("b", "lines", b"1234\n" * 40)
    with lithops.FunctionExecutor(config=CONFIG | {"farloom": {"buckets": ["b"]}}) as fexec:
        fexec.map(stored, "farloom://b/lines", obj_chunk_number=2)
        assert sorted(fexec.get_result()) == [100, 100]
    store.delete_object("b", "l")
    store.delete_objects("b", ["k/1", "k/2", "k/3", "lines", "up"])
    assert store.list_keys("b") == []


if __name__ == "__main__":
    cleaned = compute()
    storage()
    lithops.FunctionExecutor._cleaner_process.wait(60)
    assert not lithops.Storage(config=CONFIG).list_keys("lithops", cleaned)
    print("all is well")
