"""Whole runs in this process, from the command line to the exported network."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from commands.job import CALIBRATION_IMAGES, Job
from commands.options import LISTINGS, load_plugins
from evaluator.data import load_data
from results.export import load_module
from results.store import Store
from search.settings import Settings
from space import genes
from space.files import load_space, make_space
from space.genome import Genome
from supernet.augmentation import normalise
from supernet.checkpoints import Checkpoints
from supernet.recipe import TrainingSettings

LIMIT = 1_000_000  # MACs of the tiny budget


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def files_and_times(folder):
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def config_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


# ---- the run's folder

PLOTS = (
    *("front-macs", "growth-best", "growth-volume", "importance"),
    *("probes", "progress", "published", "supernet"),
)


def test_a_run_leaves_a_whole_folder(tiny_run):
    exported = {row.name for row in (tiny_run.folder / "architectures").iterdir()}
    assert files(tiny_run.folder) == {
        "config.yaml",
        "environment.json",
        "candidates.sqlite",
        "state/supernet/step-000000006.safetensors",
        "state/supernet.json",
        "state/training.json",
        "state/random.sqlite",
        "report.html",
        "front.csv",
        *(f"plots/{name}.{suffix}" for name in PLOTS for suffix in ("svg", "png")),
        *(
            f"architectures/{name}/{file}"
            for name in exported
            for file in ("model.py", "genome.json", "README.md")
        ),
    }
    assert len(exported) == 2
    report = (tiny_run.folder / "report.html").read_text()
    for name in exported:
        assert f'href="architectures/{name}/model.py"' in report
    environment = json.loads((tiny_run.folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["format"] == 2


def test_as_many_random_networks_are_scored_to_compare_with(tiny_run, runs):
    with Store(tiny_run.folder / "state" / "random.sqlite", readonly=True) as store:
        by_chance = store.rows()
    assert len(by_chance) == 12
    assert {row.origin for row in by_chance} == {"random"}
    assert "Against random search" in (tiny_run.folder / "report.html").read_text()
    for name, settings in (("alone", {"no_compare": True}), ("chance", {"controller": "random"})):
        ended = runs(name=name, **settings)
        assert ended.code == 0, ended.err
        assert not (ended.folder / "state" / "random.sqlite").exists()
        assert "Against random search" not in (ended.folder / "report.html").read_text()


def test_the_default_controller_is_chosen(tiny_run):
    """The predictor, as there are more networks than evaluations, and not thousands of these."""
    assert config_of(tiny_run.folder)["controller"] == "auto"
    with Store(tiny_run.folder / "candidates.sqlite", readonly=True) as store:
        assert {row.origin for row in store.rows()} == {"predictor"}


def test_config_holds_every_setting(tiny_run):
    config = config_of(tiny_run.folder)
    names = {*Settings.__dataclass_fields__, "format"}
    assert set(config) == names
    assert set(config["training"]) == {*TrainingSettings.__dataclass_fields__}
    assert config["space_definition"]["name"] == "tiny"
    assert (config["proxy_width"], config["proxy_resolution"]) == (0.5, 16)
    assert config["classes"] == 1000  # digits stand in for data of one's own


def test_the_front_is_the_database_without_what_another_beats(tiny_run):
    with Store(tiny_run.folder / "candidates.sqlite", readonly=True) as store:
        rows = store.rows()
    assert len(rows) == 12
    assert all(row.macs <= LIMIT for row in rows)
    beaten = {
        row.digest
        for row in rows
        for other in rows
        if (other.macs <= row.macs and other.score >= row.score)
        and (other.macs < row.macs or other.score > row.score)
    }
    front = tiny_run.rows
    assert {row["hash"] for row in front} == {row.digest for row in rows} - beaten
    assert [int(row["macs"]) for row in front] == sorted(int(row["macs"]) for row in front)
    columns = ["name", "hash", "score", "macs", "params", "resolution"]
    assert list(front[0])[: len(columns)] == columns


def test_rows_hold_what_their_genomes_cost(tiny_run):
    with Store(tiny_run.folder / "candidates.sqlite", readonly=True) as store:
        for row in store.rows():
            genome = Genome.from_json(row.genome)
            cost = genome.cost()
            assert (row.macs, row.params) == (cost.macs, cost.params)
            assert (row.digest, row.resolution, genome.classes) == (genome.digest, 32, 1000)


def test_exports_are_within_the_budget_and_the_best_is_at_it(shared_runs, tiny_run):
    result = json.loads(shared_runs(name="json", json=True).out)
    assert result["budget"] == {"macs": LIMIT}
    assert result["evaluated"] == 12
    assert 0.95 * LIMIT <= result["best"]["macs"] <= LIMIT
    assert result["exported"][0] == result["best"]
    for row in result["exported"]:
        home = Path(result["folder"]) / "architectures" / row["name"]
        module = load_module(home / "model.py")
        assert module.MACS == row["macs"] <= LIMIT
        network = module.model().eval()
        assert sum(p.numel() for p in network.parameters()) == row["params"]
        with torch.no_grad():
            logits = network(torch.randn(2, 3, 32, 32))
        assert logits.shape == (2, 1000)
        genome = Genome.from_json(json.loads((home / "genome.json").read_text()))
        assert genome.digest == row["digest"]


def test_exported_code_runs_without_the_project(tiny_run, tmp_path):
    """In a process of its own, in another folder, with torch alone."""
    (home, *_) = (tiny_run.folder / "architectures").iterdir()
    code = (home / "model.py").read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    assert "torch" in imported <= {"torch", *sys.stdlib_module_names}
    (tmp_path / "model.py").write_text(code)
    script = [sys.executable, "-I", str(tmp_path / "model.py")]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_report_names_the_best(tiny_run):
    report = (tiny_run.folder / "report.html").read_text()
    (home, *_) = sorted((tiny_run.folder / "architectures").iterdir())
    assert home.name in report
    assert "tiny" in report


def test_what_a_person_sees(tiny_run):
    assert "best at the budget" in " ".join(tiny_run.out.split())
    assert str(tiny_run.folder / "report.html") in tiny_run.out
    assert "not the accuracy of a trained network" in tiny_run.out
    assert "training the supernet: 6 of 6" in tiny_run.err


def test_quiet_says_nothing_on_standard_error(shared_runs):
    assert shared_runs(name="quiet", quiet=True).err == ""


# ---- the same again


def test_the_same_seed_gives_the_same_front(shared_runs, tiny_run):
    again, other = shared_runs(name="again"), shared_runs(name="other", seed=1)
    assert again.front == tiny_run.front
    assert other.front != tiny_run.front


def test_a_saved_config_repeats_the_run(shared_runs, tiny_run, command):
    saved = tiny_run.folder / "config.yaml"
    again = command(
        *("--config", saved, "--runs", shared_runs.runs, "--name", "repeated"),
        folder=shared_runs.runs / "repeated",
    )
    assert again.code == 0, again.err
    assert again.front == tiny_run.front
    assert (again.folder / "config.yaml").read_bytes() == saved.read_bytes()


def test_the_command_line_stands_over_the_config(shared_runs, tiny_run, command):
    plan = command(
        *("--config", tiny_run.folder / "config.yaml", "--runs", shared_runs.runs),
        *("--evaluations", 7, "--seed", 3, "--dry-run", "--json"),
    )
    settings = json.loads(plan.out)["settings"]
    assert (settings["evaluations"], settings["seed"]) == (7, 3)
    assert settings["training"]["steps"] == 6


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(runs):
    before = runs(name="done")
    front, database = before.front, (before.folder / "candidates.sqlite").read_bytes()
    written = files(before.folder)
    for left in ("state/.tmpA1", "state/supernet/step-1.partial", ".front.csv.partial"):
        (before.folder / left).write_text("of a process that was killed")
    (before.folder / "architectures" / ".1M-abc.1234").mkdir()
    after = runs.resume(before.folder)
    assert after.code == 0, after.err
    assert after.front == front
    assert (after.folder / "candidates.sqlite").read_bytes() == database
    assert files(after.folder) == written
    assert not (after.folder / "architectures" / ".1M-abc.1234").exists()


@pytest.mark.parametrize("controller", ["random", "reinforce"])
def test_other_controllers(runs, controller):
    ended = runs(controller=controller)
    assert ended.code == 0, ended.err
    with Store(ended.folder / "candidates.sqlite", readonly=True) as store:
        assert {row.origin for row in store.rows()} == {controller}


def test_late_mutation(runs, tiny_run):
    ended = runs(controller="evolution", mutation="late", evaluations=40)
    assert ended.code == 0, ended.err
    assert config_of(ended.folder)["mutation"] == "late"
    assert config_of(tiny_run.folder)["mutation"] == "uniform"


# ---- plans and listings


@pytest.mark.parametrize("json_output", [True, None])
def test_a_plan_writes_nothing(runs, json_output):
    ended = runs(dry_run=True, json=json_output)
    assert ended.code == 0, ended.err
    assert not runs.runs.exists()
    if json_output is None:
        assert "Budget 1MFLOPs: 1M MACs (= 2M FLOPs at 2 each)" in ended.out
        return
    plan = json.loads(ended.out)
    space = make_space(plan["settings"]["space_definition"])
    assert plan["space"]["networks"] == space.size
    ends = plan["space"]
    assert ends["smallest"]["macs"] < ends["median"]["macs"] < ends["largest"]["macs"]
    assert 0 < ends["share_at_budget"] < ends["share_within_budget"] < 1
    assert plan["estimate"]["training_seconds"] > 0


def test_a_plan_may_name_a_run_that_is_there(shared_runs, tiny_run):
    before = files_and_times(tiny_run.folder)
    assert shared_runs(name="tiny", dry_run=True).code == 0
    assert files_and_times(tiny_run.folder) == before


@pytest.mark.parametrize("what", LISTINGS)
def test_listings(command, what):
    ended = command("--list", what, "--json")
    assert ended.code == 0, ended.err
    entries = json.loads(ended.out)[what]
    keys = {
        entry["kind" if "kind" in entry and "name" not in entry else "name"] for entry in entries
    }
    assert len(keys) == len(entries) > 0
    categories = {"operators": "operator", "stems": "stem", "heads": "head"}
    category = categories.get(what, what)
    if category in genes.CATEGORIES:
        assert keys == set(genes.registered(category))
    text = command("--list", what).out
    assert all(key in text for key in keys)


def test_listed_spaces_can_be_loaded(command):
    for entry in json.loads(command("--list", "spaces", "--json").out)["spaces"]:
        assert f"{load_space(entry['name']).size:.1e}" == entry["networks"]


# ---- budgets


def test_a_budget_of_parameters(runs):
    ended = runs(budget="40kparams", json=True)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["budget"] == {"params": 40_000}
    assert 38_000 <= result["best"]["params"] <= 40_000


def test_two_budgets_hold_at_once(runs):
    result = json.loads(runs(budget="1MMACs,30kparams", json=True).out)
    with Store(Path(result["folder"]) / "candidates.sqlite", readonly=True) as store:
        for row in store.rows():
            assert row.macs <= LIMIT
            assert row.params <= 30_000


def test_two_flops_per_mac_halve_the_budget(runs):
    plan = json.loads(runs(budget="2MFLOPs", flops_per_mac=2, dry_run=True, json=True).out)
    assert plan["budget"] == {"macs": LIMIT}


# ---- weights


def own_scale(runs, space, budget, **options):
    """A run whose supernet has the size of the networks that it exports."""
    ended = runs(
        space={**space, "resolution": [16]},
        budget=budget,
        classes=10,
        proxy_width=1,
        proxy_resolution=16,
        json=True,
        **options,
    )
    assert ended.code == 0, ended.err
    return ended, json.loads(ended.out)


def supernet_of(ended):
    """The trained supernet of a run, put together again from its folder, and its data."""
    settings = Settings.from_plain(config_of(ended.folder))
    job = Job(settings)
    data = load_data("digits", resolution=16, seed=settings.seed, limit=settings.limit)
    trainer = job.trainer(data)
    assert trainer.load(Checkpoints(ended.folder / "state" / "supernet"))
    return trainer.supernet, data


@pytest.mark.usefixtures("one_thread")
def test_exported_weights_are_the_supernets(runs, tiny_space):
    ended, result = own_scale(runs, tiny_space(), "300kFLOPs")
    supernet, data = supernet_of(ended)
    images = normalise(data.validation.images[:32], data.mean, data.std)
    for row in result["exported"]:
        home = ended.folder / "architectures" / row["name"]
        network = load_module(home / "model.py").model().eval()
        network.load_state_dict(load_file(home / "weights.safetensors"))
        genome = Genome.from_json(json.loads((home / "genome.json").read_text()))
        with torch.no_grad():
            torch.testing.assert_close(network(images), supernet(genome, images), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_exported_weights_score_what_the_search_saw(runs, batch_norm_space):
    """With BatchNorm: the statistics are exported, and are those that the score was taken with."""
    ended, result = own_scale(runs, batch_norm_space, "300kFLOPs")
    supernet, data = supernet_of(ended)
    images = normalise(data.validation.images, data.mean, data.std)
    calibration = normalise(data.train.sample(CALIBRATION_IMAGES), data.mean, data.std)
    for row in result["exported"]:
        home = ended.folder / "architectures" / row["name"]
        state = load_file(home / "weights.safetensors")
        means = [value for name, value in state.items() if name.endswith("running_mean")]
        assert means
        assert any(mean.abs().max() > 1e-3 for mean in means)  # not as they are at first
        network = load_module(home / "model.py").model().eval()
        network.load_state_dict(state)
        genome = Genome.from_json(json.loads((home / "genome.json").read_text()))
        buffers = supernet.calibrate(genome, list(calibration.split(256)))
        with torch.no_grad():
            logits = network(images)
            expected = supernet(genome, images, buffers=buffers)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        truth = logits.softmax(1).gather(1, data.validation.labels[:, None]).mean()
        assert float(truth) == pytest.approx(row["score"], abs=1e-4)


def test_no_weights_for_networks_of_another_size(tiny_run):
    assert not list(tiny_run.folder.rglob("architectures/*/weights.safetensors"))


# ---- parts of one's own


def test_an_operator_of_ones_own(runs, tiny_space, own_operator):
    space = tiny_space(name="own")
    for stage in space["stages"]:
        stage["operators"] = {"average": {"expansion": [1, 2, 3]}}
    ended = runs(space=space, plugin=own_operator, budget="500kFLOPs", json=True)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["failed"] == 0
    for row in result["exported"]:
        module = load_module(ended.folder / "architectures" / row["name"] / "model.py")
        assert "Average" in vars(module)
        with torch.no_grad():
            assert module.model().eval()(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
    assert config_of(ended.folder)["plugins"] == [str(own_operator)]
    front = ended.front
    assert runs.resume(ended.folder).front == front


def test_two_plugins_of_one_name(own_operator, tmp_path):
    """In different folders they are different files."""
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "average.py"
    text = own_operator.read_text().replace('"average"', '"average2"')
    other.write_text(text.replace("class Average(", "class Other("))
    try:
        load_plugins([str(own_operator), str(other)])
        assert {"average", "average2"} <= set(genes.registered("operator"))
    finally:
        genes._REGISTRY["operator"].pop("average2", None)


# ---- data of one's own


def test_a_folder_of_images(runs, tmp_path):
    """Its classes are those of the networks, and `--no-flip` is not needed for photographs."""
    from PIL import Image

    for name, colour in (("blue", (0, 0, 200)), ("green", (0, 200, 0)), ("red", (200, 0, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            picture = Image.new("RGB", (20, 24), tuple(c + i for c in colour))
            picture.save(tmp_path / "data" / name / f"{i}.png")
    ended = runs(data=tmp_path / "data", limit=None, json=True)
    assert ended.code == 0, ended.err
    config = config_of(ended.folder)
    assert (config["classes"], config["training"]["flip"]) == (3, True)
    result = json.loads(ended.out)
    genome = ended.folder / "architectures" / result["best"]["name"] / "genome.json"
    assert Genome.from_json(json.loads(genome.read_text())).classes == 3


def test_front_csv_reads_back(tiny_run):
    text = tiny_run.front.decode()
    rows = list(csv.reader(io.StringIO(text)))
    assert all(len(row) == len(rows[0]) for row in rows)
    assert text.endswith("\n")
