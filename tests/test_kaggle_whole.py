"""A whole run on the stand-in for Kaggle, with the real command line and sessions that execute the pushed notebooks.

There are two: one keeps its checkpoints in the outputs of its kernels and has no token, the other in a bucket on the
Hub's stand-in. In each, the first training session ends by its budget, the second stands still until the shortened
12-hour cap kills it, and leaves nothing, one push is refused with an answer 200, others are answered 503, and the
laptop's process is killed 20 times at random moments. Both end with the adapter of an uninterrupted run, bit for bit.

Nothing here goes by how fast this machine is: a session stands still as soon as it kept a step, the cap is met by one
that stands still and by no other, and the evaluation waits in the queue until all kills are done.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import kaggle_image
import psutil
import pytest
from hub_stand_in import StandIn
from kaggle_stand_in import KEY, USER
from kaggle_world import Dataset, DatasetVersion, Notebooks, World, by_hand

from kelron_lib.manifest import LATEST, Pointer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]  # which what is made for a test counts in
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
    "evaluate.attack_prompts=2",
    "evaluate.pressure_dialogues=1",
    "evaluate.choice_items=1",
    "evaluate.max_new_tokens=8",
)
BUDGET = 900.0
STANDSTILL = 900.0
"""Seconds without a line of any session or a change of its state after which a run counts as stuck."""
TRAINING = ("kelron-02-train", "kelron-03-resume", "kelron-03-resume-b")
KERNELS = (*TRAINING, "kelron-01-data", "kelron-04-evaluate")
QUICK_HUB = {"HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}


def newest_step(folder):
    try:
        return Pointer.decode((folder / LATEST).read_bytes()).step
    except OSError:
        return 0


class Cuts:
    """How sessions end. Those of `train` stand still from their first kept step until their budget is used; the first
    of `resume` from its first one until it is killed."""

    def __init__(self, kept):
        self.kept, self.began, self.hung_at, self.deadline = kept, None, None, {}

    def used(self, world, version):
        """Seconds of the budget that are gone when a session begins: `train` is left with several times what the data
        session took, and more each time, should it have kept no step by then."""
        if not version.asked["slug"].endswith("train"):
            return 0.0
        left = (20.0 + 4 * world.versions("kelron-01-data")[-1].seconds) * version.number
        self.deadline[version.number] = time.monotonic() + left
        return BUDGET - left

    def cap(self, world, version):
        """Seconds after which a session is killed: the 12 hours are over soon after it began to stand still."""
        if not self._is_to_hang(version) or self.hung_at is None:
            return 12 * 3600
        return self.hung_at - version.began + 3.0

    def _is_to_hang(self, version):
        return version.asked["slug"].endswith("/kelron-03-resume") and version.number == 1

    def hangs(self, version, working):
        if version.asked["slug"].endswith("train"):
            return time.monotonic() < self.deadline[version.number] and self.kept(working) > 0
        if self._is_to_hang(version) and self.hung_at is None:
            step = self.kept(working)
            self.began = step if self.began is None else self.began
            if step > max(self.began, version.record.step):
                self.hung_at = time.monotonic()
        return self._is_to_hang(version) and self.hung_at is not None


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

    def laptop(self):
        """The laptop's environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KELRON_PYTHON": sys.executable,
            **self.world.environment(),
            **self.environment,
        }

    def start(self, out):
        return subprocess.Popen(
            self.command(), stdout=out, stderr=subprocess.STDOUT, env=self.laptop(), start_new_session=True
        )

    def run(self, seed):
        """Start the laptop's command, kill it, start it again; at last let it go to its end."""
        chance = random.Random(seed)
        with (self.home / "laptop.log").open("w+") as out:
            while self.kills < KILLS:
                process = self.start(out)
                self._let_it_work(process, chance)
                if process.poll() is not None:  # it came to its end before the last kill, which the test will tell
                    self.codes.append(process.returncode)
                    break
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.kills += 1
            self.codes.append(self._end_of(self.start(out)))
            out.seek(0)
            self.said = out.read()

    def _let_it_work(self, process, chance):
        """Return at a random moment: after some requests or after some seconds, whichever takes longer here; or at the
        process's end."""
        asked = len(self.world.requests) + chance.choice((0, chance.randint(1, 30)))
        until = time.monotonic() + chance.uniform(0.3, 4.0)
        while process.poll() is None and (time.monotonic() < until or len(self.world.requests) < asked):
            time.sleep(0.01)

    def _end_of(self, process):
        """The command's exit code. However long it takes: what must not be is that nothing happens any more."""
        last, since = None, time.monotonic()
        while process.poll() is None:
            now = [(session.status, len(session.lines)) for session in self.world.history(*KERNELS)]
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > STANDSTILL:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(0.1)
        return process.returncode

    def queue(self, version):
        """The evaluation begins when the laptop was killed as often as it is to be; other sessions soon."""
        time.sleep(0.2)
        while version.asked["slug"].endswith("evaluate") and self.kills < KILLS and not self.codes:
            if self.world.over.wait(0.05):
                return


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
def outputs(image, wheels, tmp_path_factory):
    """The run without a token, at its end."""
    with a_way(
        tmp_path_factory.mktemp("outputs"),
        image,
        wheels,
        kept=lambda working: newest_step(working / "runs/kelron/store"),
    ) as way:
        way.run(0)
        yield way


@pytest.fixture(scope="module")
def bucket(image, wheels, tmp_path_factory):
    """The run with its store on the Hub, at its end."""
    top = tmp_path_factory.mktemp("bucket")
    with (
        StandIn(top / "hub") as hub,
        a_way(
            top / "way",
            image,
            wheels,
            kept=lambda working: bucket_step(hub),
            overrides=("store.url=hf://buckets/me/kelron/run-1",),
            laptop={"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "NO_PROXY": beside(hub), "no_proxy": beside(hub)},
            session={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, **QUICK_HUB},
        ) as way,
    ):
        subprocess.run([way.command()[0], "secret"], check=True, capture_output=True, env=way.laptop())
        way.run(1)
        yield way


def beside(hub):
    """What the laptop reaches without the proxy that plays Kaggle: the Hub, and its storage, which has another name."""
    return f"127.0.0.1,localhost:{hub.port},http://localhost:{hub.port}"


def bucket_step(hub):
    """The newest step in the Hub's stand-in."""
    with hub.lock:
        pointer = hub.buckets.get("me/kelron", {"files": {}})["files"].get(f"run-1/{LATEST}")
        return Pointer.decode(hub.blob(pointer["sha256"]).read_bytes()).step if pointer else 0


@contextmanager
def a_way(top, image, wheels, *, kept, overrides=(), laptop=None, session=None):
    """A run that is yet to begin; when it is left, nothing of it runs any more."""
    top.mkdir(exist_ok=True)
    kaggle_image.copy_project(top / "project")
    cuts = Cuts(kept)
    play = Notebooks(
        top / "sessions",
        lambda folder: kaggle_image.make_machine(folder, image),
        environment=session or {},
        hangs=cuts.hangs,
        used=cuts.used,
    )
    with World(play, slow=0.5, cap=cuts.cap, layout="new" if overrides else "old") as world:
        world.faults["SaveKernel"] = [503, "refuse:Maximum batch GPU session count of 2 reached.", "lost"]
        world.faults["GetKernelSessionStatus"] = [429]
        way = Way(world, top / "project", (*OVERRIDES, *overrides), cuts, laptop or {}, wheels, top)
        world.queue = way.queue
        yield way


@pytest.mark.parametrize("name", ["outputs", "bucket"])
def test_a_run_over_cut_killed_and_refused_sessions_is_the_uninterrupted_run(name, reference, request):
    way = request.getfixturevalue(name)
    told = f"{way.said[-3000:]}"
    assert way.codes == [0], told
    assert way.kills == KILLS
    sessions = way.world.history(*TRAINING)
    assert len(sessions) >= 3, told
    ends = [session.status for session in sessions]
    assert ends.count("CANCEL_ACKNOWLEDGED") == 1
    assert set(ends) == {"COMPLETE", "CANCEL_ACKNOWLEDGED"}
    trained = way.world.versions("kelron-02-train")
    assert {json.loads(session.files["runs/kelron/status.json"])["state"] for session in trained} == {"budget"}
    (killed,) = [session for session in sessions if session.status == "CANCEL_ACKNOWLEDGED"]
    assert "exceeded the max allowed execution duration" in killed.message
    assert killed.seconds >= way.cuts.cap(way.world, killed)
    assert not killed.files
    first, *_ = way.world.versions("kelron-03-resume")
    assert first.record.step > 0
    after = sessions[sessions.index(killed) + 1]
    if name == "bucket":  # what the killed session kept there is known to the laptop, and lost without it
        assert after.record.step > killed.record.step
        assert "cannot be read from here" not in way.said
    else:
        assert after.record.step == killed.record.step
    assert sessions[-1].files["runs/kelron/adapter/adapter_model.safetensors"] == reference
    assert way.world.at_once == 1
    results = way.project / "runs" / "kaggle" / "kelron"
    assert (results / "report.html").stat().st_size > 10_000
    assert "Identity recall" in way.said


def test_no_secret_is_in_any_log_or_output(outputs, bucket):
    for way in (outputs, bucket):
        secrets = [KEY, *([way.environment["HF_TOKEN"]] if "HF_TOKEN" in way.environment else [])]
        for secret in secrets:
            assert secret not in way.said
            for session in way.world.history(*KERNELS):
                assert secret not in "".join(session.lines)
                assert secret not in session.asked["text"]
                assert not any(secret.encode() in content for content in session.files.values())


def test_only_the_run_on_the_hub_has_a_token(outputs, bucket):
    """And it came from the private dataset, whose mount the session found."""
    assert not any("kelron-token" in ref for v in outputs.world.history(*TRAINING) for ref in v.mounted)
    for session in bucket.world.history(*TRAINING):
        assert any(line.startswith("token: from the dataset at ") for line in session.lines)
    assert bucket.world.datasets["me/kelron-token"].private


def test_no_process_of_a_session_is_left(outputs, bucket):
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if any(f"{way.home}/sessions/" in line for way in (outputs, bucket))]


def test_by_hand_the_same_notebooks_come_to_the_same_end(versions, staged, reference, tmp_path):
    """Import, set the preset, run all; tomorrow resume from the output, and the day after from that of the resume: here
    of sessions that were killed. On both ends of what Kaggle's image holds, with the adapter that this environment's
    packages come to."""
    files = {path.name: path.read_bytes() for path in staged.folder.iterdir() if path.suffix != ".lock"}
    began = {}

    def kill(version, working):
        """The first session once it kept a step, the second once it kept another."""
        name, step = version.asked["newTitle"], newest_step(working / "runs/kelron/store")
        first = began.setdefault((name, version.number), step) if step else 0
        return step > (first if name == "My 03 resume" else 0) and (name, version.number) in (
            ("My 02 train", 1),
            ("My 03 resume", 1),
        )

    def stored(version):
        return Pointer.decode(version.files[f"runs/kelron/store/{LATEST}"]).step

    play = Notebooks(
        tmp_path / "sessions",
        lambda folder: kaggle_image.make_machine(folder, versions.folder),
        kill=kill,
        keeps=True,
    )

    def run_all(name, *attached, ends="COMPLETE"):
        title = f"My {name.replace('_', ' ')}"
        asked = {"slug": f"{USER}/x", "newTitle": title, "text": by_hand(name, OVERRIDES)}
        attaches = {"datasetDataSources": [f"{USER}/kelron-library"], "kernelDataSources": attached}
        world.save_kernel(asked | attaches)
        world.wait(1500)
        version = world.versions(title.lower().replace(" ", "-"))[-1]
        assert version.status == ends, version.lines[-5:]
        return version

    with World(play) as world:
        world.datasets[f"{USER}/kelron-library"] = Dataset(True, [DatasetVersion(files, 0.0)])
        checked = run_all("00_preflight")
        run_all("01_data_prep")
        first = run_all("02_train", f"{USER}/my-01-data-prep", ends="CANCEL_ACKNOWLEDGED")
        second = run_all("03_resume", f"{USER}/my-02-train", ends="CANCEL_ACKNOWLEDGED")
        last = run_all("03_resume", f"{USER}/my-02-train", f"{USER}/my-03-resume/{second.number}")
        judged = run_all("04_evaluate", f"{USER}/my-03-resume")
    assert "runs/kelron/preflight.json" in checked.files
    assert f"store: step {stored(second)}, from " in "".join(last.lines)
    assert stored(second) > stored(first) > 0
    assert last.files["runs/kelron/adapter/adapter_model.safetensors"] == reference
    assert len(judged.files["runs/kelron/report.html"]) > 10_000
