"""What the benchmarks of tasks and of objects make of what they measured."""

import threading
import xml.etree.ElementTree as ElementTree

import pytest
from benchmarks.peers import Figure

from benchmarks import objects, plots, tasks, usage


def test_parts_that_are_python_s_own_are_one() -> None:
    found = tasks.merged({"kernel": 1.0, "python3": 2.0, "python": 3.0, "store": 0.5})
    assert list(found.items()) == [(tasks.WORKER_PART, 5.0), ("kernel", 1.0), ("store", 0.5)]


def test_a_sentence_on_where_the_time_goes_has_the_whole_and_leaves_out_what_is_small() -> None:
    used = {"engine": 0.060, "workers": 0.0394, "store": 0.0006}
    assert tasks.spent("a task", used, 1_000) == "Processor time of a task: 100 us (engine 60 us, workers 39 us)."
    assert tasks.weighty({"idle": 0.0}) == {}


def test_floods_are_of_one_item_a_task() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert tasks.mapped(pool)() == tasks.submitted(pool)() == [0] * tasks.FLOOD


def test_the_threads_of_this_process_are_told_by_name() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="a thread of the test")
    thread.start()
    try:
        assert {"a thread of the test", threading.current_thread().name} <= set(usage.thread_s())
    finally:
        over.set()
        thread.join()


def test_ranks_of_phases_are_in_milliseconds() -> None:
    taken = [{"put_s": 0.001, "get_s": 0.5}, {"put_s": 0.003, "get_s": 0.1}, {"put_s": 0.002, "get_s": 0.2}]
    assert objects.ms(taken, "put_s", 50) == 2.0
    assert objects.ms(taken, "get_s", 99) == 500.0


def test_larger_objects_are_handed_over_less_often_but_never_less_than_four_times() -> None:
    times = [objects.times_of(size) for size in objects.SIZES]
    assert times == sorted(times, reverse=True)
    assert times[0] == objects.SIZED_TIMES_MAX and times[-1] == 4 == objects.times_of(10**12)


def test_sizes_have_units() -> None:
    assert [objects.size_of(size) for size in (1_000, 100_000, 1_000_000, 100_000_000)] == ["1 kB", "100 kB", "1 MB", "100 MB"]


def test_the_line_of_ray_has_what_ray_said_of_sizes_in_order() -> None:
    figures = [
        Figure("ray", "hand_over_MBs_1000000", 500.0, "MB/s", 9),
        Figure("ray", "hand_over_MBs_1000", 1.0, "MB/s", 9),
        Figure("ray", "array100MiB_p50", 11.0, "ms", 9),
        Figure("memfd", "hand_over_MBs_1000", 2.0, "MB/s", 9),
    ]
    assert objects.ray_line(figures) == [(1000.0, 1.0), (1_000_000.0, 500.0)]


def test_memory_of_a_process_is_that_which_no_file_has() -> None:
    pytest.importorskip("numpy")
    from benchmarks.object_parts import anonymous_mb

    text = "1000-2000 ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nAnonymous:  1000 kB\nLazyFree:  0 kB\n"
    assert anonymous_mb(text) == 1.024
    with pytest.raises(ValueError, match="anonymous"):
        anonymous_mb("Rss: 9000 kB\n")


def test_a_plot_has_a_line_for_each_with_every_point_inside() -> None:
    lines = {"ours": [(1.0, 100.0), (8.0, 400.0)], "theirs": [(1.0, 1000.0), (4.0, 900.0), (8.0, 10.0)]}
    root = ElementTree.fromstring(plots.svg("title", "across", "up", lines))
    drawn = [one.attrib["points"].split() for one in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in drawn] == [2, 3]
    for point in (point for points in drawn for point in points):
        x, y = map(float, point.split(","))
        assert 0 <= x <= int(root.attrib["width"]) and 0 <= y <= int(root.attrib["height"])
    assert {"ours", "theirs", "10^0", "10^3"} <= {one.text for one in root.iter("{http://www.w3.org/2000/svg}text")}
