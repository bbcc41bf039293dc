"""The summary of a GPU's trace: its kinds of kernels, and when none ran."""

import pytest

from benchmarks import operations


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm80_xmma_fprop_implicit_gemm_f32f32", "convolutions"),
        ("nvjet_sm90_tst_192x128_64x5_1x2_h_bx", "matrix products"),
        ("input_reduce_select_fusion_10", "sums and reductions"),
        ("loop_add_fusion_8", "elementwise"),
        ("MemcpyD2D", "copies"),
        ("something_else", "others"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name, kind):
    assert operations.kind_of(name) == kind


def test_time_in_which_several_kernels_run_counts_once():
    events = [("a", 5.0, 6.0), ("b", 0.0, 2.0), ("c", 1.0, 3.0), ("d", 1.5, 2.5)]
    assert operations.busy(events) == 4.0


def test_the_table_begins_with_what_took_longest():
    lines = operations.table({"a": 1.0, "b": 3.0, "c": 2.0}, 8.0, 2).splitlines()
    assert [line.split() for line in lines] == [["37.5", "%", "b"], ["25.0", "%", "c"]]


def test_a_folder_without_a_trace_is_named(tmp_path):
    with pytest.raises(ValueError, match="no .*xplane"):
        operations.kernels(tmp_path)
