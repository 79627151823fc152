"""Stock binaries: their output in the spellings of their releases, cut and broken output, and how they are called."""

from __future__ import annotations

import pytest

from devices.android.stock import (
    Delegation,
    StockResult,
    benchmark_model_command,
    executor_runner_command,
    perf_test_command,
    read_benchmark_model,
    read_executor_runner,
    read_perf_test,
    read_perf_test_file,
)
from toolkit.errors import DeviceError

EXECUTORCH = [
    "Model loaded in 12.345678 ms.",
    "Iteration 1 of 3: 5.250000 ms",
    "Iteration 2 of 3: 5.000000 ms",
    "Iteration 3 of 3: 4.750000 ms",
    "Model executed successfully 3 time(s) in 15.000000 ms.",
]
PREFIXES = {
    "none": "",
    "terminal": "I 00:00:00.001717 executorch:executor_runner.cpp:82] ",
    "logcat": "11-29 04:36:01.123  4242  4243 I ExecuTorch: ",
    "logcat brief": "I/ExecuTorch( 4242): ",
}
EXPECTED = StockResult(
    "executor_runner", runs=3, mean_ms=5.0, load_ms=12.345678, iterations_ms=[5.25, 5.0, 4.75], passed=None
)


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=list(PREFIXES))
def test_executor_runner_is_read_behind_any_prefix(prefix: str) -> None:
    text = "--------- beginning of main\n" + "".join(f"{prefix}{line}\n" for line in EXECUTORCH)

    assert read_executor_runner(text) == EXPECTED


def test_of_several_runs_in_a_log_the_last_is_read() -> None:
    earlier = [
        "Model loaded in 99.0 ms.",
        "Iteration 1 of 1: 7.0 ms",
        "Model executed successfully 1 time(s) in 7.0 ms.",
    ]

    assert read_executor_runner("\n".join(earlier + EXECUTORCH)) == EXPECTED


def test_a_log_that_dropped_an_iteration_gives_the_mean_and_no_list() -> None:
    read = read_executor_runner("\n".join(line for line in EXECUTORCH if "2 of 3" not in line))

    assert (read.runs, read.mean_ms, read.iterations_ms) == (3, 5.0, [])


def test_a_run_whose_own_load_was_cut_off_is_not_given_the_load_of_another() -> None:
    with pytest.raises(DeviceError, match=r"executor_runner: .*last line was 'Iteration 1 of 9: 3.0 ms'"):
        read_executor_runner("\n".join([*EXECUTORCH, "Model loaded in 1.0 ms.", "Iteration 1 of 9: 3.0 ms"]))


def test_executor_runner_tells_differences_from_expected_outputs() -> None:
    stats = ["=== Error stats for testset 0 ===", " mean_absolute_error: 0.000012", " max_absolute_error: 1.5e-05"]
    text = "\n".join([*EXECUTORCH, *stats, " max_relative_error: nan", "TEST: BundleIO index[0] Test_result: PASS"])

    read = read_executor_runner(text)

    assert read.passed is True
    assert read.errors["mean_absolute_error"] == 0.000012
    assert read.errors["max_absolute_error"] == 1.5e-05
    assert read.errors["max_relative_error"] != read.errors["max_relative_error"]
    assert read_executor_runner(text.replace("PASS", "FAIL")).passed is False


def test_a_number_at_the_place_where_a_message_is_cut_is_left_out() -> None:
    message = "mean_absolute_error: 0.25 " + "x" * 250
    cut = message[:200] + " max_absolute_error: 0.123456789012345678901234567890123456789"[: 255 - 200]
    assert len(cut) == 255

    for prefix in PREFIXES.values():
        read = read_executor_runner("\n".join([*EXECUTORCH, prefix + cut]))

        assert read.errors == {"mean_absolute_error": 0.25}


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", "it printed nothing"),
        ("Aborted\n\n", "its last line was 'Aborted'"),
        ("Model loaded in 12.3 ms.\nExecution of method forward failed with status 0x12", "failed with status 0x12'"),
        ("\n".join(EXECUTORCH)[:-8], "its last line was 'Model executed successfully 3 time(s) in 15.00'"),
        ("Model executed successfully 0 time(s) in 0.0 ms.", "0 time(s) in 0.0 ms.'"),
    ],
)
def test_executor_runner_without_figures_is_an_error_that_quotes_its_last_line(text: str, last: str) -> None:
    with pytest.raises(DeviceError, match=r"^executor_runner: ") as raised:
        read_executor_runner(text)

    assert last in str(raised.value)


NEW = """Session creation time cost: 0.512 s
First inference time cost: 12 ms
Total inference time cost: 5.88053 s
Total inference requests: 1000
Average inference time cost total: 5.88053 ms
Total inference run time: 5.88102 s
Number of inferences per second: 170.04
Avg CPU usage: 98 %
Peak working set size: 123456789 bytes
Min Latency: 0.0055 s
Max Latency: 0.0625 s
P50 Latency: 0.0058 s
P999 Latency: 6.25e-02 s
"""
OLD = """Setting intra_op_num_threads to 0
Session creation time cost:1.84149 s
Total inference time cost:0.734606 s
Total inference requests:1
Average inference time cost:734.606 ms
Total inference run time:0.734761 s
"""
MUCH_OLDER = """Total time cost:58.8053
Total iterations:1000
Average time cost:58.8053 ms
Total run time:58.8102 s
Min Latency is 0.0559777sec
P50 Latency is 0.0587108 sec
"""


def test_perf_test_is_read_as_it_prints_today() -> None:
    read = read_perf_test(NEW)

    assert (read.runs, read.mean_ms, read.load_ms, read.first_ms) == (1000, 5.88053, 512.0, 12.0)
    assert read.peak_bytes == 123456789
    assert read.spread_ms == pytest.approx({"min": 5.5, "max": 62.5, "p50": 5.8, "p999": 62.5})


def test_perf_test_is_read_as_it_printed_before() -> None:
    read = read_perf_test(OLD)

    assert (read.runs, read.mean_ms, read.load_ms, read.first_ms) == (1, 734.606, 1841.49, None)
    assert read.peak_bytes is None
    assert read.spread_ms == {}


def test_perf_test_is_read_as_it_printed_long_ago() -> None:
    read = read_perf_test(MUCH_OLDER)

    assert (read.runs, read.mean_ms, read.load_ms) == (1000, 58.8053, None)
    assert read.spread_ms == pytest.approx({"min": 55.9777, "p50": 58.7108})


def test_a_result_file_gives_each_run() -> None:
    read = read_perf_test(OLD, "model,0.5,1000,98,0\n")

    assert read.iterations_ms == [500.0]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("m,0.5,1000,98,0\nm,0.25,1000,98,1\n", [500.0, 250.0]),
        ("m,0.1,0.5,1000,98,0\nm,0.1,2.5e-01,1000,98,1\n", [500.0, 250.0]),  # submitted, then ended
        ("a,b,0.5,1000,98%,0\n", [500.0]),
    ],
)
def test_result_files_of_older_and_newer_releases_are_read(text: str, times: list[float]) -> None:
    assert read_perf_test_file(text) == times


@pytest.mark.parametrize("text", ["", "m,0.5", "m,0.1,0.5,1000,98,0\nm,0.1,0.25,1000,98", "<html>"])
def test_a_result_file_that_was_cut_is_an_error(text: str) -> None:
    with pytest.raises(DeviceError, match=r"^onnxruntime_perf_test: "):
        read_perf_test_file(text)


@pytest.mark.parametrize("text", ["", NEW[:100], "Load model failed: Protobuf parsing failed."])
def test_perf_test_without_figures_is_an_error_that_quotes_its_last_line(text: str) -> None:
    last = text.splitlines()[-1] if text else "it printed nothing"

    with pytest.raises(DeviceError, match=r"^onnxruntime_perf_test: ") as raised:
        read_perf_test(text)

    assert last in str(raised.value)


LITERT = """INFO: STARTING!
VERBOSE: Replacing 27 out of 31 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=2 first=360262 curr=248950 min=248950 max=360262 avg=304606 std=55656
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=249042 curr=249710 min=248560 max=1.24e+06 avg=249684 std=1442 p5=248900 median=249600 p95=251000
INFO: Inference timings in us: Init: 16242, First inference: 360262, Warmup (avg): 304586, Inference (avg): 249684
"""


def test_benchmark_model_is_read_in_its_microseconds() -> None:
    read = read_benchmark_model(LITERT)

    assert (read.runs, read.mean_ms) == (50, 249.684)
    assert (read.load_ms, read.first_ms, read.warmup_ms) == (16.242, 360.262, 304.586)
    assert read.spread_ms == {"min": 248.56, "max": 1240.0, "p5": 248.9, "p50": 249.6, "p95": 251.0}
    assert read.delegations == [Delegation("TfLiteXNNPackDelegate", 27, 31)]


def test_benchmark_model_of_a_release_without_percentiles_and_delegate_is_read() -> None:
    lines = [
        line for line in LITERT.replace(" p5=248900 median=249600 p95=251000", "").splitlines() if "Repl" not in line
    ]

    read = read_benchmark_model("\n".join(lines))

    assert read.mean_ms == 249.684
    assert set(read.spread_ms) == {"min", "max"}
    assert read.delegations == []


def test_large_averages_of_benchmark_model_are_read_with_their_exponent() -> None:
    assert read_benchmark_model(LITERT.replace("avg=249684", "avg=1.24e+06")).mean_ms == 1240.0


def test_a_table_of_operators_is_not_taken_for_the_timing() -> None:
    table = "Timings (microseconds): count=50 first=1 curr=1 min=1 max=1 avg=1 std=0\nMemory (bytes): count=0\n"

    assert read_benchmark_model(LITERT + table).mean_ms == 249.684


def test_a_single_run_of_benchmark_model_is_read() -> None:
    text = LITERT.replace("INFO: count=50 first=249042", "INFO: count=1 curr=5000\nINFO: note first=249042")

    assert (read_benchmark_model(text).runs, read_benchmark_model(text).mean_ms) == (1, 5.0)


def test_benchmark_model_is_read_as_it_printed_long_ago() -> None:
    text = "count=50 first=23000 curr=23400 min=23000 max=24000 avg=23313.5 std=200\n"
    text += "Average inference timings in us: Warmup: 27917.4, Init: 21528106, no stats: 23313.5\n"

    read = read_benchmark_model(text)

    assert (read.mean_ms, read.load_ms, read.warmup_ms) == (23.3135, 21528.106, 27.9174)


@pytest.mark.parametrize("text", ["", LITERT[:400], LITERT[: LITERT.index("Warmup (avg)")], "ERROR: Failed to load"])
def test_benchmark_model_without_figures_is_an_error_that_quotes_its_last_line(text: str) -> None:
    last = text.splitlines()[-1].strip()[:100] if text else "it printed nothing"

    with pytest.raises(DeviceError, match=r"^benchmark_model: ") as raised:
        read_benchmark_model(text)

    assert last in str(raised.value)


def test_executor_runner_is_called_with_files_where_there_are_some() -> None:
    assert executor_runner_command("./executor_runner", "m.pte", 20, 4, ["a.bin", "b.bin"], "out", "t.etdp") == [
        "./executor_runner",
        "--model_path=m.pte",
        "--num_executions=20",
        "--cpu_threads=4",
        "--inputs=a.bin,b.bin",
        "--output_file=out",
        "--etdump_path=t.etdp",
        "--print_output=none",
    ]
    assert not any("inputs" in word for word in executor_runner_command("./executor_runner", "m.pte", 1, 1))


def test_perf_test_is_called_with_model_and_result_last() -> None:
    command = perf_test_command("./onnxruntime_perf_test", "m.onnx", "result.csv", 20, 4, profile="profile")

    assert command[-2:] == ["m.onnx", "result.csv"]
    assert command[command.index("-r") + 1] == "20"
    assert command[command.index("-x") + 1] == "4"
    assert command[command.index("-p") + 1] == "profile"


def test_benchmark_model_is_called_on_one_kind_of_processor() -> None:
    command = benchmark_model_command("./benchmark_model", "m.tflite", 20, 3, 4, delegate="gpu")

    assert command[1:5] == ["--graph=m.tflite", "--num_runs=20", "--warmup_runs=3", "--num_threads=4"]
    assert {"--use_gpu=true", "--use_xnnpack=false"} <= set(command)
