"""A whole run on the stand-in for Kaggle, with the real command line and sessions that execute the pushed notebooks.

Two runs go on side by side: one keeps its checkpoints in the outputs of its kernels and has no token, the other in a
bucket on the Hub's stand-in. In each, the first training session ends by its budget, the second stands still until the
shortened 12-hour cap kills it, and leaves nothing, one push is refused with an answer 200, others are answered 503, and
the laptop's process is killed 20 times at random moments. Both end with the adapter of an uninterrupted run, bit for
bit.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import kaggle_image
import psutil
import pytest
from hub_stand_in import StandIn
from kaggle_stand_in import KEY, USER
from kaggle_world import Dataset, DatasetVersion, Notebooks, World

from kelron_lib.kaggle_ops.library import stage_library
from kelron_lib.manifest import LATEST, Pointer

pytestmark = pytest.mark.slow
KILLS = 20
OVERRIDES = (
    "data.rows=240",
    "train.rows_per_pass=3",
    "train.epochs=2.5",
    "train.save_steps=4",
    "train.eval_steps=3",
    "lora.r=4",
    "session.reserve_seconds=0",
    "session.budget_seconds=900",
    "evaluate.identity_prompts=2",
    "evaluate.unrelated_prompts=2",
    "evaluate.max_new_tokens=8",
)
BUDGET = 900.0
TRAINING = ("kelron-02-train", "kelron-03-resume", "kelron-03-resume-b")
QUICK_HUB = {"HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}


def newest_step(folder):
    try:
        return Pointer.decode((folder / LATEST).read_bytes()).step
    except OSError:
        return 0


class Cuts:
    """How sessions end: those of `train` by their budget, the first of `resume` at the cap, since it stands still once
    it kept a step."""

    def __init__(self, kept):
        self.kept, self.hung, self.began = kept, 0, None

    def used(self, world, version):
        """Seconds of the budget that are gone when a session begins: the first training session is left with a little
        more than the data session took, of which nearly all went into its start, and less than the run takes."""
        if not version.asked["slug"].endswith("train"):
            return 0.0
        return BUDGET - min(1.5 * world.versions("kelron-01-data")[-1].seconds + 10.0, 38.0)

    def cap(self, world, version):
        """Seconds after which a session is killed: 12 hours, and shortened for the one that stands still, to several
        times what a session takes here until it kept a step. Others cannot meet it, however busy this machine is."""
        if not self._is_to_hang(version):
            return 12 * 3600
        return 30.0 + 8 * world.versions("kelron-01-data")[-1].seconds

    def _is_to_hang(self, version):
        return version.asked["slug"].endswith("/kelron-03-resume") and version.number == 1

    def hangs(self, version, working):
        if not self._is_to_hang(version):
            return False
        step = self.kept(working)
        self.began = step if self.began is None else self.began
        if step > max(self.began, version.record.step):
            self.hung += 1
            return True
        return False


@dataclass
class Way:
    """One of the two runs."""

    world: World
    project: object
    overrides: tuple
    cuts: Cuts
    environment: dict
    wheels: object
    home: object
    kills: int = 0
    said: str = ""
    codes: list = field(default_factory=list)

    def command(self):
        settings = [part for override in self.overrides for part in ("--set", override)]
        script = str(self.project / "scripts" / "push_kernels.sh")
        options = ["--no-open", "--poll", "0.5", "--give-up-after", "6", "--wheels", str(self.wheels)]
        return [script, "run", "--preset", "tiny-cpu", *settings, *options]

    def start(self, out):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KELRON_PYTHON": sys.executable,
            **self.world.environment(),
            **self.environment,
        }
        return subprocess.Popen(
            self.command(), stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def run(self, seed):
        """Start the laptop's command, kill it, start it again; at last let it go to its end."""
        chance = random.Random(seed)
        with (self.home / "laptop.log").open("w+") as out:
            while self.kills < KILLS:
                process = self.start(out)
                try:
                    self.codes.append(process.wait(chance.uniform(0.3, 6.0)))
                    break  # it came to its end before the last kill, which the test will tell
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    self.kills += 1
            self.codes.append(self.start(out).wait(900))
            out.seek(0)
            self.said = out.read()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The adapter of a run that nothing interrupts, in one process as the sessions have it."""
    folder = tmp_path_factory.mktemp("reference")
    settings = [part for override in OVERRIDES for part in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder)}
    environment["PYTHONPATH"] = str(kaggle_image.ROOT)
    for verb, out in (("data", folder / "data"), ("train", folder)):
        command = [sys.executable, "-m", "kelron_lib", verb, "--preset", "tiny-cpu", *settings, "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def ways(image, wheels, tmp_path_factory):
    """Both runs, at their ends."""
    top = tmp_path_factory.mktemp("ways")
    with StandIn(top / "hub") as hub:
        token = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, **QUICK_HUB}
        made = {
            "outputs": _way(top / "outputs", image, wheels, (), {}, {}, lambda w: newest_step(w / "runs/kelron/store")),
            "hub": _way(
                top / "bucket",
                image,
                wheels,
                ("store.url=hf://buckets/me/kelron/run-1",),
                token,
                {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, **QUICK_HUB},
                lambda working: _bucket_step(hub),
            ),
        }
        subprocess.run(
            [made["hub"].command()[0], "secret"],
            check=True,
            capture_output=True,
            env={"PATH": os.environ["PATH"], "HOME": str(top), "KELRON_PYTHON": sys.executable}
            | made["hub"].world.environment()
            | token,
        )
        threads = [threading.Thread(target=way.run, args=(seed,)) for seed, way in enumerate(made.values())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield made
    for way in made.values():
        way.world.__exit__()


def _bucket_step(hub):
    """The newest step in the Hub's stand-in, asked as anybody would."""
    from kelron_lib.hub_client import Hub
    from kelron_lib.hub_store import open_hub_store

    try:
        store = open_hub_store("hf://buckets/me/kelron/run-1", hub=Hub(token=hub.token, endpoint=hub.url))
        return Pointer.decode(store.read_bytes(LATEST)).step
    except Exception:  # not there yet
        return 0


def _way(top, image, wheels, overrides, laptop, session, kept):
    top.mkdir()
    kaggle_image.copy_project(top / "project")
    cuts = Cuts(kept)
    play = Notebooks(
        top / "sessions",
        lambda folder: kaggle_image.make_machine(folder, image, torchao=False),
        environment=session,
        hangs=cuts.hangs,
        used=cuts.used,
    )
    world = World(play, queue=0.2, slow=0.5, cap=cuts.cap, layout="new" if overrides else "old").__enter__()
    world.faults["SaveKernel"] = [503, "refuse:Maximum batch GPU session count of 2 reached.", "lost"]
    world.faults["GetKernelSessionStatus"] = [429]
    return Way(world, top / "project", (*OVERRIDES, *overrides), cuts, laptop, wheels, top)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["outputs", "hub"])
def test_a_run_over_cut_killed_and_refused_sessions_is_the_uninterrupted_run(name, ways, reference):
    way = ways[name]
    told = f"{way.said[-3000:]}"
    assert way.codes == [0], told
    assert way.kills == KILLS
    sessions = way.world.history(*TRAINING)
    assert len(sessions) >= 3, told
    assert way.cuts.hung == 1
    ends = [session.status for session in sessions]
    assert ends.count("CANCEL_ACKNOWLEDGED") == 1
    assert set(ends) == {"COMPLETE", "CANCEL_ACKNOWLEDGED"}
    (killed,) = [session for session in sessions if session.status == "CANCEL_ACKNOWLEDGED"]
    assert "exceeded the max allowed execution duration" in killed.message
    assert killed.seconds >= way.cuts.cap(way.world, killed)
    assert not killed.files
    first, *_ = way.world.versions("kelron-03-resume")
    assert first.record.step > 0  # what was cut by its budget before it kept a step
    assert sessions[-1].files["runs/kelron/adapter/adapter_model.safetensors"] == reference
    assert way.world.at_once == 1
    results = way.project / "runs" / "kaggle" / "kelron"
    assert (results / "report.html").stat().st_size > 10_000
    assert "Identity recall" in way.said


def test_no_secret_is_in_any_log_or_output(ways):
    for way in ways.values():
        secrets = [KEY, *([way.environment["HF_TOKEN"]] if "HF_TOKEN" in way.environment else [])]
        for secret in secrets:
            assert secret not in way.said
            for session in way.world.history(*TRAINING, "kelron-01-data", "kelron-04-evaluate"):
                assert secret not in "".join(session.lines)
                assert secret not in session.asked["text"]
                assert not any(secret.encode() in content for content in session.files.values())


def test_only_the_run_on_the_hub_has_a_token(ways):
    """And it came from the private dataset, whose mount the session found."""
    assert not any("kelron-token" in ref for v in ways["outputs"].world.history(*TRAINING) for ref in v.mounted)
    for session in ways["hub"].world.history(*TRAINING):
        assert any(line.startswith("token: from the dataset at ") for line in session.lines)
    assert ways["hub"].world.datasets["me/kelron-token"].private


def test_no_process_of_a_session_is_left(ways):
    mine = [p for p in psutil.process_iter(["cmdline"]) if "/sessions/" in " ".join(p.info["cmdline"] or ())]
    assert not [p for p in mine if any(str(way.home) in " ".join(p.info["cmdline"]) for way in ways.values())]


@pytest.mark.timeout(600)
def test_by_hand_the_same_notebooks_come_to_the_same_end(image, wheels, clone, reference, tmp_path):
    """Import, set the preset, run all; tomorrow resume from the output, here of a session that was killed."""
    staged = stage_library(clone, tmp_path / "library", owner=USER, wheels=wheels, say=lambda line: None)
    files = {path.name: path.read_bytes() for path in staged.folder.iterdir() if path.suffix != ".lock"}
    play = Notebooks(
        tmp_path / "sessions",
        lambda folder: kaggle_image.make_machine(folder, image, torchao=False),
        kill=lambda version, working: (
            version.asked["newTitle"] == "My 02 train" and newest_step(working / "runs/kelron/store") > 0
        ),
        keeps=True,
    )

    def run_all(name, *attached):
        asked = {"slug": f"{USER}/x", "newTitle": f"My {name}", "text": by_hand(name), "kernelDataSources": attached}
        world.save_kernel(asked | {"datasetDataSources": [f"{USER}/kelron-library"]})
        world.wait(300)
        (version,) = world.versions(f"my-{name.replace('_', '-').replace(' ', '-')}")
        return version

    with World(play) as world:
        world.datasets[f"{USER}/kelron-library"] = Dataset(True, [DatasetVersion(files, 0.0)])
        assert run_all("01 data prep").status == "COMPLETE"
        assert run_all("02 train", f"{USER}/my-01-data-prep").status == "CANCEL_ACKNOWLEDGED"
        last = run_all("03 resume", f"{USER}/my-02-train")
    assert last.status == "COMPLETE", last.lines[-5:]
    assert any(line.startswith("store: step ") for line in last.lines)
    assert last.files["runs/kelron/adapter/adapter_model.safetensors"] == reference


def by_hand(name):
    """A notebook as a person leaves it who sets the preset and the overrides in its parameters' cell."""
    path = kaggle_image.ROOT / "notebooks" / f"{name.replace(' ', '_')}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    source = "".join(cell["source"]).replace('PRESET = "kelron-14b-t4x2"', 'PRESET = "tiny-cpu"')
    cell["source"] = source.replace("OVERRIDES = []", f"OVERRIDES = {[*OVERRIDES]!r}")
    return json.dumps(notebook)
