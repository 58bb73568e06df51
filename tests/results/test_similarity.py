"""How alike finalists are, in words and in the report."""

import json

import pytest

from results import similarity
from results.run_folder import RunFolder
from tests.results.test_report import EVIL, make_run, write

LAYERS = ["stem", "stage 1", "head input"]


def found(count=3, names=None):
    names = names or ["A", "B", "C", "D", "E", "F", "G"][:count]
    size = count * len(LAYERS)
    cka = [
        [1.0 if i == j else round(1 / (2 + abs(i - j)), 3) for j in range(size)]
        for i in range(size)
    ]
    kappa = [[1.0 if i == j else 0.1 * (i + j) for j in range(count)] for i in range(count)]
    return {
        "format": 1,
        "networks": [
            {"name": name, "digest": name.lower(), "accuracy": 0.9, "layers": LAYERS}
            for name in names
        ],
        "cka": cka,
        "kappa": kappa,
        "kappa_by_chance": [[0.05] * count for _ in range(count)],
        "about": {
            "split": "test",
            "images": 3590,
            "cka_images": 2048,
            "minibatch": 128,
            "steps": 9,
            "seed": 1,
        },
    }


def test_sentences():
    errors, features, made = similarity.sentences(found())
    assert errors == (
        "Most alike are the errors of B and C (kappa 0.30), least those of A and B (0.10)."
    )
    # Places 2, 5 and 8 are what the classifiers read: 1/5 for neighbours, 1/8 for A and C.
    assert "B and C (CKA 0.20)" in features or "A and B (CKA 0.20)" in features
    assert "A and C (0.12)" in features
    assert "3,590 test images (by chance, ±0.10 in 95% of cases), CKA of 2,048" in made
    errors, _, _ = similarity.sentences(found(2))
    assert errors == "The errors of A and B: kappa 0.10."
    (nothing,) = similarity.sentences(None)
    assert "Fewer than two networks came to the end" in nothing


def test_what_cannot_be_told():
    plain = found(2)
    plain["cka"][2][5] = None
    plain["kappa_by_chance"] = [[None, None], [None, None]]
    errors, made = similarity.sentences(plain)
    assert "errors" in errors
    assert "by chance" not in made
    section = similarity.section(plain)
    (pair,) = section["maps"]
    assert pair["rows"][2]["cells"][2] == {"text": "–", "shade": 0}


def test_section():
    assert similarity.section(None) is None
    section = similarity.section(found())
    assert section["names"] == ["A", "B", "C"]
    assert [(one["row"], one["column"]) for one in section["maps"]] == [
        ("A", "B"),
        ("A", "C"),
        ("B", "C"),
    ]
    assert [one["row"] for one in section["own"]] == ["A", "B", "C"]
    first = section["maps"][0]
    assert first["heads"] == ["stem", "1", "head"]
    # Row 1 of A is layer 1 of all, column 2 of B layer 5: 1 / (2 + 4).
    assert first["rows"][1]["cells"][2] == {"text": "0.17", "shade": 17}
    assert section["left_out"] == 0
    many = similarity.section(found(7))
    assert (len(many["maps"]), len(many["own"]), many["left_out"]) == (10, 5, 2)
    assert len(many["kappa"]) == 7


def test_numbers():
    assert [similarity.number(v) for v in (0.866, 1.0, -0.001, -0.2, None)] == [
        *("0.87", "1.00", "0.00", "-0.20", "–")
    ]


def test_the_file(tmp_path):
    folder = RunFolder(tmp_path)
    assert similarity.read(folder) is None
    similarity.write(folder, found())
    assert similarity.read(folder) == found()
    for broken in ("{", "[]", "{}", json.dumps(found() | {"cka": [[1.0]]})):
        folder.similarity.write_text(broken)
        with pytest.raises(ValueError, match=r"similarity\.json is not a comparison"):
            similarity.read(folder)
    similarity.write(folder, None)
    similarity.write(folder, None)
    assert not folder.similarity.exists()


def test_the_report_shows_it(tmp_path):
    page = write(tmp_path, make_run(similarity=found()))
    assert "How alike the finalists are" in page.text
    assert similarity.MEANING in page.text
    for sentence in similarity.sentences(found()):
        assert sentence in page.text
    assert "A (rows), B" in page.text
    cells = [a for a in page.all("td") if "--shade" in a.get("style", "")]
    assert len(cells) == 9 + 6 * 9  # kappa, and six pairs of three layers
    without = write(tmp_path, make_run())
    assert "How alike the finalists are" not in without.text


def test_names_cannot_break_the_page(tmp_path):
    page = write(tmp_path, make_run(similarity=found(2, [EVIL, "B"])))
    assert len(page.all("script")) == 3
    assert EVIL.replace("\u2028", " ") in page.text.replace("\u2028", " ")
