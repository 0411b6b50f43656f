from unios.counted import cores, counted, is_or_are


def test_one_is_one_and_all_else_is_many() -> None:
    assert [counted(number, "node") for number in (0, 1, 2, 12_345_678)] == ["0 nodes", "1 node", "2 nodes", "12345678 nodes"]
    assert [counted(number, "process", several="processes") for number in (1, 3)] == ["1 process", "3 processes"]
    assert [cores(milli) for milli in (250, 1_000, 1_500, 64_000)] == ["0.25 cores", "1 core", "1.5 cores", "64 cores"]
    assert [is_or_are(number) for number in (0, 1, 2)] == ["are", "is", "are"]
