"""Tables of published latencies: how rows are read as sums over parts, and what is said of them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.latency_tables import KNOWN, Without, one_hot, ours, reachable, scores, spread
from benchmarks.latency_tables_page import PAGE, RESULT, page
from benchmarks.published_latencies import (
    GRAPH_FORMS,
    Device,
    Form,
    MBConv,
    Table,
    accel,
    blocks,
    check_counts,
    convolutions,
    exchanged,
    graph,
    graph_form,
    graph_nodes,
    padded,
    pixel,
    published_counts,
    timm,
    usual_words,
)
from evaluator import latency_regression
from evaluator.latency_regression import Features

GAT, GCN, GIN, FC, SKIP = 0, 1, 2, 7, 8


def mnasnet(expand, kernel, layers, squeeze) -> dict[str, int]:
    genes = zip(expand, kernel, layers, squeeze, strict=True)
    return {
        f"b{stage}_{name}": value
        for stage, values in enumerate(genes)
        for name, value in zip(["e", "k", "l", "se"], values, strict=True)
    }


B0 = mnasnet((1, 6, 6, 6, 6, 6, 6), (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 3, 3, 4, 1), 7 * (1,))
PLAIN = mnasnet(7 * (4,), 7 * (3,), 7 * (2,), 7 * (0,))


# ---- MnasNet-like networks


def test_counts_of_efficientnet_b0():
    """5,288,548 parameters and 0.386 billion MACs in the documentation of torchvision."""
    macs, params = published_counts(B0)
    assert params == 5_288_548
    found = [block for _, block in blocks(B0)]
    normalised = sum(4 * (b.expanded + b.inner + b.outer) for b in found)
    gates = sum(b.inner + b.hidden for b in found)
    ends = 4 * 32 * 112**2 + 1280 * (4 * 49 + 49 + 1)
    assert round((macs - normalised - gates - ends) / 1e9, 3) == 0.386


def test_costs_of_a_block():
    block = MBConv(cin=4, cout=6, expand=3, kernel=5, stride=2, squeeze=1, side=8)
    assert (block.hidden, block.out_side, block.squeezed) == (12, 4, 1)
    assert block.pointwise_macs == 4 * 12 * 64 + 12 * 6 * 16
    assert block.depthwise_macs == 12 * 25 * 16
    gate = 12 + 1 + 12 + 12  # two layers with biases
    assert block.params == (4 * 12 + 24) + (12 * 25 + 24) + gate + (12 * 6 + 12)
    first = MBConv(cin=4, cout=6, expand=1, kernel=3, stride=1, squeeze=0, side=8)
    assert (first.expanded, first.pointwise_macs) == (0, 4 * 6 * 64)


@pytest.fixture
def mnasnets(tmp_path):
    """Three rows, the last as the first."""
    rows = []
    for number, genes in enumerate((B0, PLAIN, B0)):
        macs, params = published_counts(genes)
        speeds = {
            f"throughput_{name}": 100.0 + number
            for name in ("a100", "3090", "tpuv2", "tpuv3", "zcu102", "vck190")
        }
        stated = {f"throughput_{n}_std": 1.0 for n in ("a100", "3090", "tpuv2", "tpuv3")}
        latencies = {"latency_zcu102": [2.0, np.nan, 2.5][number], "latency_vck190": 1.0}
        counted = {"macs_m": macs / 1e6, "params_m": params / 1e6}
        rows.append(
            {"id": [0, 3800, 5000][number], **genes, **counted, **speeds, **stated, **latencies}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "accel_nasbench.csv.gz", index=False)
    return tmp_path


def test_rows_are_sums_of_blocks(mnasnets):
    table = accel(mnasnets)
    form = table.forms[0]
    assert (form.rows[0] >= 0).sum() == 16
    np.testing.assert_array_equal(form.rows[0], form.rows[2])
    later = form.rows[1][1::2][:7]  # the second of each stage repeats width and resolution
    assert (form.parts.categories[later, 5] == 1).all()
    macs = form.parts.amounts[form.rows[1][:14], :2].sum()
    block = [MBConv(16, 24, 4, 3, 2, 0, 112), MBConv(24, 24, 4, 3, 1, 0, 56)]
    assert macs > sum(b.pointwise_macs + b.depthwise_macs for b in block)


def test_what_was_measured(mnasnets):
    table = accel(mnasnets)
    assert table.repeats.tolist() == [[0, 2]]
    assert table.devices["a100, throughput"].ms[1] == pytest.approx(1000 / 101)
    assert table.devices["a100, throughput"].stated[1] == pytest.approx(1 / 101)
    assert table.devices["zcu102, latency"].rows().tolist() == [0, 2]
    assert table.devices["tpuv3, throughput, first run"].rows().tolist() == [0]
    assert table.devices["tpuv3, throughput, last run"].rows().tolist() == [2]
    assert check_counts(mnasnets) == {"rows": 3, "macs": 3, "params": 3}


# ---- graph networks


def test_what_is_known_of_nodes():
    nodes = graph_nodes(8, [GIN, GCN, FC, FC])  # a chain
    assert [node["waited"] for node in nodes] == [1, 0, 0, 0]
    assert [node["after"] for node in nodes] == [0, 0, 1, 1]
    assert [node["root"] for node in nodes] == [1, 0, 0, 0]
    assert [node["leaf"] for node in nodes] == [0, 0, 0, 1]
    nodes = graph_nodes(2, [SKIP, GAT, FC, FC])  # 0011: both leaves behind the first, a skip
    assert [node["root"] for node in nodes] == [1, 1, 1, 1]
    assert [node["leaf"] for node in nodes] == [0, 1, 1, 1]


@pytest.mark.parametrize("form", GRAPH_FORMS)
def test_equal_nodes_are_one_part(form):
    found = graph_form(form, [graph_nodes(0, [FC, FC, FC, GCN]), graph_nodes(0, [FC, FC, FC, GCN])])
    np.testing.assert_array_equal(found.rows[0], found.rows[1])
    assert len(set(found.rows[0].tolist())) == (4 if "place" in form else 2)


def test_exchanged_operators_of_chains():
    rows = [
        [8, GCN, GIN, FC, FC],
        [8, GCN, FC, GIN, FC],
        [8, GCN, GCN, FC, FC],  # one that waits
        [8, GCN, FC, GCN, FC],
        [0, GCN, GIN, FC, FC],  # not a chain
        [8, GCN, GIN, 5, FC],  # the other order is not there
    ]
    assert exchanged(np.array(rows)).tolist() == [[0, 1]]


def test_graph_networks_are_read(tmp_path):
    tasks = ["cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv"]
    row = {"arch_id": 0, "link": 8, "op1": 2, "op2": 1, "op3": 7, "op4": 7}
    row |= {f"{task}_latency_s": 0.002 for task in tasks} | {f"{t}_params_m": 0.1 for t in tasks}
    pd.DataFrame([row]).to_csv(tmp_path / "nasbench_graph.csv.gz", index=False)
    table = graph(tmp_path)
    assert table.devices["arxiv"].ms.tolist() == [2.0]
    assert [form.rows.shape for form in table.forms] == [(1, 4)] * 4


# ---- single parts


def test_convolutions_are_read(tmp_path):
    row = {"kind": "R", "batch": 2, "cin": 3, "h": 9, "w": 9, "cout": 8, "kernel": 3, "stride": 2}
    row |= {"fused_add": 1, "fp32_ms": 0.1, "fp16_ms": np.nan, "int8_ms": 0.2}
    pd.DataFrame([row, row | {"kind": "D", "cin": 8}]).to_csv(
        tmp_path / "v100_conv_latency.csv.gz", index=False
    )
    table = convolutions(tmp_path)
    assert table.size.tolist() == [2 * 25 * 8 * 3 * 9, 2 * 25 * 8 * 9]
    assert table.devices["fp16"].rows().tolist() == []
    assert table.forms[0].parts.categories[:, 0].tolist() == [0, 1]


def test_blocks_of_a_phone_are_read(tmp_path):
    block = {"block": "mbconv", "count": 100, "mean_ms": 2.0, "var_ms2": 0.04, "in_hw": 8}
    block |= {"cin": 4, "out_hw": 4, "cout": 6, "expand": 3, "kernel": 5, "stride": 2, "idskip": 0}
    other = {"block": "Conv", "count": 5, "mean_ms": 1.0, "var_ms2": 0.1}
    pd.DataFrame([other, block]).to_csv(tmp_path / "proxyless_pixel_lut.csv.gz", index=False)
    table = pixel(tmp_path)
    assert table.devices["Pixel"].ms.tolist() == [2.0]
    assert table.devices["Pixel"].stated.tolist() == [pytest.approx(0.01)]
    assert table.size.tolist() == [4 * 12 * 64 + 12 * 25 * 16 + 12 * 6 * 16]


def test_models_of_timm_are_read_once(tmp_path):
    speeds = ["rtx3090_amp_pt24", "rtx4090_amp_pt24", "rtx4090_amp_dynamo_pt24", "rtx5090_amp_pt29"]
    speeds += ["rtx5090_amp_dynamo_pt29", "i9_10940x_fp32_b1_pt24"]
    rows = [
        {"arch": arch, "img_size": 224, "gmacs": 4.0, "macts_m": 10.0, "param_count": 25.0}
        | {f"ips_{name}": 500.0 for name in speeds}
        for arch in ("resnet50", "resnet50", "resnet101", "vit_base_patch16")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "timm_imagenet.csv.gz", index=False)
    table = timm(tmp_path)
    assert table.codes[:, 0].tolist() == [0, 0, 1]
    assert table.devices["RTX 3090, eager"].ms.tolist() == [2.0, 2.0, 2.0]


def test_words_of_names():
    names = [f"resnet{n}d" for n in range(10)] + ["vit_tiny"]
    assert usual_words(names).tolist() == 10 * [[1, 1]] + [[0, 0]]


# ---- predictors and scores


def additive(forms: int) -> Table:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (400, 5))
    rows = codes + 4 * np.arange(5)
    parts = Features.of(np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)[:, None])
    ms = 0.3 + np.exp(rng.normal(size=20))[rows].sum(axis=1)
    size = np.ones(400)
    return Table(
        *("test", "test", "", ""), codes, size[:, None], size, forms * [Form(parts, rows)],
        {"device": Device(ms)},
    )  # fmt: skip


@pytest.mark.parametrize("forms", [1, 2])
def test_sums_are_predicted(forms):
    table = additive(forms)
    ms = table.devices["device"].ms
    found = ours(table, ms, np.arange(KNOWN), np.arange(KNOWN, 400))
    assert scores(found, ms[KNOWN:])["spearman"] > 0.999


def test_scores():
    ms = np.array([1.0, 2.0, 3.0, 4.0])
    found = scores(np.log(ms * np.array([1.0, 1.07, 0.97, 1.2])), ms)
    assert found["spearman"] == pytest.approx(1)
    assert found["median_error"] == pytest.approx(0.05)
    assert (found["within_10"], found["within_5"]) == (0.75, 0.5)
    assert spread([{"a": 1.0}, {"a": 2.0}]) == {"a": {"mean": 1.5, "low": 1.0, "high": 2.0}}


def test_what_can_be_reached():
    table = additive(1)
    device = table.devices["device"]
    stated = replace(device, stated=np.full(400, 0.01))
    repeated = replace(table, repeats=np.stack([np.arange(200), np.arange(200)], axis=1))
    found = reachable(repeated, stated)
    assert found["repeats"] == {"pairs": 200, "error": 0.0, "spearman": pytest.approx(1)}
    assert found["stated"]["error"] == pytest.approx(0.01)
    assert 0.98 < found["stated"]["spearman"] < 1


def test_one_hot_codes():
    table = additive(1)
    assert one_hot(table, np.arange(400)).shape == (400, 21)


def test_constants_are_put_back():
    before = latency_regression._PASSES
    with Without(_PASSES=1):
        assert latency_regression._PASSES == 1
    assert before == latency_regression._PASSES


def test_padded_rows():
    assert padded([[1], [2, 3]]).tolist() == [[1, -1], [2, 3]]


def test_the_page_is_made_from_the_committed_results():
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(RESULT.read_text(encoding="utf-8")))
