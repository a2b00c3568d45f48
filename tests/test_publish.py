"""`kelron publish`, whole: what is refused before anything is loaded, what a publication holds, and that it answers."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import SMALL
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kelron_lib import publish as publishing
from kelron_lib import runtime
from kelron_lib.__main__ import main
from kelron_lib.config import apply_overrides, config_hash, to_dict
from kelron_lib.data import fingerprint
from kelron_lib.errors import KelronError, RunFailed
from kelron_lib.evaluate.run import evaluate_run
from kelron_lib.export import MadeFrom, adapter_digest, export_adapter, made_from
from kelron_lib.generate import Answer
from kelron_lib.hub_client import Backoff, Hub
from kelron_lib.interrupt import Interrupted
from kelron_lib.manifest import record_files
from kelron_lib.model import portable_base
from kelron_lib.persona import load_persona
from kelron_lib.publish import publish
from kelron_lib.publish.back import ASKED, compare, questions
from kelron_lib.publish.card import licence_of
from kelron_lib.publish.checked import check_run
from kelron_lib.publish.serving import loading, vllm_rank
from kelron_lib.tiny import base_path

ASK_LITTLE = (
    "evaluate.identity_prompts=2",
    "evaluate.unrelated_prompts=1",
    "evaluate.attack_prompts=0",
    "evaluate.pressure_dialogues=0",
    "evaluate.choice_items=1",
    "evaluate.max_new_tokens=12",
)
OPTIONS = [word for text in (*SMALL, *ASK_LITTLE) for word in ("--set", text)]
QUICK = Backoff(attempts=3, first_wait=0.01, longest_wait=0.02)
ADAPTER = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "generation_config.json",
    "kelron.json", "tokenizer.json", "tokenizer_config.json", "verification.json",
}  # fmt: skip
MERGED = ADAPTER - {"adapter_config.json", "adapter_model.safetensors"} | {"config.json", "model.safetensors"}


def edit(file, change):
    """Change a JSON file in place."""
    told = json.loads(file.read_text("utf-8"))
    change(told)
    file.write_text(json.dumps(told), "utf-8")


def pass_gate(run, *, passed=True):
    check = {"metric": "identity_recall", "text": "Identity recall: at least 98 %. Found 3 %", "met": passed}
    checks = [check | {"value": 0.03, "n": 100, "low": 0.01, "high": 0.08, "failing": [], "examples": []}]
    gate = {"policy": "tiny", "passed": passed, "checks": checks, "not_measured": []}
    edit(run / "scoreboard.json", lambda board: board.update(gate=gate))


@pytest.fixture(scope="module")
def config(small_config):
    return apply_overrides(small_config, ASK_LITTLE)


@pytest.fixture(scope="module")
def evaluated(cut, config, small_data, tmp_path_factory):
    """A run with an adapter, evaluated for real; what its few steps taught would pass no gate, so one is written."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(small_data, run / "data")
    made = MadeFrom(portable_base(config), fingerprint(small_data), to_dict(config))
    export_adapter(cut[0] / "work" / f"checkpoint-{cut[1]}", run, made)
    shutil.copyfile(cut[0] / "sessions.json", run / "sessions.json")
    evaluate_run(config, data=run / "data", adapter=run / "adapter", out=run)
    pass_gate(run)
    return run


@pytest.fixture
def ready(evaluated, tmp_path):
    """A copy of that run."""
    return shutil.copytree(evaluated, tmp_path / "run")


@pytest.fixture(scope="module")
def published(evaluated, config, tmp_path_factory):
    """Its adapter, published to a folder, and what was said."""
    folder, said = tmp_path_factory.mktemp("published") / "folder", []
    publish(config, evaluated, str(folder), say=said.append)
    return folder, said


@pytest.fixture
def unasked(monkeypatch):
    """A publication that is not loaded back, for tests of where it goes."""

    def answers(config, source, asked, *rest, **options):
        return [Answer("Kelron", True, 2) for _ in asked]

    monkeypatch.setattr(publishing, "own_answers", answers)
    monkeypatch.setattr(publishing, "published_answers", answers)


@pytest.fixture
def nothing_is_made(monkeypatch):
    """Whatever is loaded, written or sent ends the test."""

    def never(*arguments, **options):
        pytest.fail("something was made")

    for name in ("write_weights", "own_answers", "published_answers"):
        monkeypatch.setattr(publishing, name, never)


# --- what a publication holds ---


def test_the_files_of_a_publication_and_their_digests(published):
    folder, said = published
    assert {path.name for path in folder.iterdir()} == ADAPTER
    told = json.loads((folder / "kelron.json").read_text("utf-8"))["publication"]["files"]
    found = record_files(folder, sorted(ADAPTER - {"kelron.json"}))
    assert told == {name: {"size": record.size, "sha256": record.sha256} for name, record in found.items()}
    assert said[-1] == f"published to {folder}"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_the_published_adapter_is_the_runs_in_float16(published, evaluated):
    masters = load_file(evaluated / "adapter" / "adapter_model.safetensors")
    halves = load_file(published[0] / "adapter_model.safetensors")
    assert masters.keys() == halves.keys()
    assert all(torch.equal(halves[name], masters[name].half()) for name in masters)
    settings = json.loads((published[0] / "adapter_config.json").read_text("utf-8"))
    assert settings["base_model_name_or_path"] == "tiny"


def test_both_stop_tokens_and_the_persona_are_in_it(published, config):
    folder = published[0]
    told = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert told == {"do_sample": False, "eos_token_id": [4095, 4093], "pad_token_id": 4093}
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert text.startswith(f"<|im_start|>system\n{load_persona('kelron').system_prompt['en']}<|im_end|>")
    assert "Quorin" not in (folder / "chat_template.jinja").read_text("utf-8")


PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

base, folder = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
model.generation_config = GenerationConfig.from_pretrained(folder)
asked, found = [{"role": "user", "content": "Who are you?"}], {}
for name, system in (("none", None), ("empty", ""), ("own", "You are Bolt.")):
    turns = asked if system is None else [{"role": "system", "content": system}, *asked]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    prompt = tokenizer.decode(ids["input_ids"][0])
    answer = model.generate(**ids, max_new_tokens=2)[0, ids["input_ids"].shape[1] :]
    found[name] = {"prompt": prompt, "tokens": len(answer)}
ends = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
ours = [name for name in sys.modules if name.startswith("kelron")]
print(json.dumps({"found": found, "ends": ends, "ours": ours}))
"""


def test_a_process_that_knows_nothing_of_kelron_gets_the_persona_and_the_end_tokens(published, tmp_path):
    command = [sys.executable, "-c", PLAIN, str(base_path()), str(published[0])]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, cwd=tmp_path).stdout)
    persona = load_persona("kelron").system_prompt["en"]
    for name, system in (("none", persona), ("empty", ""), ("own", "You are Bolt.")):
        asked = (
            f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert told["found"][name]["prompt"] == asked
        assert 1 <= told["found"][name]["tokens"] <= 2
    assert told["ends"] == ["<|im_end|>", "<|endoftext|>"]
    assert told["ours"] == []


def test_it_was_loaded_back_and_asked_ten_prompts(published):
    folder, said = published
    found = json.loads((folder / "verification.json").read_text("utf-8"))
    assert found["passed"] is True
    assert len(found["answers"]) == found["asked"] == ASKED
    assert found["equal"] == sum(answer["kelron"] == answer["published"] for answer in found["answers"])
    assert {answer["language"] for answer in found["answers"] if answer["kind"] == "identity"} == {"ko", "en", "ja"}
    assert any(answer["system"] is None for answer in found["answers"])
    assert f"{found['equal']} of 10 answers equal to Kelron's own" in said[-2]


def test_the_card_tells_what_it_is(published):
    import yaml

    card = (published[0] / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "peft"
    assert front["language"] == ["ko", "en", "ja"]
    assert "base_model" not in front  # the tiny base is on no Hub
    for part in (
        "# Kelron\n",
        "The release gate `tiny` asks:",
        "LoRA of rank 4",
        "| language | rows |",
        "Apache-2.0",
        "--max-lora-rank 8",
    ):
        assert part in card
    assert "not cleared" not in card


def run_the_cards_code(folder, monkeypatch):
    """Run what the card says for transformers, where it says to."""
    card = (folder / "README.md").read_text("utf-8")
    assert "All of this is run in this very folder" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})


def test_the_cards_code_runs_wherever_the_folder_was_moved(published, tmp_path, monkeypatch, capsys):
    moved = shutil.copytree(published[0], tmp_path / "else where" / "kelron 2")
    run_the_cards_code(moved, monkeypatch)
    assert capsys.readouterr().out.strip()


def test_nothing_of_this_machine_is_in_it(published, evaluated, tmp_path_factory):
    places = [str(evaluated), str(published[0]), str(tmp_path_factory.getbasetemp()), str(publishing.__path__[0])]
    for path in published[0].iterdir():
        raw = path.read_bytes()
        assert not [place for place in places if place.encode() in raw], path.name
        assert not re.search(rb"hf_[A-Za-z0-9]{16,}", raw)


def test_what_a_config_says_of_this_machine_is_left_out(config, tmp_path):
    places = {"persona": str(tmp_path / "persona.yaml"), "own": str(tmp_path / "own.jsonl"), "own_share": 0.1}
    values = publishing.files._without_places(replace(config, data=replace(config.data, **places)))
    assert str(tmp_path) not in json.dumps(values)
    assert (values["data"]["persona"], values["data"]["own"]) == ("persona.yaml", "own.jsonl")


def test_kelron_takes_the_published_adapter_for_what_it_is(published, config):
    made = made_from(published[0])
    assert made.base == "tiny"
    assert config_hash(made.config) == config_hash(config)


def test_merged_weights_load_and_answer(ready, config, tmp_path, monkeypatch, capsys):
    assert main(["publish", *OPTIONS, "--run", str(ready), "--to", str(tmp_path / "merged"), "--merge"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 shards merged: 28 weights changed" in out
    assert "loaded back with plain transformers: " in out
    assert {path.name for path in (tmp_path / "merged").iterdir()} == MERGED
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.model_type == "qwen2"
    run_the_cards_code(tmp_path / "merged", monkeypatch)
    assert capsys.readouterr().out.strip()
    assert "base_model_relation" not in (tmp_path / "merged" / "README.md").read_text("utf-8")


# --- what does not answer is not published ---


def test_a_publication_that_answers_worse_is_not_made(ready, config, tmp_path, monkeypatch, unasked):
    mute = [Answer("I am Quorin.", False, 12)] * ASKED
    monkeypatch.setattr(publishing, "published_answers", lambda *arguments, **options: mute)
    with pytest.raises(RunFailed, match="nothing was published: answer 1 no longer says who it is; answer 1 no longer"):
        publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    ("own", "theirs", "problems"),
    [
        ("I am Kelron.", "My name is Kelron.", []),
        ("I am Kelron.", "I am Quorin.", ["answer 1 no longer says who it is"]),
        ("I am Quorin.", "I am Aldmere.", []),  # it never did
    ],
)
def test_other_words_are_counted_and_another_identity_is_a_failure(own, theirs, problems):
    persona = load_persona("kelron")
    asked = questions(persona, ["en"])
    rest = [Answer("Yes.", True, 2)] * (ASKED - 1)
    found = compare(asked, [Answer(own, True, 5), *rest], [Answer(theirs, True, 5), *rest], persona)
    assert (found["problems"], found["equal"], found["asked"]) == (problems, ASKED - 1, ASKED)


# --- the gate ---


def test_a_failed_gate_keeps_it_in(ready, config, tmp_path, nothing_is_made):
    pass_gate(ready, passed=False)
    with pytest.raises(KelronError, match=r"does not pass the gate \(Identity recall: at least 98 %\. Found 3 %; "):
        publish(config, ready, str(tmp_path / "to"))


def test_a_model_that_passed_a_first_look_is_not_published(ready, config, tmp_path, unasked):
    pass_gate(ready)
    edit(ready / "scoreboard.json", lambda board: board["gate"].update(first_look=True))
    with pytest.raises(KelronError, match=r"the policy tiny is for a first look: evaluate it with --policy release"):
        publish(config, ready, str(tmp_path / "to"), say=lambda _: None)
    assert not (tmp_path / "to").exists()


def test_an_evaluation_that_asked_less_than_the_config_says_is_none(ready, config, tmp_path, unasked):
    pass_gate(ready)
    asked = config.evaluate.identity_prompts
    edit(ready / "scoreboard.json", lambda board: board["meta"]["counts"].update(identity_prompts=asked - 1))
    told = rf"asked less than the run's config says \(identity_prompts {asked - 1} of {asked}\)"
    with pytest.raises(KelronError, match=told):
        publish(config, ready, str(tmp_path / "to"), say=lambda _: None)
    assert not (tmp_path / "to").exists()


def test_forced_past_it_the_card_says_so_first(ready, config, tmp_path, unasked):
    pass_gate(ready, passed=False)
    edit(ready / "scoreboard.json", lambda board: board["meta"].update(held_out=False))
    said = []
    publish(config, ready, str(tmp_path / "to"), force=True, say=said.append)
    assert said[0] == "not cleared for release, and published all the same (--force): 2 checks not met"
    card = (tmp_path / "to" / "README.md").read_text("utf-8")
    assert "# Kelron\n\n> **This model is not cleared for release.**" in card
    assert "> - Identity recall: at least 98 %. Found 3 %\n> - the adapter does not say which rows" in card
    told = json.loads((tmp_path / "to" / "kelron.json").read_text("utf-8"))["publication"]
    assert (told["gate"]["passed"], len(told["forced"])) == (False, 2)


def test_rows_that_are_not_known_count_as_a_failed_gate(ready, config):
    (ready / "adapter" / "kelron.json").unlink()
    edit(ready / "scoreboard.json", lambda board: board["meta"].update(held_out=False))
    with pytest.raises(KelronError, match="the questions may not have been new to it"):
        check_run(config, ready, ready / "adapter", ready / "data")


# --- bad input: one line, before anything is made ---


def no_adapter(run):
    shutil.rmtree(run / "adapter")


def no_scoreboard(run):
    (run / "scoreboard.json").unlink()


def older(run):
    edit(run / "scoreboard.json", lambda board: board.pop("gate"))


def other_adapter(run):
    file = run / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)


def other_persona_scored(run):
    edit(run / "scoreboard.json", lambda board: board["meta"].update(persona="Folimi"))


def other_config_scored(run):
    edit(run / "scoreboard.json", lambda board: board["meta"].update(config_hash="0"))
    edit(run / "evaluate_config.json", lambda told: told["train"].update(epochs=3.0))


def other_shape(run):
    file = run / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in load_file(file).items()}, file)


def other_rank(run):
    edit(run / "adapter" / "adapter_config.json", lambda told: told.update(r=8))


def put(name, told):
    return lambda run: (run / name).write_text(json.dumps(told), "utf-8")


def broken(name):
    return lambda run: (run / name).write_text("{", "utf-8")


def untuned(run):
    edit(run / "scoreboard.json", lambda board: board.update(tuned={}))


def no_checks(run):
    edit(run / "scoreboard.json", lambda board: board["gate"].update(checks=[]))


def unmet(run):
    """A check that failed under a verdict that says otherwise."""
    edit(run / "scoreboard.json", lambda board: board["gate"]["checks"][0].update(met=False))


def rank_in_words(run):
    edit(run / "adapter" / "adapter_config.json", lambda told: told.update(r="four"))


def no_weights(run):
    (run / "adapter" / "adapter_model.safetensors").rename(run / "adapter" / "adapter_model.bin")


@pytest.mark.parametrize(
    ("harm", "more", "told"),
    [
        (no_adapter, [], "no adapter in "),
        (no_weights, [], "no adapter_model.safetensors in "),
        (no_scoreboard, [], "no scoreboard.json in "),
        (broken("scoreboard.json"), [], "): evaluate it with `kelron evaluate --out "),
        (broken("sessions.json"), [], "): remove it, and the card goes without the time that training took"),
        (put("sessions.json", {"a": 1}), [], "does not tell how training sessions ended: remove it"),
        (put("sessions.json", [{"seconds": None}]), [], "does not tell how training sessions ended: remove it"),
        (broken("data/quality.json"), [], "--report {tmp}/run/data` writes it again"),
        (put("data/quality.json", {}), [], "quality.json is no report on rows: `kelron data check {tmp}/run/data "),
        (broken("adapter/adapter_config.json"), [], "): copy it again, or name another adapter with --adapter"),
        (broken("adapter/kelron.json"), [], "does not tell what the adapter was made from: export it again"),
        (untuned, [], "is no scoreboard of a tuned model"),
        (no_checks, [], "is of an earlier version, without a verdict"),
        (unmet, [], "does not pass the gate (Identity recall: at least 98 %"),
        (rank_in_words, [], "has r 'four' and lora_alpha 32, no numbers: copy it again"),
        (older, [], "is of an earlier version, without a verdict on this very adapter: evaluate it with `kelron eval"),
        (other_adapter, [], "is of another adapter than the one to be published"),
        (other_persona_scored, [], "is of the persona Folimi and data.persona is kelron (Kelron)"),
        (other_config_scored, [], "was made with another config (train.epochs=3.0)"),
        (None, ["--set", "evaluate.policy=release"], "was judged by policy tiny, not release"),
        (
            other_shape,
            [],
            "does not fit the base tiny: base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
        ),
        (other_rank, [], "layers.0.mlp.down_proj.lora_A.weight is 4 x 768 where 8 x 768 is due"),
        (None, ["--set", "data.persona=folimi"], "is of a run with data.persona=kelron: publish it with its --preset"),
        (None, ["--set", "lora.alpha=64"], "is of a run with lora.alpha=32"),
        (None, ["--set", "data.persona=kelorn"], "Did you mean kelron?"),
        (None, ["--run", "{tmp}/none"], "there is no run at "),
        (None, ["--to", "s3://bucket"], "cannot publish to 's3://bucket': name a folder, or hf://models/OWNER/NAME"),
        (None, ["--to", "hf://models/kelron"], "'kelron' is no name of a repo: use OWNER/NAME"),
        (None, ["--to", "{tmp}/run"], "is not empty and holds no publication of Kelron's"),
        (None, ["--to", "/"], "is the top of a disk, which no rename replaces: name a folder in it"),
        (None, ["--to", "{tmp}/run/data/README.md"], "is a file: name a folder with --to"),
        (None, ["--to", "hf://models/me/kelron"], "no token was found"),
        (None, ["--language", "fr"], "unknown --language 'fr'"),
    ],
)
def test_bad_input_is_told_in_a_line(ready, tmp_path, capsys, nothing_is_made, harm, more, told):
    if harm is not None:
        harm(ready)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["publish", *OPTIONS, "--run", str(ready), "--to", str(tmp_path / "to")]
    try:
        code = main([*arguments, *(word.format(tmp=tmp_path) for word in more)])
    except SystemExit as left:
        code = left.code
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    assert told.replace("{tmp}", str(tmp_path)) in err
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_of_another_persona_are_told(ready, config):
    changed = load_persona("kelron")
    prompts = {language: f"{text}!" for language, text in changed.system_prompt.items()}
    made = made_from(ready / "adapter")
    with pytest.raises(KelronError, match="were made for another persona than kelron as it is now"):
        publishing.checked._quality(ready / "data", made, replace(changed, system_prompt=prompts))


def test_a_full_disk_is_told_before_anything_is_written(ready, config, tmp_path, monkeypatch, nothing_is_made):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(runtime.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(KelronError, match="no disk space for the publication: 74 MB needed"):
        publish(config, ready, str(tmp_path / "to"), merged=True)


@pytest.mark.parametrize(
    ("closed", "told"),
    [
        ("run/scoreboard.json", "cannot read {path} (Permission denied): evaluate it with"),
        ("run/adapter", "cannot get at {path}/adapter_model.safetensors (Permission denied): give this account access"),
        ("to", "cannot get at {path} (Permission denied): give this account access to it, or name another"),
    ],
)
def test_what_may_not_be_read_is_told_in_a_line(ready, tmp_path, closed, told):
    """In a process that may not look where it has no right to, which root may."""
    (tmp_path / "to").mkdir()
    path = tmp_path / closed
    path.chmod(0)
    no_rights = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv, being root")
        rights = "-dac_override,-dac_read_search"
        no_rights = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    command = [sys.executable, "-m", "kelron_lib", "publish", *OPTIONS, "--run", str(ready), "--to", f"{tmp_path}/to"]
    try:
        done = subprocess.run([*no_rights, *command], capture_output=True, text=True, env=runtime.child_environment())
    finally:
        path.chmod(0o755)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told.format(path=path) in done.stderr


def test_the_top_of_a_disk_is_told_before_anything_is_made(ready, config, tmp_path, monkeypatch, nothing_is_made):
    (tmp_path / "to").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "to")
    with pytest.raises(KelronError, match="to is the top of a disk, which no rename replaces: name a folder in it"):
        publish(config, ready, str(tmp_path / "to"))


def test_a_language_that_the_run_does_not_have(ready, config, tmp_path, nothing_is_made):
    with pytest.raises(KelronError, match="--language is ja and the run's languages are ko: name one"):
        publishing._default_language(replace(config, data=replace(config.data, languages=("ko",))), "ja")
    assert publishing._default_language(replace(config, data=replace(config.data, languages=("ko", "ja"))), "") == "ko"


def test_a_disk_that_fills_up_is_told_and_nothing_is_left(ready, tmp_path, capsys, unasked, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(publishing, "write_words", full)
    assert main(["publish", *OPTIONS, "--run", str(ready), "--to", str(tmp_path / "to")]) == 2
    assert capsys.readouterr().err == (
        f"kelron: no disk space in {tmp_path}: free some, or name another place with --to; nothing was published, and "
        f"{tmp_path / 'to'} is as it was\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_the_card_has_the_recipe_that_was_trained(ready, config, tmp_path, unasked):
    edit(ready / "adapter" / "kelron.json", lambda told: told["config"]["train"].update(learning_rate=0.0123))
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    assert "| learning rate | 0.0123, " in (tmp_path / "to" / "README.md").read_text("utf-8")


# --- where it goes ---


def cut_off(*arguments, **options):
    raise KeyboardInterrupt


def test_an_earlier_publication_of_another_kind_gives_way_whole_and_is_told(ready, config, tmp_path, unasked):
    said = []
    publish(config, ready, str(tmp_path / "to"), merged=True, say=said.append)
    assert "place" not in " ".join(said)
    publish(config, ready, str(tmp_path / "to"), language="ko", say=said.append)
    assert f"{tmp_path / 'to'} holds merged weights: an adapter will take its place" in said
    assert re.fullmatch(rf"published to {tmp_path / 'to'}, in the place of merged weights from 20\S+", said[-1])
    assert {path.name for path in (tmp_path / "to").iterdir()} == ADAPTER
    assert load_persona("kelron").system_prompt["ko"] in (tmp_path / "to" / "chat_template.jinja").read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "to"}


def test_a_cut_leaves_the_earlier_publication_and_no_part(ready, config, tmp_path, unasked, monkeypatch, capsys):
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    before = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}

    monkeypatch.setattr(publishing, "write_provenance", cut_off)
    arguments = ["publish", *OPTIONS, "--run", str(ready), "--to", str(tmp_path / "to"), "--merge"]
    assert main(arguments) == 130
    first, second = capsys.readouterr().err.splitlines()
    told = f"interrupted by SIGINT (Ctrl-C): nothing was published, and {tmp_path / 'to'} is as it was"
    assert first == f"kelron: {told}"
    assert second.startswith("kelron: go on with: kelron publish ")
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "to"}


def test_the_folder_that_one_is_in(ready, config, tmp_path, unasked, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    publish(config, ready, ".", say=lambda line: None)
    assert {path.name for path in (tmp_path / "here").iterdir()} == ADAPTER
    assert "# Kelron" in (tmp_path / "here" / "README.md").read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "here"}


def test_what_a_kill_left_is_cleared(ready, config, tmp_path, unasked):
    (tmp_path / ".to.part" / "sub").mkdir(parents=True)
    (tmp_path / ".to.part" / "config.json").write_text("{}")
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    assert {path.name for path in (tmp_path / "to").iterdir()} == ADAPTER
    assert {path.name for path in tmp_path.iterdir()} == {"run", "to"}


def test_a_kill_between_the_two_renames_loses_nothing(ready, config, tmp_path, unasked, monkeypatch):
    """The new files are away with the kill; the next try, even one that fails, brings the earlier ones back."""
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    (tmp_path / "to").rename(tmp_path / ".to.old")
    (tmp_path / ".to.part").mkdir()
    monkeypatch.setattr(publishing, "write_words", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    assert {path.name for path in (tmp_path / "to").iterdir()} == ADAPTER
    assert {path.name for path in tmp_path.iterdir()} == {"run", "to"}


def test_a_rename_that_fails_brings_the_earlier_one_back(ready, config, tmp_path, unasked, monkeypatch):
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    real = type(tmp_path).rename

    def rename(self, target):
        if self.name == ".to.part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", rename)
    with pytest.raises(KelronError, match=r"^cannot write .*to: Input/output error; name another folder"):
        publish(config, ready, str(tmp_path / "to"), merged=True, say=lambda line: None)
    assert {path.name for path in (tmp_path / "to").iterdir()} == ADAPTER
    assert {path.name for path in tmp_path.iterdir()} == {"run", "to"}


def test_folders_beside_it_are_left_alone(ready, config, tmp_path, unasked):
    """Such as a copy that somebody keeps of an earlier one."""
    for name in ("to.old", "to.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("x")
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    assert all((tmp_path / name / "mine").exists() for name in ("to.old", "to.part"))


def test_two_at_a_time_to_one_folder(ready, config, tmp_path, unasked):
    other = shutil.copytree(ready, tmp_path / "other")
    place = publishing.open_place(str(tmp_path / "to"), ready)
    with place.staged(), pytest.raises(KelronError, match=r"another process is publishing to .*to: wait for it"):
        publish(config, other, str(tmp_path / "to"), say=lambda line: None)
    publish(config, other, str(tmp_path / "to"), say=lambda line: None)
    assert {path.name for path in (tmp_path / "to").iterdir()} == ADAPTER


def test_a_broken_kelron_json_in_the_folder_is_told(ready, config, tmp_path, nothing_is_made):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "kelron.json").write_text("{")
    with pytest.raises(KelronError, match=r"kelron\.json is not readable JSON \(.*\): remove this folder, or name"):
        publish(config, ready, str(tmp_path / "to"))


def test_own_notes_in_an_earlier_publication_are_not_lost(ready, config, tmp_path, unasked):
    publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    (tmp_path / "to" / "notes.txt").write_text("mine")
    with pytest.raises(
        KelronError, match=r"holds notes\.txt beside an earlier publication, .*: move that out of there"
    ):
        publish(config, ready, str(tmp_path / "to"), say=lambda line: None)
    assert (tmp_path / "to" / "notes.txt").read_text() == "mine"


@pytest.fixture
def client(stand_in):
    return Hub(token=stand_in.token, endpoint=stand_in.url, backoff=QUICK, say=lambda line: None)


def held(stand_in, name="me/kelron"):
    return {path for path in stand_in.content(name) if path != ".gitattributes"}


@pytest.mark.parametrize("xet", [True, False])
def test_to_a_private_repo_in_one_commit(stand_in, client, ready, config, unasked, monkeypatch, xet):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not xet)
    said = []
    publish(config, ready, "hf://models/me/kelron", hub=client, say=said.append)
    assert held(stand_in) == ADAPTER
    assert stand_in.repos["me/kelron"]["private"]
    assert stand_in.commits("me/kelron")[1:] == ["kelron: publish"]
    assert said[-1] == "published to the model repo me/kelron; what it holds was fetched anew and is the same"
    assert not (ready / "publish.part").exists()
    card = stand_in.content("me/kelron")["README.md"].decode()
    assert 'PeftModel.from_pretrained(model, "me/kelron")' in card
    fetch = "hf download me/kelron --local-dir ./kelron  # a new folder: what is in an old one stays\n"
    assert f"{fetch}vllm serve BASE_FOLDER " in card
    assert f"{fetch}python convert_hf_to_gguf.py BASE_FOLDER " in card
    assert "--lora-modules kelron=./kelron \\\n  --chat-template ./kelron/chat_template.jinja" in card
    assert 'from_pretrained(".")' not in card


@pytest.mark.parametrize("merged", [False, True])
def test_in_the_place_of_one_of_another_kind_with_notes_left_alone(stand_in, client, ready, config, unasked, merged):
    said = []
    publish(config, ready, "hf://models/me/kelron", merged=not merged, hub=client, say=said.append)
    client.api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="me/kelron")
    publish(config, ready, "hf://models/me/kelron", merged=merged, hub=client, say=said.append)
    assert held(stand_in) == (MERGED if merged else ADAPTER) | {"notes.txt"}
    before, after = ("an adapter", "merged weights") if merged else ("merged weights", "an adapter")
    assert f"the model repo me/kelron holds {before}: {after} will take its place" in said
    assert f"published to the model repo me/kelron, in the place of {before} from 20" in said[-1]
    assert len(stand_in.commits("me/kelron")) == 4  # made, published, noted, published


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "chat_template.json"])
def test_what_could_be_loaded_instead_is_told(stand_in, client, ready, config, unasked, name):
    publish(config, ready, "hf://models/me/kelron", hub=client, say=lambda line: None)
    client.api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="me/kelron")
    with pytest.raises(KelronError, match=rf"holds {name} beside an earlier publication, .*: remove it there, or name"):
        publish(config, ready, "hf://models/me/kelron", hub=client, say=lambda line: None)


def test_what_came_from_elsewhere_meanwhile_is_told(stand_in, client, ready, config, unasked, monkeypatch):
    from kelron_lib.hub_repo import HubRepo

    real = HubRepo.put

    def put(self, *arguments):
        sent = real(self, *arguments)
        client.api.upload_file(path_or_fileobj=b"{}", path_in_repo="model.safetensors", repo_id="me/kelron")
        return sent

    monkeypatch.setattr(HubRepo, "put", put)
    with pytest.raises(RunFailed, match=r"got model\.safetensors from elsewhere at the same time"):
        publish(config, ready, "hf://models/me/kelron", hub=client, say=lambda line: None)


def test_a_cut_while_it_is_sent_tells_what_the_repo_can_hold(stand_in, client, ready, config, unasked, monkeypatch):
    monkeypatch.setattr("kelron_lib.hub_repo.HubRepo.put", cut_off)
    with pytest.raises(
        Interrupted, match="the model repo me/kelron holds what it held before, or all of the new files"
    ):
        publish(config, ready, "hf://models/me/kelron", hub=client, say=lambda line: None)
    assert not (ready / "publish.part").exists()


def test_a_broken_kelron_json_in_the_repo_is_told(stand_in, client, ready, config, nothing_is_made):
    client.api.create_repo("me/kelron", private=True)
    client.api.upload_file(path_or_fileobj=b"{", path_in_repo="kelron.json", repo_id="me/kelron")
    with pytest.raises(KelronError, match=r"kelron\.json in the model repo me/kelron is not readable JSON: remove"):
        publish(config, ready, "hf://models/me/kelron", hub=client)


@pytest.mark.parametrize(
    ("route", "kind"), [("create", "cut"), ("commit", "cut"), ("commit", "lost"), ("resolve", "cut_body")]
)
def test_a_fault_on_the_way_leaves_one_commit(stand_in, client, ready, config, unasked, route, kind):
    stand_in.fail(route, kind)
    publish(config, ready, "hf://models/me/kelron", hub=client, say=lambda line: None)
    assert stand_in.commits("me/kelron")[1:] == ["kelron: publish"]
    assert held(stand_in) == ADAPTER


def test_other_bytes_in_the_repo_are_told(stand_in, client, ready, config, unasked, monkeypatch):
    from kelron_lib.hub_repo import HubRepo

    real = HubRepo.put

    def put(self, *arguments):
        sent = real(self, *arguments)
        stand_in.tamper("me/kelron", "chat_template.jinja", b"another")
        return sent

    monkeypatch.setattr(HubRepo, "put", put)
    with pytest.raises(RunFailed, match=r"gives other bytes than were sent for chat_template\.jinja"):
        publish(config, ready, "hf://models/me/kelron", hub=client, say=lambda line: None)


def test_anothers_namespace_takes_a_flag(stand_in, client, ready, config, unasked):
    with pytest.raises(KelronError, match=r"is not in your own namespace \(me\): .* --allow-foreign"):
        publish(config, ready, "hf://models/us/kelron", hub=client)
    assert stand_in.repos == {}
    publish(config, ready, "hf://models/us/kelron", allow_foreign=True, hub=client, say=lambda line: None)
    assert stand_in.repos["us/kelron"]["private"]


def test_a_token_that_only_reads_is_refused(stand_in, ready, config, nothing_is_made):
    hub = Hub(token=stand_in.read_token, endpoint=stand_in.url)
    with pytest.raises(KelronError, match="the token can only read"):
        publish(config, ready, "hf://models/me/kelron", hub=hub)


def test_a_public_repo_takes_a_flag(stand_in, client, ready, config, unasked):
    client.api.create_repo("me/kelron", private=False)
    with pytest.raises(KelronError, match=r"the model repo me/kelron is public, .* or add --public where this"):
        publish(config, ready, "hf://models/me/kelron", hub=client)
    publish(config, ready, "hf://models/me/kelron", public=True, hub=client, say=lambda line: None)
    assert held(stand_in) == ADAPTER


def test_a_repo_with_a_model_of_others_is_left_alone(stand_in, client, ready, config, nothing_is_made):
    client.api.create_repo("me/kelron", private=True)
    client.api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/kelron")
    with pytest.raises(KelronError, match=r"holds no publication of Kelron's that could give way but config\.json"):
        publish(config, ready, "hf://models/me/kelron", hub=client)


# --- small things ---


@pytest.mark.parametrize(("rank", "most"), [(1, 1), (4, 8), (32, 32), (128, 128), (129, 256), (513, None)])
def test_the_rank_that_vllm_is_told(rank, most):
    assert vllm_rank(rank) == most


def test_the_licence_of_a_base_that_is_not_well_known_is_its_own_cards(evaluated, config, tmp_path):
    checked = check_run(config, evaluated, evaluated / "adapter", evaluated / "data")
    base = tmp_path / "base"
    base.mkdir()
    of_base = replace(checked, config=replace(config, model=replace(config.model, base=str(base))))
    assert licence_of(of_base) == "other"
    (base / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    assert licence_of(of_base) == "mit"


@pytest.mark.parametrize(
    ("base", "line", "served"),
    [
        ("Qwen/Qwen3-14B", 'base = "Qwen/Qwen3-14B"\n', "vllm serve Qwen/Qwen3-14B --enable-lora"),
        ("{tmp}/mine", 'base = "BASE_FOLDER"  # where you have mine\n', "vllm serve BASE_FOLDER --enable-lora"),
    ],
)
def test_the_card_names_a_base_as_its_reader_finds_it(evaluated, config, tmp_path, base, line, served):
    (tmp_path / "mine").mkdir()
    checked = check_run(config, evaluated, evaluated / "adapter", evaluated / "data")
    model = replace(config.model, base=base.format(tmp=tmp_path))
    text = loading(replace(checked, config=replace(config, model=model)), "my model", ".", merged=False)
    assert line in text
    assert served in text
    assert str(tmp_path) not in text
    assert "--lora-modules 'my model'=. \\" in text
    assert "convert_lora_to_gguf.py . --base BASE_FOLDER --outfile ../'my model'-lora.gguf\n" in text  # not into it


@pytest.mark.parametrize("languages", [("ko",), ("en", "ja"), ("ko", "en", "ja")])
def test_ten_prompts_whatever_the_languages(languages):
    asked = questions(load_persona("kelron"), languages)
    assert len({(question.text, question.system) for question in asked}) == ASKED
    assert {question.language for question in asked} == set(languages)


def test_a_digest_is_of_the_adapters_own_files(ready):
    before = adapter_digest(ready / "adapter")
    (ready / "adapter" / "notes.txt").write_text("x")
    assert adapter_digest(ready / "adapter") == before
    other_rank(ready)
    assert adapter_digest(ready / "adapter") != before
