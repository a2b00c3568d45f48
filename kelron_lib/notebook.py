"""What a notebook looks at before its work, and what it says of the run: in short, how it went, what to do next.

What to do is said in English and in Korean; the two say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from kelron_lib.chat import close_chats
from kelron_lib.config import RunConfig, as_overrides, differing, load_preset, resolve, to_dict, to_json
from kelron_lib.dataset import SEAL, holds_dataset
from kelron_lib.errors import KelronError
from kelron_lib.evaluate.tables import verdict_line
from kelron_lib.kaggle_session import attach
from kelron_lib.model import base_name, require_device
from kelron_lib.page import LANGUAGE_NAMES, text
from kelron_lib.preflight.bases import needs_hub
from kelron_lib.preflight.checks import OK, check_network
from kelron_lib.preflight.report import next_steps
from kelron_lib.preflight.run import Report
from kelron_lib.runtime import duration, kaggle_root, on_kaggle
from kelron_lib.session import STATUS_FILE, EarlierStatus, Status, read_status
from kelron_lib.store import FolderStore
from kelron_lib.stores import store_folder, store_url
from kelron_lib.verify import step_folders

STEPS = ("preflight", "data", "train", "resume", "evaluate")
"""What the five notebooks do, in their order."""
USE_THE_BASE = ("train", "resume", "evaluate")
BRING_A_STORE = ("train", "resume")


# --- Before the work --------------------------------------------------------------------------------------
def prepare(
    step: str, *, preset: str, run: str, overrides: Sequence[str], **others: bool | Sequence[str]
) -> tuple[RunConfig, Path]:
    """The config and the run's folder, once all that the notebook of `step` needs is found to be there.

    The parameters are those of the notebook's cell, `others` those that only some notebooks have. Brings what is
    attached to a Kaggle session. Raises KelronError, with what to do, where a parameter is of the wrong kind, the
    machine lacks the GPU or the base cannot be had, and where an earlier step's results are missing.
    """
    _require_kinds(preset, run, overrides, others)
    config, folder = resolve(preset, overrides), Path(run)
    kept = kaggle_root() / "working"
    if on_kaggle() and not folder.absolute().is_relative_to(kept):
        print(f"RUN is {run}: Kaggle keeps only what lies in {kept}, and this goes with the session")
    if step in USE_THE_BASE:
        close_chats()  # one of an earlier run of the notebook still holds its model
        _require_machine(config)
    attach(config, folder, store=step in BRING_A_STORE, results=step == "evaluate")
    if step in USE_THE_BASE:
        _require_base(config)
    if needed := {"train": _require_rows, "resume": _require_checkpoint, "evaluate": _require_adapter}.get(step):
        needed(config, folder)
    return config, folder


def _require_kinds(preset: Any, run: Any, overrides: Any, others: Mapping[str, Any]) -> None:
    for name, value in (("PRESET", preset), ("RUN", run)):
        if not isinstance(value, str) or not value.strip():
            raise KelronError(f'{name} is {value!r}: write a text in quotes, such as {name} = "{_EXAMPLES[name]}"')
    for name, value in (("OVERRIDES", overrides), *((name.upper(), value) for name, value in others.items())):
        listed = name in ("OVERRIDES", "ACCEPT_CHANGES")
        if listed and not (isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)):
            raise KelronError(f"{name} is {value!r}: write a list of texts, such as {name} = {_EXAMPLES[name]}")
        if not listed and not isinstance(value, bool):
            raise KelronError(f"{name} is {value!r}: write True or False, without quotes")


_EXAMPLES = {
    "PRESET": "kelron-14b-t4x2",
    "RUN": "runs/kelron",
    "OVERRIDES": '["train.epochs=2"]',
    "ACCEPT_CHANGES": '["train.learning_rate"]',
}


def _require_machine(config: RunConfig) -> None:
    try:
        require_device(config)
    except KelronError:
        where = "in the notebook's settings choose the accelerator GPU T4 x2" if on_kaggle() else "run it on a GPU"
        raise KelronError(
            f'there is no GPU here, and {config.preset} needs one: {where}, or set PRESET = "tiny-cpu" to try '
            "everything on a CPU"
        ) from None


def _require_base(config: RunConfig) -> None:
    """A download that cannot begin is told here, not after the rows are read and processes started."""
    if not needs_hub(config, random_weights=False):
        return
    check = check_network(["the base"])
    if check.state != OK:
        attached = ", or attach the model to the notebook (Add Input, Models)" if on_kaggle() else ""
        raise KelronError(f"{check.found}: {check.fix}{attached}")


def _require_rows(config: RunConfig, run: Path) -> None:
    store = store_folder(config, run)
    if holds_dataset(run / "data") or store is None or (store / SEAL).is_file():
        return
    raise KelronError(
        f"no dataset at {run / 'data'}, and none in the store {store}: run 01_data_prep with the same RUN"
        f"{_attached('the output of 01_data_prep')}"
    )


def _require_checkpoint(config: RunConfig, run: Path) -> None:
    store = store_folder(config, run)
    if store is None or (store.is_dir() and step_folders(FolderStore(store))):
        return
    raise KelronError(
        f"no checkpoint at {store} to go on from: run 02_train first, with the same RUN"
        f"{_attached('the output of the last training session')}"
    )


def _require_adapter(config: RunConfig, run: Path) -> None:
    if (run / "adapter" / "adapter_config.json").is_file():
        return
    if (run / STATUS_FILE).is_file() and (status := read_status(run)).state != "finished":
        raise KelronError(
            f"the run at {run} is not finished ({status.state}, step {status.step} of {status.total_steps}), so there "
            "is no adapter yet: run 03_resume until it is"
        )
    raise KelronError(
        f"no adapter at {run / 'adapter'}: run 02_train, and 03_resume until the state is finished, with the same RUN"
        f"{_attached('the output of the session that finished')}"
    )


def _attached(what: str) -> str:
    return f", or attach {what} to this notebook (Add Input, Your Work)" if on_kaggle() else ""


# --- The run in short -------------------------------------------------------------------------------------
def run_summary(config: RunConfig, run: Path) -> str:
    """What matters of a config, a line each; what the overrides changed in the preset comes last."""
    data, train, session, lora = config.data, config.train, config.session, config.lora
    languages = ", ".join(LANGUAGE_NAMES.get(language, language) for language in data.languages)
    rows = (
        ("preset", f"{config.preset}, in {run}"),
        ("base", f"{base_name(config) if config.model.base != 'tiny' else 'the packaged tiny base'}, in 4 bits"),
        ("adapter", f"LoRA r={lora.r}, alpha={lora.alpha:g}, dropout {lora.dropout:g}"),
        ("data", f"persona {data.persona}, {data.rows:,} rows of the {data.seeds} seeds: {languages}"),
        (
            "training",
            f"{train.epochs:g} epochs, learning rate {train.learning_rate:g}, a checkpoint every {train.save_steps} "
            f"steps, a validation every {train.eval_steps}",
        ),
        (
            "session",
            f"{duration(session.budget_seconds)} from its start, {duration(session.reserve_seconds)} of it kept for "
            "the last checkpoint",
        ),
        ("store", store_url(config, run)),
        ("changed", ", ".join(_changed(config)) or "nothing of the preset"),
    )
    return _aligned(rows)


def _changed(config: RunConfig) -> list[str]:
    before, now = to_dict(load_preset(config.preset)), to_dict(config)
    sections = [name for name, value in now.items() if isinstance(value, dict)]
    return as_overrides({key: values[1] for key, values in differing(before, now, sections).items()})


def _aligned(rows: Iterable[tuple[str, str]]) -> str:
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in listed)


@dataclass(frozen=True, repr=False)
class Folded:
    """A long text that a notebook's page holds behind a click; anywhere else only its title is shown."""

    title: str
    body: str

    def __repr__(self) -> str:
        return self.title

    def _repr_html_(self) -> str:
        return f"<details><summary>{text(self.title)}</summary><pre>{text(self.body)}</pre></details>"


def folded_config(config: RunConfig) -> Folded:
    """The whole resolved config, as it is saved beside every result."""
    return Folded("The whole config · 전체 설정", to_json(config))


# --- How it went, and what to do next ---------------------------------------------------------------------
MEANINGS = {
    "finished": "the run is done",
    "budget": "the session's time is used, the run goes on in the next one",
    "stopped": "it was asked to end, the run goes on in the next one",
    "failed": "it ended by an error",
}


def status_table(status: Status) -> str:
    """How a training session ended, a line each."""
    of_all = f" of {status.total_steps} ({status.step / status.total_steps:.0%})" if status.total_steps else ""
    return _aligned(
        (
            ("state", f"{status.state}: {MEANINGS.get(status.state, 'unknown')}"),
            ("steps", f"from {status.first_step} to {status.step}{of_all}"),
            ("took", duration(status.seconds)),
            ("why", status.reason),
        )
    )


def after_preflight(report: Report) -> str:
    """What to do with what the preflight found: what is missing first, or the way through the notebooks."""
    if report.failed:
        return f"{next_steps(report)}아직 준비되지 않았습니다. 위의 항목부터 해결하고 이 노트북을 다시 실행하세요."
    sessions = report.probe.projection.sessions if report.probe else 1
    later = f" 그다음 세션부터 03_resume을 {sessions - 1}번 실행하세요." if sessions > 1 else ""
    cautions = ", ".join(check.name for check in report.checks if check.state != OK)
    seen = f" 경고도 확인하세요 ({cautions})." if cautions else ""
    return f"{next_steps(report)}준비 완료: 이 세션에서 01_data_prep, 02_train을 차례로 실행하세요.{later}{seen}"


def after_data(quality: Mapping[str, Any], run: Path) -> str:
    """What to do once the dataset is made, by the quality gate's verdict."""
    page = run / "data" / "quality.html"
    if quality["verdict"] == "pass":
        return _next(
            "02_train (on Kaggle: attach this notebook's output).",
            "02_train을 실행하세요 (Kaggle: 이 노트북의 출력을 첨부)",
        )
    return _next(
        f"look at the findings above ({page} shows them with rows). If they are acceptable, 02_train; else change data "
        "or OVERRIDES, set REPLACE = True and run this notebook again.",
        f"위의 지적 사항을 먼저 확인하세요 ({page}에서 해당 행을 볼 수 있습니다). 괜찮으면 02_train으로 넘어가고, "
        "아니면 데이터나 OVERRIDES를 고친 뒤 REPLACE = True로 다시 실행하세요",
    )


def after_training(run: Path, earlier: EarlierStatus) -> str:
    """What to do after a training session, by the status that it left; also where its cell ended with an error.

    `earlier`: taken before the session began; where that status is there still, the session was refused.
    """
    if earlier.still_there():
        before = read_status(run)
        return _next(
            f"this session was refused, and {run / STATUS_FILE} is of the one before it ({before.state}, step "
            f"{before.step}). Do what the error above says, then run this notebook again.",
            f"이번 세션은 시작되지 않았고, {run / STATUS_FILE}의 내용은 이전 세션의 것입니다 ({before.state}, "
            f"{before.step} 스텝). 위 오류 메시지대로 고친 뒤 이 노트북을 다시 실행하세요",
        )
    if not (run / STATUS_FILE).is_file():
        return _next(
            f"no session has ended in {run}. Do what the error above says, then run this notebook again.",
            f"{run}에서 끝난 세션이 없습니다. 위 오류 메시지대로 고친 뒤 이 노트북을 다시 실행하세요",
        )
    status = read_status(run)
    if status.state == "finished":
        return _next(
            f"04_evaluate; the adapter is in {run / 'adapter'} (on Kaggle: attach this notebook's output).",
            f"04_evaluate를 실행하세요. 어댑터는 {run / 'adapter'}에 있습니다 (Kaggle: 이 노트북의 출력을 첨부)",
        )
    if status.state == "failed":
        again = "03_resume" if status.step else "02_train"
        return _next(
            f"the session failed: {status.reason}. Put that right, then {again}; what is kept in the store: step "
            f"{status.step}.",
            f"세션이 실패했습니다: {status.reason}. 원인을 해결한 뒤 {again}을 실행하세요 (저장소에 남은 체크포인트: "
            f"{status.step} 스텝)",
        )
    if not status.step:
        return _next(
            "no step was done in this session's time. Start a new session and run 02_train first thing in it.",
            "세션 시간 안에 한 스텝도 끝나지 않았습니다. 새 세션을 시작해 곧바로 02_train을 실행하세요",
        )
    left = _sessions_left(status)
    more = f", about {left} more {'session' if left == 1 else 'sessions'} at this speed" if left else ""
    more_korean = f". 이 속도라면 앞으로 약 {left}번 더 실행하면 됩니다" if left else ""
    return _next(
        f"03_resume in the next session{more} (on Kaggle: attach this notebook's output, unless the store is on the "
        "Hub).",
        "다음 세션에서 03_resume을 실행하세요 (Kaggle: 저장소가 Hub에 있지 않다면 이 노트북의 출력을 "
        f"첨부){more_korean}",
    )


def _sessions_left(status: Status) -> int:
    """Further sessions that do as many steps as this one; 0 where it did none."""
    done = status.step - status.first_step
    return ceil((status.total_steps - status.step) / done) if done > 0 else 0


def after_evaluation(scoreboard: Mapping[str, Any], run: Path) -> str:
    """What to do with the scoreboard, by whether its policy is passed."""
    gate, report = scoreboard.get("gate"), run / "report.html"
    if gate and gate["passed"] and gate.get("first_look"):
        return f"{verdict_line(gate)}\n" + _next(
            "talk to it in the chat above; before `kelron publish`, evaluate it by the policy release with as many "
            "prompts as that takes (docs/evaluation.md).",
            "위 채팅에서 직접 대화해 보세요. `kelron publish`로 공개하기 전에 release 정책과 그에 필요한 질문 수로 "
            "다시 평가하세요 (docs/evaluation.md)",
        )
    if gate and gate["passed"]:
        return f"{verdict_line(gate)}\n" + _next(
            "talk to it in the chat above, then `kelron publish` (docs/publishing.md).",
            "위 채팅에서 직접 대화해 본 뒤 `kelron publish`로 공개하세요 (docs/publishing.md)",
        )
    told = f"{verdict_line(gate)}\n" if gate else ""
    return told + _next(
        f"see in {report} which answers fail, and try such questions in the chat above. Then change the data "
        "(01_data_prep) or the training (02_train) under another RUN, and compare.",
        f"{report}에서 어떤 답변이 실패했는지 확인하고 위 채팅에서 비슷한 질문을 해 보세요. 그다음 RUN을 새 이름으로 "
        "바꿔 데이터(01_data_prep)나 학습(02_train)을 조정하고 결과를 비교하세요",
    )


def _next(english: str, korean: str) -> str:
    return f"Next: {english}\n다음: {korean}."
